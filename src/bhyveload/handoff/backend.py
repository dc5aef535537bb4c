"""The seam between a loaded VM and what runs it: a back end makes a running session out of a VM and options.

For type checkers only: nothing imports this at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from bhyveload.handoff.console import GuestConsole
from bhyveload.handoff.loop import Loop
from bhyveload.handoff.machine import LoadedMachine
from bhyveload.handoff.outcome import RunResult

Options_contra = TypeVar("Options_contra", contravariant=True)


class Session(Protocol):
    """A running guest.  All but ``wait`` may be called from a signal handler."""

    @property
    def pid(self) -> int:
        """The hypervisor's process."""
        ...

    @property
    def loop(self) -> Loop:
        """What ``wait`` waits for; others may have it watch theirs."""
        ...

    @property
    def console(self) -> GuestConsole:
        """The guest's console."""
        ...

    def on_running(self, call: Callable[[], None] | None) -> None:
        """Have ``call`` called once the guest runs.  Before ``wait``."""
        ...

    def on_ready(self, call: Callable[[], None] | None) -> None:
        """Have ``call`` called once the guest runs, or waits for somebody who is to let it: a debugger, a viewer.
        Before ``wait``."""
        ...

    @property
    def over(self) -> bool:
        """Whether the run has ended; ``wait`` then returns at once."""
        ...

    def turn(self, seconds: float) -> None:
        """Let the run go on until something has happened, ``seconds`` at most.  For those who do not ``wait``."""
        ...

    def wait(self, timeout: float | None = None) -> RunResult:
        """Until the guest ends, at most ``timeout`` seconds from its start.

        Raises HandoffError: the hypervisor itself failed.
        """
        ...

    def power_button(self, unheard: Callable[[], None] | None = None) -> None:
        """Ask the guest to power off (ACPI), as SIGTERM asks bhyve(8).  ``unheard`` is called when it does not listen
        for the button."""
        ...

    def dump(self, fd: int, told: Callable[[str], None]) -> bool:
        """Write an ELF core of guest memory to ``fd``; ``told`` is called at the end, with the reason of a failure or
        "".  The guest stands still meanwhile.  False: not now."""
        ...

    def reset(self) -> None:
        """Reset the machine: the run ends as rebooted."""
        ...

    def inject_nmi(self) -> None:
        """A non-maskable interrupt for every processor: a kernel enters its debugger, or panics, as it is set."""
        ...

    def power_off(self) -> None:
        """Switch the machine off: the run ends as powered off."""
        ...

    def stop(self, outcome: str = ...) -> None:
        """Pull the plug; the run ends with ``outcome``, by default as stopped."""
        ...

    def close(self) -> None:
        """Make sure that nothing of it is left.  Calling it again does nothing."""
        ...


class Backend(Protocol[Options_contra]):
    """Something that runs loaded VMs."""

    def start(self, vm: LoadedMachine, options: Options_contra) -> Session:
        """Run ``vm``.  Nobody listens to its console yet.  Raises HandoffError, VmNotLoaded."""
        ...

    def command(
        self, vm: LoadedMachine, options: Options_contra, kernel: str, *, whole_image: bool = False
    ) -> list[str]:
        """The command that would run it with the PVH image ``kernel``.  Raises HandoffError, VmNotLoaded."""
        ...
