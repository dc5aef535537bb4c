"""bhyverun --exec: boot a guest, run commands in it, end with their exit status."""

from __future__ import annotations

import contextlib
import os
import time

from bhyveload.cli.bhyverun_saved import Opened, guest_in, saving, wake
from bhyveload.cli.messages import EXIT_INTERRUPTED, report_error, warn
from bhyveload.cli.progress import CopyProgress, UnpackProgress
from bhyveload.errors import BhyveloadError, GuestEnded, GuestTimedOut, HostError, InputError, VmNameError, VmNotFound
from bhyveload.guest.exchange import COPY_LIMIT, Exchange
from bhyveload.guest.session import SAVE_SECONDS
from bhyveload.handoff.qemu.overlay import scratch_file
from bhyveload.image.named import named_disk
from bhyveload.libc import write_all
from bhyveload.running.choices import Choices
from bhyveload.running.runner import run_guest
from bhyveload.vm.store import VirtualMachine
from bhyveload.work import disk_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.cli.bhyverun_options import Arguments
    from bhyveload.guest.session import Guest
    from bhyveload.handoff.backend import Session
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.saved.saving import Keeper

    MakeOptions = Callable[[VirtualMachine, list[Disk] | None, Keeper | None, list[Disk]], QemuOptions]

EXIT_ERROR, EXIT_ENDED = 125, 126
_PASSWORD_MAX = 128
_TOLD = 10  # lines about what was left out


def run_commands(program: str, arguments: Arguments, open_guest: Callable[[contextlib.ExitStack], Opened]) -> int:
    """The exit status: that of the first command that fails, or 0.  ``open_guest``: the stack is what to close
    afterwards.  Raises BhyveloadError."""
    for folder, _ in arguments.copies_in:  # before the guest boots
        if not os.path.isdir(folder):
            raise InputError(f"--copy-in {folder}: no such folder")
    with contextlib.ExitStack() as closing:
        opened = open_guest(closing)
        work = _Work(program, arguments, opened)
        choices = Choices(arguments.console, arguments.log, arguments.escape, work=work, keeper=opened.keeper)
        ended = run_guest(opened.machine, opened.prepare, choices, lambda text: warn(program, text))
    for line in ended.result.messages.splitlines():
        warn(program, line)
    if work.failure is None:
        return work.status
    if ended.interrupted:
        return EXIT_INTERRUPTED
    status = report_error(program, work.failure)
    if isinstance(work.failure, GuestEnded):
        for line in work.failure.lines:
            warn(program, f"| {line}")
    return status if isinstance(work.failure, GuestEnded | GuestTimedOut) else EXIT_ERROR


def loaded_guest(
    program: str, arguments: Arguments, make_options: MakeOptions, closing: contextlib.ExitStack
) -> Opened:
    """For ``run_commands``.  ``make_options`` of a VM, of the disks instead of its own, of what saves it, and of the
    disks behind all others.  Raises BhyveloadError."""
    vm, disks = _machine(program, arguments, closing)
    if arguments.save:
        return saving(program, arguments, vm, lambda vm, keeper, more: make_options(vm, disks, keeper, more), closing)
    exchange = None
    if arguments.copies_in or arguments.copies_out:
        exchange = closing.enter_context(Exchange(scratch_file(), arguments.copy_limit or COPY_LIMIT))
    more = [] if exchange is None else [disk_for(exchange)]
    return Opened(vm, lambda: make_options(vm, disks, None, more), exchange)


def _machine(
    program: str, arguments: Arguments, closing: contextlib.ExitStack
) -> tuple[VirtualMachine, list[Disk] | None]:
    """The VM of that name, or a new one with the image of that name; for an image its disk, to be written over."""
    name = arguments.name
    try:
        if "/" not in name:
            return closing.enter_context(VirtualMachine.open(name, require_loaded=True)), None
    except (VmNotFound, VmNameError) as error:
        if not os.path.exists(named_disk(name).path):
            if isinstance(error, VmNameError):
                raise
            raise InputError(
                f"there is neither a VM nor a disk image '{name}'", "bhyvectl --list shows all VMs"
            ) from None
    from bhyveload.api import load_image
    from bhyveload.handoff.disks import disks_of

    progress = UnpackProgress(program)
    environment = [os.fsencode(word) for word in arguments.environment]
    vm = load_image(name, arguments.memory, environment, timeout=arguments.timeout, progress=progress)
    closing.callback(vm.destroy)
    return vm, [disk.changed(read_only=False) for disk in disks_of(vm.state or {})]


class _Work:
    """What is done in the guest."""

    def __init__(self, program: str, arguments: Arguments, opened: Opened) -> None:
        self._program = program
        self._opened = opened
        self.status = 0
        self.failure: BhyveloadError | None = None
        self._arguments = arguments
        self._password = password_in(arguments.password_file)
        self._deadline = None if arguments.timeout is None else time.monotonic() + arguments.timeout
        self._files = [(_read(path), place) for path, place in arguments.puts]
        for _, path in arguments.gets:
            _expect_room(path)

    def __call__(self, session: Session) -> None:
        guest = guest_in(session, self._arguments, self._opened, self._password)
        try:
            self._do(guest)
            if self._arguments.save and not self.status:
                left = self._left()
                guest.save(SAVE_SECONDS if left is None else left)
            if self._arguments.overlays and not session.over:
                guest.power_off()
        except BhyveloadError as error:
            self.failure = error
        finally:
            if not session.over:
                session.stop()

    def _do(self, guest: Guest) -> None:
        wake(guest, self._arguments, self._left())
        for tag, place in self._arguments.mounts:
            guest.mount(tag, place, timeout=self._left())
        for folder, place in self._arguments.copies_in:
            progress = CopyProgress(self._program, f"{folder}: copying it into the guest")
            guest.put_tree(folder, place, timeout=self._left(), step=progress.step)
            progress.end()
        for data, place in self._files:
            guest.put(data, place, timeout=self._left())
        for command in self._arguments.commands:
            self.status = guest.run(command, timeout=self._left(), out=_say).status
            if self.status:
                break
        for place, path in self._arguments.gets:
            _write(path, guest.get(place, timeout=self._left()))
        for place, folder in self._arguments.copies_out:
            progress = CopyProgress(self._program, f"{place}: copying it out of the guest")
            left_out = guest.get_tree(place, folder, timeout=self._left(), step=progress.step)
            progress.end()
            for line in left_out[:_TOLD]:
                warn(self._program, f"{place}: left out: {line}")
            if len(left_out) > _TOLD:
                warn(self._program, f"{place}: left out: {len(left_out) - _TOLD} more")

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


def _say(data: bytes) -> None:
    try:
        write_all(1, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise HostError(f"standard output: {error.strerror}") from None


def password_in(path: str) -> str:
    """The first line of a file; "" is no file's name.  Raises InputError."""
    if not path:
        return ""
    return _read(path, _PASSWORD_MAX + 1).partition(b"\n")[0].decode("utf-8", "replace")


def _read(path: str, most: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _expect_room(path: str) -> None:
    """Where a file will be written when all is done: better said before."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder", "--get PLACE:FILE")
    if not os.path.isdir(folder := os.path.dirname(path) or "."):
        raise InputError(f"{folder}: no such folder")


def _write(path: str, data: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from None
