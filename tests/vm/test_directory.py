"""Where VMs are, and whose that place has to be."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bhyveload.errors import VmStorageError
from bhyveload.new_file import private_folder
from bhyveload.vm import directory
from bhyveload.vm.directory import default_directory, list_machines, prepare_directory
from support.end_to_end import PROGRAMS


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


def test_the_umask_takes_nothing_from_us(probe_disk: Path, vmm_directory: Path) -> None:
    """What is ours alone must stay ours: a folder of mode 0000 could not even be destroyed."""
    script = 'umask 777; exec "$@"'
    words = [str(PROGRAMS / "bhyveload"), "--batch", "-m", "64M", "-d", str(probe_disk), "vm"]
    subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, check=True)
    modes = {path: path.stat().st_mode & 0o777 for path in (vmm_directory, *vmm_directory.rglob("*"))}
    assert len(modes) == 5, modes
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items()), modes


def test_a_folder_that_is_private(tmp_path: Path) -> None:
    private_folder(str(tmp_path / "a" / "b"), exist_ok=True)
    private_folder(str(tmp_path / "a" / "b"), exist_ok=True)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        private_folder(str(tmp_path / "a" / "b"))
    with pytest.raises(FileNotFoundError):
        private_folder(str(tmp_path / "c" / "d"))
