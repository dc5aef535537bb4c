"""bhyverun: run the guest that bhyveload has loaded, its console on the terminal; exit statuses as bhyve(8)."""

from __future__ import annotations

import contextlib
import os
import sys

from bhyveload.absolute_path import absolute_path
from bhyveload.cli.base_system import refer
from bhyveload.cli.bhyverun_options import HELP, parse
from bhyveload.cli.messages import EXIT_INTERRUPTED, program_name, report_error, warn
from bhyveload.cli.messages import run as run_program
from bhyveload.cli.progress import UnpackProgress
from bhyveload.confined.deadline import deadline_of
from bhyveload.errors import BhyveloadError, HandoffError, UsageError
from bhyveload.handoff.disks import disk_from_path, disks_of, unpacked
from bhyveload.handoff.outcome import (
    EXIT_STATUS,
    HALTED,
    REBOOTED,
    SAVED,
    SEEN,
    STUCK,
    TIMED_OUT,
    TRIPLE_FAULT,
    UNWANTED,
)
from bhyveload.running.accelerator import choose
from bhyveload.running.background import go_into_background, write_pid_file
from bhyveload.running.choices import STDIO, Choices
from bhyveload.running.eyes import Eyes
from bhyveload.running.restart import Restarts, load_again
from bhyveload.running.runner import run_guest
from bhyveload.vm.store import VirtualMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from bhyveload.cli.bhyverun_options import Arguments
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.outcome import RunResult
    from bhyveload.handoff.qemu.command import QemuOptions
    from bhyveload.handoff.qemu.files import QemuFiles
    from bhyveload.saved.saving import Keeper

EXIT_ERROR = 4
EXIT_EXEC_ERROR = 125


def main() -> int:
    """The program.  Every error is bhyve(8)'s exit status 4."""
    program = program_name("bhyverun")

    def body() -> int:
        try:
            refer("bhyverun", "/usr/sbin/bhyve")
            return bhyverun(program, sys.argv[1:])
        except BhyveloadError as error:
            report_error(program, error)
            return EXIT_EXEC_ERROR if any(word.startswith("--exec") for word in sys.argv[1:]) else EXIT_ERROR

    return run_program(program, body)


def bhyverun(program: str, words: Sequence[str]) -> int:
    """Do what the command line says; the exit status.  Raises BhyveloadError."""
    arguments = parse(words)
    if arguments.show == "help":
        sys.stdout.write(HELP)
        return 0
    if arguments.show == "version":
        from bhyveload import __version__

        sys.stdout.write(f"bhyverun (bhyveload) {__version__}\n")
        return 0
    named = _named_disks(program, arguments)
    if arguments.commands:
        return _exec(program, arguments, named)
    if arguments.dry_run or arguments.export or arguments.stub:
        with VirtualMachine.open(arguments.name, require_loaded=True) as vm:
            print(_prepare(program, vm, arguments, named))
        if arguments.dry_run or arguments.export:
            return 0
    running = go_into_background() if arguments.daemon else None
    if arguments.pid_file:
        write_pid_file(arguments.pid_file)
    try:
        return _run(program, arguments, named, running)
    finally:
        if arguments.pid_file:
            _remove(arguments.pid_file)


def _named_disks(program: str, arguments: Arguments) -> tuple[list[Disk] | None, list[Disk]]:
    """The disks instead of the loaded ones, and those beside them.  Raises HandoffError."""

    def tell(text: str) -> None:
        warn(program, text)

    instead = None
    if arguments.disks is not None:
        instead = [disk_from_path(path, arguments.allow_backing, tell) for path in arguments.disks]
    for path, _, _ in arguments.shares:
        if not os.path.isdir(path):
            raise HandoffError(f"--share {path}: no such folder")
        if not os.access(path, os.R_OK | os.X_OK):
            raise HandoffError(f"--share {path}: Permission denied")
    beside = [disk_from_path(path, tell=tell) for path in arguments.added]
    if arguments.seed or arguments.hostname or arguments.ssh_keys:
        from bhyveload.handoff.seed import seed_disk

        beside.append(seed_disk(arguments.seed, arguments.hostname, arguments.ssh_keys))
    return instead, beside


