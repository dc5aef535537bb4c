"""Where VMs are, and whose that place has to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bhyveload.errors import VmStorageError
from bhyveload.vm import directory
from bhyveload.vm.directory import default_directory, list_machines, prepare_directory


def test_default_directory(monkeypatch: pytest.MonkeyPatch, vmm_directory: Path) -> None:
    monkeypatch.setattr(directory, "DEV_VMM", "/nonexistent")
    assert prepare_directory() == str(vmm_directory)
    assert vmm_directory.stat().st_mode & 0o777 == 0o700
    for empty in ("", None):
        if empty is None:
            monkeypatch.delenv("BHYVE_VMM_DIR")
        else:
            monkeypatch.setenv("BHYVE_VMM_DIR", empty)
        assert default_directory() == f"/dev/shm/vmm-{os.geteuid()}"


def test_dev_vmm_is_roots_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where root has made it: its VMs' managers look there."""
    monkeypatch.delenv("BHYVE_VMM_DIR")
    monkeypatch.setattr(directory, "DEV_VMM", str(tmp_path / "dev-vmm"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_directory() == "/dev/shm/vmm-0"
    (tmp_path / "real").mkdir()
    (tmp_path / "dev-vmm").symlink_to(tmp_path / "real")
    assert default_directory() == str(tmp_path / "real")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_directory() == "/dev/shm/vmm-1000"


def test_directories_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(VmStorageError, match="symbolic link"):
        list_machines(str(link))
    real.chmod(0o777)
    with pytest.raises(VmStorageError, match="everybody may write"):
        list_machines(str(real))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(VmStorageError):
        list_machines(str(file))
    with pytest.raises(VmStorageError):
        list_machines(str(file / "below"))
    real.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(VmStorageError, match=f"belongs to user {os.getuid()}") as error:
        list_machines(str(real))
    assert error.value.hint == "point BHYVE_VMM_DIR to a directory of your own"  # no chmod helps
