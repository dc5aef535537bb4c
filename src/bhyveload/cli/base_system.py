"""On FreeBSD our bhyve, bhyvectl and bhyverun only name the base system's programs, which know vmm(4)'s VMs."""

from __future__ import annotations

import sys

from bhyveload.errors import HostError


def refer(program: str, base: str) -> None:
    """Raises HostError on FreeBSD: ``program`` is for other hosts, ``base`` is its own."""
    if sys.platform.startswith("freebsd"):
        raise HostError(
            f"{program} of bhyveload is for hosts without vmm(4)", f"FreeBSD's own {base} runs and manages its VMs"
        )
