"""Load the same disks with the built-in loader and with a userboot object of FreeBSD, and compare the two guests.

Both loads see the same variables, the same keys (`boot` at a prompt), and disks that keep nothing of what they write.
The built-in loader runs as it does without --batch: both boot by their countdown, which is set to none, for what
--batch puts back before a guest starts a userboot object leaves in the environment.
"""

from __future__ import annotations

import os

from bhyveload.api import load
from bhyveload.errors import BhyveloadError, LoaderError, UsageError
from bhyveload.loader.state import Options
from bhyveload.userboot.cross_check import LoadedState, compare, is_reordered
from bhyveload.userboot.search import Loaders, default_directories
from bhyveload.userboot.session import BOOT
from bhyveload.userboot.vintage import behaviour
from bhyveload.vm.registers import Registers
from bhyveload.vm.scratch import ScratchMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.compat import LoaderVersion
    from bhyveload.confined.deadline import Deadline
    from bhyveload.device import Device
    from bhyveload.host.interface import HostDirectory
    from bhyveload.report import LoadReport
    from bhyveload.sandbox import Sandbox

BUILT_IN = "the built-in loader"
EXIT_DIFFERENT = 3  # bhyveload --cross-check: the guests differ
VARIABLES = ("autoboot_delay=-1", "beastie_disable=YES")


class CrossCheck:
    """``differences``: a line each, none when the guests are the same, also where ``reordered`` says that
    modules were loaded in another order only; ``reports``: the built-in loader's, then the object's."""

    __slots__ = ("differences", "reordered", "reports")

    def __init__(self, differences: list[str], reports: tuple[LoadReport, LoadReport], reordered: bool = False) -> None:
        self.differences = differences
        self.reordered = reordered
        self.reports = reports


def cross_check(
    memory_size: int,
    disks: Sequence[Device] = (),
    environment: Sequence[str | bytes] = (),
    *,
    loaders: Loaders | None = None,
    host_directory: HostDirectory | None = None,
    keys: bytes | None = None,
    compat: LoaderVersion | None = None,
    sandbox: Sandbox | bool = True,
    timeout: float | Deadline | None = None,
) -> CrossCheck:
    """Load twice and compare.  Parameters as those of api.load; ``loaders`` None: what the directories of loaders hold.

    ``keys``: what is typed at both; None: `boot` at a prompt, and no countdown.  ``compat``: how the built-in loader
    behaves; None: as the object's version does.
    Raises UsageError when there is no userboot object to be had, and what api.load raises, with the loader's name.
    """
    loaders = loaders or Loaders(default_directories(), always=True)
    loader = loaders.first()
    if loader is None:
        raise UsageError(f"--cross-check: no userboot.so in {loaders.places()}", "name one with -l")
    variables = [*environment, *(VARIABLES if keys is None else ())]
    machines: list[ScratchMachine] = []
    try:
        reports = []
        states = []
        for label, which in ((BUILT_IN, None), (os.path.basename(loader.path), loaders)):
            machine = ScratchMachine("cross-check", memory_size)
            machines.append(machine)
            try:
                report = load(
                    machine,
                    disks,
                    variables,
                    host_directory=host_directory,
                    console=Typed(BOOT, ahead=False) if keys is None else Typed(keys, ahead=True),
                    compat=compat or behaviour(loader.data),
                    options=Options(),
                    loaders=which,
                    sandbox=sandbox,
                    timeout=timeout,
                )
            except BhyveloadError as error:
                error.message = f"{label}: {error.message}"
                error.args = (error.message,)
                if error.exit_status in (0, EXIT_DIFFERENT):  # a loader's own status; here it would mean something else
                    error.exit_status = 1
                raise
            if which is None and report.loader != "built-in":
                raise LoaderError(
                    f"the guest's scripts are for '{report.interpreter}', which is not built in: nothing to compare"
                )
            reports.append(report)
            states.append(LoadedState(label, machine.memory, Registers.of(report.vcpu)))
        return CrossCheck(compare(*states), (reports[0], reports[1]), is_reordered(states[0], states[1]))
    finally:
        for machine in machines:
            machine.close()


class Typed:
    """A console on which ``keys`` are typed and nobody listens; ``ahead``: from the beginning, so that they stop a
    countdown, and not only when the loader waits for one."""

    def __init__(self, keys: bytes, ahead: bool) -> None:
        self._keys = keys
        self._ahead = ahead

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def write(self, data: bytes) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def discard(self) -> int:
        return 0

    def skip(self, count: int) -> None:
        """Nothing."""

    def getc(self) -> int:
        if not self._keys:
            return -1
        key, self._keys = self._keys[0], self._keys[1:]
        return key - 256 if key > 127 else key

    def poll(self) -> bool:
        return self._ahead and bool(self._keys)

    @property
    def at_end(self) -> bool:
        return not self._keys