def _prepare(
    program: str, vm: VirtualMachine, arguments: Arguments, named: tuple[list[Disk] | None, list[Disk]]
) -> str:
    """Write the files that were asked for; the command that runs the VM, quoted for a shell."""
    import shlex

    from bhyveload.handoff.machine import loaded
    from bhyveload.handoff.pvh.pvh_image import save_image, save_stub
    from bhyveload.handoff.pvh.stub import build_stub
    from bhyveload.handoff.qemu.session import Qemu

    options = _options(program, vm, arguments, named)
    memory, state = loaded(vm)
    stub = build_stub(memory, state)
    for target in filter(None, (arguments.stub, arguments.export)):
        for disk in options.disks:
            if os.path.exists(target) and os.path.exists(disk.path) and os.path.samefile(target, disk.path):
                raise UsageError(f"{target}: is a disk of the VM", "write to another file")
    if arguments.stub:
        save_stub(arguments.stub, stub)
    if arguments.export:
        save_image(arguments.export, stub, memory)
    kernel = absolute_path(arguments.export or arguments.stub) if arguments.export or arguments.stub else "STUB"
    return shlex.join(Qemu().command(vm, options, kernel, whole_image=bool(arguments.export)))


def _options(
    program: str,
    vm: VirtualMachine,
    arguments: Arguments,
    named: tuple[list[Disk] | None, list[Disk]],
    keeper: Keeper | None = None,
    more: Sequence[Disk] = (),
) -> QemuOptions:
    """``more``: disks behind all others, as they are."""
    from bhyveload.handoff.qemu.overlay import put_on_top, written_below
    from bhyveload.handoff.qemu.run import run_options

    instead, beside = named
    deadline = deadline_of(arguments.timeout)  # the guest has its own, once it runs
    disks = [*(disks_of(vm.state or {}) if instead is None else instead), *beside]
    if len(arguments.overlays) > len(disks):
        raise UsageError(f"{len(arguments.overlays)} overlays for {len(disks)} disks")
    for number, path in enumerate(arguments.overlays):
        below = unpacked(disks[number].changed(overlay=path), UnpackProgress(program), deadline)
        disks[number] = on_top = put_on_top(
            below, make=not arguments.dry_run or bool(arguments.stub or arguments.export)
        )
        if changed := written_below(on_top):
            warn(program, f"{changed}: was written to after {path}: what is in that may not fit it any more")
    if arguments.snapshot:
        disks = [disk if disk.read_only else disk.changed(snapshot=True) for disk in disks]
    if keeper is not None:
        disks = keeper.disks(disks, UnpackProgress(program), deadline)
    return run_options(
        vm,
        accel=arguments.accel,
        cpus=arguments.cpus,
        disks=[*disks, *more],
        net=arguments.net,
        extra=arguments.extra,
        progress=UnpackProgress(program),
        deadline=deadline,
        shares=[(absolute_path(path), tag, read_only) for path, tag, read_only in arguments.shares],
        user=arguments.user,
        confined=arguments.confined,
        **(_debugged(program, vm, arguments) if arguments.gdb else {}),
    )


def _debugged(program: str, vm: VirtualMachine, arguments: Arguments) -> dict[str, Any]:
    """gdb's socket on the loopback; the guest starts when gdb lets it.  Its user is told where the symbols are."""
    from bhyveload.cli.symbols import tell

    port = arguments.gdb
    command = ["-ex", f"target remote 127.0.0.1:{port}"]
    tell(vm.state or {}, arguments.symbols, command, lambda text: warn(program, text))

    def socket(files: QemuFiles) -> list[str]:
        try:
            where = files.listener("127.0.0.1", port)
        except OSError as error:
            raise HandoffError(f"--gdb {port}: {error.strerror}") from None
        warn(program, f"waiting for gdb: target remote 127.0.0.1:{port}")
        return ["-chardev", f"socket,id=gdb,{where},server=on,wait=off", "-gdb", "chardev:gdb"]

    return {"parts": [socket], "hold": "RESUME"}


