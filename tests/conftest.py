"""What every test gets: a VM directory of its own, so that no test touches the user's VMs."""

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
