"""KVM or QEMU's translator, and why."""

from __future__ import annotations

import os

from bhyveload.handoff.kvm_probe import kvm_runs_kernels

_KVM = "/dev/kvm"


def choose(asked: str) -> tuple[str, str]:
    """("kvm" or "tcg", a sentence that says so or ""): what ``asked`` ("auto", "kvm", "tcg") comes to here."""
    if asked != "auto":
        return asked, ""
    if kvm_runs_kernels():
        return "kvm", "the guest runs on KVM"
    return "tcg", f"the guest runs on QEMU's translator (slow), not on KVM: {_why_not()}"


def _why_not() -> str:
    if not os.path.exists(_KVM):
        return f"this host has no {_KVM}"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return f"no permission for {_KVM}: add yourself to the group kvm"
    return "it does not run a kernel at a processor's speed here (nested, or emulated)"
