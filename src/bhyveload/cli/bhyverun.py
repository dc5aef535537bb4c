"""bhyverun: run the guest that bhyveload has loaded, its console on the terminal; exit statuses as bhyve(8)."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from typing import TYPE_CHECKING

from bhyveload.cli.getopt import Options as Getopt
from bhyveload.cli.getopt import number_of, timeout_of
from bhyveload.cli.messages import EXIT_INTERRUPTED, program_name, report_error, warn
from bhyveload.cli.messages import run as run_program
from bhyveload.cli.progress import UnpackProgress
from bhyveload.errors import BhyveloadError, UsageError
from bhyveload.handoff.console import Escape
from bhyveload.handoff.disks import disk_from_path
from bhyveload.handoff.network import Network, parse_network
from bhyveload.handoff.outcome import HALTED, TIMED_OUT, TRIPLE_FAULT
from bhyveload.handoff.qemu.command import MAX_CPUS
from bhyveload.running.signals import Signals
from bhyveload.running.terminal import Terminal
from bhyveload.vm.store import VirtualMachine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bhyveload.handoff.backend import RunResult, Session
    from bhyveload.handoff.disks import Disk
    from bhyveload.handoff.qemu.command import Options

USAGE = """\
usage: bhyverun [-c N] [-d PATH]... [--allow-backing] [--no-disk] [--accel auto|kvm|tcg] [--net NETWORK]
                [--timeout SECONDS] [--user NAME] [--no-sandbox]
                [--dry-run] [--stub FILE] [--export FILE] NAME [-- QEMU-ARGUMENT...]
       bhyverun --help | --version
"""
HELP = (
    USAGE
    + """
Run the guest that bhyveload(8) has loaded into the VM NAME under QEMU.  The console is the terminal:
Ctrl-C goes to the guest, Ctrl-A X ends the run, Ctrl-A H shows what else there is.

  --accel auto|kvm|tcg  auto takes KVM where a short test shows that it runs kernels, else QEMU's translator
  -c, --cpus N          processors (1)
  -d, --disk PATH       a disk; repeat for more.  Default: the disks that bhyveload was given.  Behind PATH:
                        ,format=raw|qcow2|...  ,backing (follow the names of backing files in it)  ,ro
  --allow-backing       as ,backing behind the only disk
  --no-disk             no disk at all
  --net NETWORK         none (default), user[,host][,hostfwd=tcp:127.0.0.1:2222-:22], or tap,INTERFACE;
                        user alone reaches nothing behind its gateway, host opens it
  --timeout SECONDS     end the run after that time with exit status 124
  --user NAME           as root: whom QEMU runs as (nobody)
  --no-sandbox          do not confine QEMU; needed for QEMU-ARGUMENTs that name files
  --dry-run             print the QEMU command and do nothing
  --stub FILE           keep the start-up stub in FILE (with --dry-run: the printed command then runs)
  --export FILE         write the whole VM as one PVH image and print the command that runs it
  QEMU-ARGUMENT...      handed to QEMU as they are

Exit status: 0 rebooted, 1 powered off or stopped, 2 halted, 3 triple fault, 4 error, 124 out of time, 130 interrupted.
"""
)
EXIT_ERROR = 4
_KEYS = b"\r\nCtrl-A h  this text\r\nCtrl-A x  end the run\r\nCtrl-A Ctrl-A  Ctrl-A itself\r\n"
ACCELERATORS = ("auto", "kvm", "tcg")
SHORT_OPTIONS = "c:d:"
LONG_OPTIONS = {
    "accel": "accel:",
    "allow-backing": "allow-backing",
    "cpus": "c:",
    "disk": "d:",
    "dry-run": "dry-run",
    "export": "export:",
    "help": "help",
    "net": "net:",
    "no-disk": "no-disk",
    "no-sandbox": "no-sandbox",
    "stub": "stub:",
    "timeout": "timeout:",
    "user": "user:",
    "version": "version",
}


class Arguments:
    """The command line.  ``disks`` is None for those that bhyveload was given."""

    def __init__(self) -> None:
        self.accel = "auto"
        self.cpus = 1
        self.disks: list[Disk] | None = None
        self.net = Network()
        self.user: str | None = None
        self.confined = True
        self.timeout: float | None = None
        self.dry_run = False
        self.stub = ""
        self.export = ""
        self.show = ""
        self.name = ""
        self.extra: list[str] = []


def main() -> int:
    """The program.  Every error is bhyve(8)'s exit status 4."""
    program = program_name("bhyverun")

    def body() -> int:
        try:
            return bhyverun(program, sys.argv[1:])
        except BhyveloadError as error:
            report_error(program, error)
            return EXIT_ERROR

    return run_program(program, body)


