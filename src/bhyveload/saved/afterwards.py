"""Save a guest that was not started for it: bhyvectl --save=FOLDER.

Its memory is private to its QEMU, so that writes it out; a second QEMU, which never lets the guest run, reads that into
the folder's memory file and writes the devices beside it.  What comes of it is as saving.py leaves it.
"""

from __future__ import annotations

import contextlib
import copy
import os
import time

from bhyveload.absolute_path import absolute_path
from bhyveload.confined.deadline import FOREVER
from bhyveload.errors import BhyveloadError, HandoffError
from bhyveload.handoff.network import Network
from bhyveload.handoff.outcome import SAVED
from bhyveload.handoff.qemu.overlay import scratch_file
from bhyveload.handoff.qemu.session import QemuSession
from bhyveload.saved.saving import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.handoff.qemu.command import QemuOptions

_PATIENCE = 300.0  # seconds
_NEVER = "no event"  # what a guest waits for that is not to run


class Afterwards:
    """One run of ``vm`` with ``options`` in ``session``; ``tell`` hears why it is not saved."""

    def __init__(
        self, vm: LoadedMachine, options: QemuOptions, session: QemuSession, tell: Callable[[str], None]
    ) -> None:
        self._vm, self._options, self._session, self._tell = vm, options, session, tell
        self._busy = False

    def save(self, folder: str, answer: Callable[[str], None], step: Callable[[int, int], None] | None = None) -> None:
        """Save the guest into the new ``folder`` and end the run; ``answer`` is called with "" then, or with why it
        runs on; ``step`` with the bytes of memory that are done and those in all."""
        reason = "it is being saved already" if self._busy else self._hindrance(folder)
        if reason:
            answer(reason)
            return
        self._busy = True
        stream = scratch_file()

        def written(reason: str) -> None:
            self._busy = False
            if not reason:
                try:
                    self._convert(folder, stream)
                except (BhyveloadError, OSError) as error:
                    reason = str(error) or type(error).__name__
                    self._session.resume()
            os.close(stream)
            if reason:
                self._tell(f"the guest is not saved: {reason}")
            answer(reason)
            if not reason:
                self._session.stop(SAVED)

        self._session.save(stream, written, True, step)

    def _hindrance(self, folder: str) -> str:
        options = self._options
        if not folder:
            return "only a guest that was started with bhyverun --save has a folder already: --save=FOLDER"
        if os.path.lexists(folder):
            return f"{folder} is there already: a guest is saved into a new folder"
        if options.incoming >= 0:
            return "a clone cannot be saved: make the change in the guest that it comes from, and save that"
        if options.parts or options.plain:
            return "a guest under a debugger cannot be saved: run it without --gdb"
        if any(disk.path.startswith("/proc/") for disk in options.disks):
            return "a disk that was made for the run (--seed, --copy-in) cannot be saved: run it again without"
        return ""

    def _convert(self, folder: str, stream: int) -> None:
        """The stream of a whole guest as a folder.  Raises BhyveloadError, OSError."""
        with contextlib.ExitStack() as closing:
            keeper = closing.enter_context(Keeper(folder, None, self._tell))
            machine = keeper.machine(self._vm, empty=True)
            options = copy.copy(self._options)
            options.disks = self._disks(keeper)
            options.net = Network(options.net.kind, model=options.net.model)  # no port: the first one still has them
            keeper.prepare(machine, options, began=self._vm)
            options.incoming, options.whole = stream, True
            options.version, options.hold, options.pins = self._session.version, _NEVER, {}
            os.lseek(stream, 0, os.SEEK_SET)
            second = closing.enter_context(contextlib.closing(QemuSession(machine, options)))
            _turn(second, lambda: second.restored)
            answers: list[str] = []
            keeper.attend(second)
            keeper.save(answers.append)
            _turn(second, lambda: bool(answers))
            if answers[0]:
                raise HandoffError(answers[0])

    def _disks(self, keeper: Keeper) -> list[Disk]:
        given = self._options.disks
        kept = keeper.disks([_below(disk) for disk in given], None, FOREVER)
        temporaries = iter(self._session.temporaries)
        for number, disk in enumerate(given):
            if disk.snapshot:
                keeper.fill(number, next(temporaries))
        return kept


def _below(disk: Disk) -> Disk:
    """What a saved guest's own file stands on: the disk with what the run has written to it."""
    if not disk.overlay:
        return disk.changed(snapshot=False)
    below = [(disk.path, disk.format), *disk.backing]
    return disk.changed(path=absolute_path(disk.overlay), format="qcow2", overlay="", backing=below)


def _turn(session: QemuSession, done: Callable[[], bool]) -> None:
    """Raises HandoffError."""
    deadline = time.monotonic() + _PATIENCE
    while not done():
        if session.over or time.monotonic() > deadline:
            session.wait(0)  # raises what QEMU says
            raise HandoffError("the second QEMU ends, or takes too long")
        session.turn(0.1)
