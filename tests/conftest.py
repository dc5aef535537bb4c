"""What every test gets: a VM directory of its own, so that no test touches the user's VMs; and a guest to load."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("end_to_end")


@pytest.fixture(autouse=True)
def vmm_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$BHYVE_VMM_DIR for this test."""
    path = tmp_path / "vmm"
    monkeypatch.setenv("BHYVE_VMM_DIR", str(path))
    return path


@pytest.fixture(scope="session")
def probe_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The probe guest (guest/probe.c)."""
    from guest.build import build_probe, missing_tools

    if missing_tools():
        pytest.skip(f"{missing_tools()} not installed: the probe guest cannot be built")
    return build_probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def probe_disk(tmp_path_factory: pytest.TempPathFactory, probe_kernel: Path) -> Path:
    """A GPT disk with the probe guest as /boot/kernel/kernel and a text as /boot/data on a UFS2.  Not to be written."""
    from end_to_end import make_disk

    return make_disk(tmp_path_factory.mktemp("disk"), probe_kernel)
