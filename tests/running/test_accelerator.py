"""KVM or not, and why: in words that say what to do."""

from __future__ import annotations

import os

import pytest

from bhyveload.running import accelerator


@pytest.fixture
def no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "kvm_runs_kernels", lambda: False)


def test_what_was_asked_for_is_taken(no_kvm: None) -> None:
    assert accelerator.choose("kvm") == ("kvm", "")
    assert accelerator.choose("tcg") == ("tcg", "")


def test_kvm_where_it_runs_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "kvm_runs_kernels", lambda: True)
    assert accelerator.choose("auto") == ("kvm", "the guest runs on KVM")


@pytest.mark.parametrize(
    ("there", "allowed", "why"),
    [
        (False, False, "this host has no /dev/kvm"),
        (True, False, "no permission for /dev/kvm: add yourself to the group kvm"),
        (True, True, "it does not run a kernel at a processor's speed here (nested, or emulated)"),
    ],
)
def test_why_not(no_kvm: None, monkeypatch: pytest.MonkeyPatch, there: bool, allowed: bool, why: str) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: there)
    monkeypatch.setattr(os, "access", lambda path, mode: allowed)
    assert accelerator.choose("auto") == (
        "tcg",
        f"the guest runs on QEMU's translator (slow), not on KVM: {why}",
    )
