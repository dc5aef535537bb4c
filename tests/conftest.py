"""What every test gets: a VM directory of its own, so that no test touches the user's VMs; and a guest to load."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.register_assert_rewrite("support.end_to_end")

# makefs, sgdisk and others are where PATH of Debian's ordinary users does not lead; make setup looks there, too.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors (pyproject.toml), but for one that the workers of pytest-xdist would bring: each has a second
    thread that reads from the controller, and Python 3.12 and later warn of fork(2) then.  That no thread is ours is
    seen without it (test_a_load_forks_from_one_thread)."""
    # A shell starts what runs in the background with these ignored, and programs keep that.
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:
        config.addinivalue_line("filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def vmm_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """$BHYVE_VMM_DIR for this test."""
    path = tmp_path / "vmm"
    monkeypatch.setenv("BHYVE_VMM_DIR", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
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
    from support.end_to_end import make_disk

    return make_disk(tmp_path_factory.mktemp("disk"), probe_kernel)