def _run(
    program: str,
    arguments: Arguments,
    named: tuple[list[Disk] | None, list[Disk]],
    running: Callable[[], None] | None,
) -> int:
    """Run the guest, again and again where that was asked for."""
    if arguments.restore or arguments.save:
        return _run_saved(program, arguments, named, running)
    restarts = Restarts()
    arguments.accel, how = choose(arguments.accel)
    words = [how] if how else []
    choices = Choices(arguments.console, arguments.log, arguments.escape, arguments.timeout, running)
    while True:
        eyes = choices.eyes = Eyes(arguments.expect, arguments.fail_on, alone=arguments.console == STDIO)
        with VirtualMachine.open(arguments.name, require_loaded=True) as vm:
            state = vm.state or {}

            def prepare(vm: VirtualMachine = vm) -> QemuOptions:
                options = _options(program, vm, arguments, named)
                for disk in options.disks:
                    if disk.snapshot and not arguments.snapshot:
                        warn(program, f"{disk.name}: what the guest writes is dropped at the end of the run")
                while words:  # once, not at every restart
                    warn(program, words.pop())
                return options

            ended = run_guest(vm, prepare, choices, lambda text: warn(program, text))
        result = ended.result
        _tell(program, arguments, result)
        status = _tell_seen(program, arguments.name, eyes, result)
        if ended.interrupted:
            return EXIT_INTERRUPTED
        if not arguments.restart or ended.by_signal or result.outcome != REBOOTED:
            return status
        restarts.another(arguments.name)
        load_again(arguments.name, state)
        choices.running = None


def _run_saved(
    program: str,
    arguments: Arguments,
    named: tuple[list[Disk] | None, list[Disk]],
    running: Callable[[], None] | None,
) -> int:
    """A run that is to be saved, or of a guest that was."""
    from bhyveload.cli.bhyverun_exec import password_in
    from bhyveload.cli.bhyverun_saved import clone, run_saving, waking

    eyes = Eyes(arguments.expect, arguments.fail_on, alone=arguments.console == STDIO)
    choices = Choices(arguments.console, arguments.log, arguments.escape, arguments.timeout, running, eyes=eyes)
    missed = False
    if arguments.restore:
        with contextlib.ExitStack() as closing:
            opened = clone(arguments, closing)
            choices.work = waking(arguments, opened, password_in(arguments.password_file))
            ended = run_guest(opened.machine, opened.prepare, choices, lambda text: warn(program, text))
    else:
        arguments.accel, _ = choose(arguments.accel)
        ended, saved = run_saving(
            program, arguments, choices, lambda vm, keeper, more: _options(program, vm, arguments, named, keeper, more)
        )
        if not saved:
            warn(program, f"{arguments.name}: ended before it was saved")
        missed = bool(arguments.save_at) and not saved and ended.result.outcome != TIMED_OUT
    _tell(program, arguments, ended.result)
    status = _tell_seen(program, arguments.name, eyes, ended.result)
    if ended.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_STATUS[UNWANTED] if missed else status


def _tell_seen(program: str, name: str, eyes: Eyes, result: RunResult) -> int:
    """What was noticed on the console; the exit status, which --expect has a word in."""
    status = result.exit_status
    if eyes.watch.trouble:
        warn(program, f"{name}: {eyes.watch.trouble}")
    if result.outcome == UNWANTED:
        warn(program, f"{name}: the console shows what --fail-on names: {eyes.matched}")
    elif eyes.expects and result.outcome not in (SEEN, TIMED_OUT, SAVED):
        warn(program, f"{name}: the console never showed what --expect names")
        status = EXIT_STATUS[UNWANTED]
    if result.outcome in (UNWANTED, STUCK):
        for line in eyes.watch.last_lines:
            warn(program, f"| {line}")
    return status


def _exec(program: str, arguments: Arguments, named: tuple[list[Disk] | None, list[Disk]]) -> int:
    from bhyveload.cli.bhyverun_exec import loaded_guest, run_commands

    if arguments.restore:
        from bhyveload.cli.bhyverun_saved import clone

        return run_commands(program, arguments, lambda closing: clone(arguments, closing))
    arguments.accel, _ = choose(arguments.accel)

    def options(vm: VirtualMachine, disks: list[Disk] | None, keeper: Keeper | None, more: list[Disk]) -> QemuOptions:
        instead = named[0] if disks is None or named[0] is not None else disks
        return _options(program, vm, arguments, (instead, named[1]), keeper, more)

    return run_commands(program, arguments, lambda closing: loaded_guest(program, arguments, options, closing))


def _tell(program: str, arguments: Arguments, result: RunResult) -> None:
    for line in result.messages.splitlines():
        warn(program, line)
    if result.outcome == TIMED_OUT:
        warn(program, f"{arguments.name}: stopped after {arguments.timeout:g} seconds")
    elif result.outcome in (HALTED, TRIPLE_FAULT):
        warn(program, f"{arguments.name}: {result.outcome}")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