def parse(words: Sequence[str]) -> Arguments:
    """The command line ``words``.  Raises UsageError, HandoffError (a disk that is not there)."""
    arguments = Arguments()
    words = list(words)
    if "--" in words:
        at = words.index("--")
        words, arguments.extra = words[:at], words[at + 1 :]
    paths: list[str] = []
    no_disk = allow_backing = False
    operands: list[str] = []
    for option, value in _options_around_operands(words, operands):
        if option in ("help", "version"):
            arguments.show = option
            return arguments
        if option == "accel":
            arguments.accel = _one_of("accel", value, ACCELERATORS)
        elif option == "allow-backing":
            allow_backing = True
        elif option == "c":
            arguments.cpus = _cpus(value)
        elif option == "d":
            paths.append(value)
        elif option == "dry-run":
            arguments.dry_run = True
        elif option == "export":
            arguments.export = value
        elif option == "net":
            arguments.net = parse_network(value)
        elif option == "no-disk":
            no_disk = True
        elif option == "no-sandbox":
            arguments.confined = False
        elif option == "stub":
            arguments.stub = value
        elif option == "timeout":
            arguments.timeout = timeout_of(value)
        elif option == "user":
            arguments.user = value
    if no_disk and paths:
        raise UsageError("--no-disk and --disk exclude each other")
    if len(operands) != 1:
        what = "name the VM" if not operands else f"one VM, not {len(operands)}"
        raise UsageError(what, "bhyverun --help; arguments for QEMU stand behind --")
    arguments.name = operands[0]
    if no_disk or paths:
        if allow_backing and len(paths) > 1:
            raise UsageError(
                "--allow-backing is for a single disk", "say it of the disk that needs it: -d PATH,backing"
            )
        arguments.disks = [disk_from_path(path, allow_backing) for path in paths]
    return arguments


def _options_around_operands(words: list[str], operands: list[str]) -> Iterator[tuple[str, str]]:
    """The options in ``words``, also those behind the VM's name; what is no option is added to ``operands``."""
    while words:
        options = Getopt(words, SHORT_OPTIONS, LONG_OPTIONS)
        for option, value in options:
            yield option, value or ""
        operands += options.operands[:1]
        words = options.operands[1:]


def _one_of(option: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise UsageError(f"--{option} {value}: must be one of {', '.join(choices)}")
    return value


def _cpus(value: str) -> int:
    number = number_of(value, 1, MAX_CPUS)
    if number is None:
        raise UsageError(f"--cpus {value}: must be a number from 1 to {MAX_CPUS}")
    return number


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
    with VirtualMachine.open(arguments.name, require_loaded=True) as vm:
        if arguments.dry_run or arguments.export or arguments.stub:
            print(_prepare(program, vm, arguments))
            if arguments.dry_run or arguments.export:
                return 0
        return _run(program, vm, arguments)


def _prepare(program: str, vm: VirtualMachine, arguments: Arguments) -> str:
    """Write the files that were asked for; the command that runs the VM, quoted for a shell."""
    from bhyveload.handoff.machine import loaded
    from bhyveload.handoff.pvh.pvh_image import save_image, save_stub
    from bhyveload.handoff.pvh.stub import build_stub
    from bhyveload.handoff.qemu.session import Qemu

    options = _options(program, vm, arguments)
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
    kernel = os.path.abspath(arguments.export or arguments.stub) if arguments.export or arguments.stub else "STUB"
    return shlex.join(Qemu().command(vm, options, kernel, whole_image=bool(arguments.export)))


def _options(program: str, vm: VirtualMachine, arguments: Arguments) -> Options:
    from bhyveload.handoff.qemu.session import run_options

    return run_options(
        vm,
        accel=arguments.accel,
        cpus=arguments.cpus,
        disks=arguments.disks,
        net=arguments.net,
        extra=arguments.extra,
        progress=UnpackProgress(program),
        user=arguments.user,
        confined=arguments.confined,
    )


def _run(program: str, vm: VirtualMachine, arguments: Arguments) -> int:
    from bhyveload.handoff.qemu.session import Qemu

    terminal = Terminal()
    with terminal, Signals(terminal.resume) as signals:
        options = _options(program, vm, arguments)
        for disk in options.disks:
            if disk.snapshot:
                warn(program, f"{disk.name}: what the guest writes is dropped at the end of the run")
        with contextlib.closing(Qemu().start(vm, options)) as session:
            for lack in session.lacks:
                warn(program, f"sandbox: {lack}")
            terminal.attach(session, _escape(session))
            signals.attach(session)
            result = session.wait(arguments.timeout)
    _tell(program, arguments, result)
    return EXIT_INTERRUPTED if signals.interrupted else result.exit_status


def _escape(session: Session) -> Escape:
    """Ctrl-A, as QEMU has it: X ends the run, H tells what there is."""

    def tell() -> None:
        session.console.say(_KEYS)

    return Escape(b"\1", {b"x": session.stop, b"h": tell, b"?": tell})


def _tell(program: str, arguments: Arguments, result: RunResult) -> None:
    for line in result.messages.splitlines():
        warn(program, line)
    if result.outcome == TIMED_OUT:
        warn(program, f"{arguments.name}: stopped after {arguments.timeout:g} seconds")
    elif result.outcome in (HALTED, TRIPLE_FAULT):
        warn(program, f"{arguments.name}: {result.outcome}")


if __name__ == "__main__":
    sys.exit(main())
