"""bhyveload(8): load a FreeBSD guest into a VM.

Messages and exit statuses are those of usr.sbin/bhyveload/bhyveload.c (main, usage); long options are ours.
"""

from __future__ import annotations

import os
import sys

from bhyveload import __version__
from bhyveload.api import load
from bhyveload.cli.bhyveload_options import (
    HELP,
    LONG_OPTIONS,
    SHORT_OPTIONS,
    GetoptError,
    LoadRequest,
    act,
    only_looks,
    walk,
)
from bhyveload.cli.getopt import Getopt
from bhyveload.cli.loaders import chosen_loaders, print_cross_check
from bhyveload.cli.machines import open_machine
from bhyveload.cli.messages import EXIT_INTERRUPTED, program_name, report_error, run, say, warn
from bhyveload.cli.progress import UnpackProgress
from bhyveload.cli.terminal import RawTerminal, Terminated
from bhyveload.errors import (
    InputError,
    LoaderError,
    UsageError,
    VmBusy,
    VmMemoryError,
    VmNameError,
    VmNotFound,
)
from bhyveload.host.console import FdConsole
from bhyveload.image.magic import RAW
from bhyveload.image.open import disk_in
from bhyveload.image.raw import RawImage
from bhyveload.image.remembered import forgotten_warning
from bhyveload.loader.state import Options as LoaderOptions
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.image.open import Disk
    from bhyveload.userboot.search import Loaders
    from bhyveload.vm.interface import Machine

EXIT_USAGE = EXIT_VM = 1  # bhyveload.c's, not sysexits'


def main() -> int:
    program = program_name("bhyveload")
    try:
        return run(program, lambda: _statuses(program))
    except Terminated as signal:
        return signal.status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _statuses(program: str) -> int:
    """The whole program; some of its errors have bhyveload.c's exit status, not that of errors.py."""
    try:
        return _main(program, sys.argv[1:])
    except (VmNameError, VmMemoryError, VmBusy, VmNotFound) as error:
        report_error(program, error)
        return EXIT_VM


def _main(program: str, words: list[str]) -> int:
    request = LoadRequest(words)
    request.looks = only_looks(words)
    options = Getopt(words, SHORT_OPTIONS, LONG_OPTIONS)
    try:
        for option, argument in walk(options):
            if option == "help":
                sys.stdout.write(HELP)
                return 0
            if option == "version":
                sys.stdout.write(f"bhyveload {__version__}\n")
                return 0
            act(request, option, argument or "")
    except GetoptError as error:
        warn(program, error.message)
        return _usage(program)
    operands = options.operands
    if len(operands) != 1 and not ((request.dry_run or request.cross_check or request.list_boot_envs) and not operands):
        return _usage(program)
    try:
        return _load(program, request, operands[0] if operands else "dry-run")
    except LoaderError as error:
        if error.explanation is None:
            raise
        from bhyveload.cli.load_report import print_explanation

        return print_explanation(program, error, request.json)


def _usage(program: str) -> int:
    blank = " " * len(program)
    say(
        f"usage: {program} [-S] [-c <console-device>] [-d <disk-path>] [-e <name=value>]\n"
        f"       {blank} [-h <host-path>] [-m memsize[K|k|M|m|G|g|T|t]] <vmname>\n"
    )
    return EXIT_USAGE


def _disks(program: str, request: LoadRequest, sandbox: Sandbox | bool) -> list[Disk]:
    """What is in the files given with -d: only now all options are known."""
    if request.allow_backing and len(request.files) > 1:
        raise UsageError("--allow-backing is for a single disk", "say it of the disk that needs it: -d PATH,backing")
    if not (request.dry_run or request.cross_check or request.list_boot_envs):
        _refuse_twice([file for file, _ in request.files])
    disks: list[Disk] = []
    for file, named in request.files:
        disk = disk_in(
            file,
            format=named.format,
            allow_backing=request.allow_backing or named.backing,
            progress=UnpackProgress(program),
            sandbox=sandbox,
            deadline=request.deadline,
            keep=not request.looks,
        )
        if disk.forgotten:
            warn(program, forgotten_warning(disk.name, named.format or disk.kind))
        if disk.read_only and not request.looks:
            why = "opened read-only"
            if disk.kind != RAW:
                why = f"{'an' if disk.kind in ('xz', 'lzma') else 'a'} {disk.kind} image is only read"
            warn(program, f"{disk.name}: {why}: the loader cannot save anything there (nextboot, boot-once)")
        disks.append(disk)
    return disks


def _refuse_twice(files: list[RawImage]) -> None:
    """Two disks of a guest's on one file destroy each other.  Raises UsageError."""
    seen: dict[tuple[int, int, int], RawImage] = {}
    for file in files:
        try:
            status = os.fstat(file.descriptor)
        except OSError as error:
            raise InputError(f"{file.name}: cannot be opened: {error.strerror}") from None
        key = status.st_dev, status.st_ino, status.st_rdev
        other = seen.setdefault(key, file)
        if other is not file and not (other.read_only and file.read_only):
            same = "" if other.name == file.name else f" ({other.name})"
            raise UsageError(
                f"{file.name}: is the same disk as one given before{same}: a guest that writes to both destroys it",
                "give each disk once; one that is only read may be given twice with ,ro behind its name",
            )


def _load(program: str, request: LoadRequest, name: str) -> int:
    loaders = chosen_loaders(request.loader_fd, request.loader_name, request.loader_directory)
    sandbox = _sandbox(program, request)
    disks = _disks(program, request, sandbox)
    if request.list_boot_envs:
        return _list_boot_environments(program, request, disks, sandbox)
    if request.cross_check:
        return _cross_check(request, disks, loaders, sandbox)
    reports = request.json or request.dry_run or request.list_variables
    out_fd = 2 if reports else 1  # stdout belongs to the report then
    if request.console_fd >= 0:
        console = FdConsole(request.console_fd, request.console_fd, device=True)
    else:
        console = FdConsole(0, out_fd)
    options = LoaderOptions(
        batch=request.batch,
        kernel=request.kernel,
        boot_environment=request.boot_environment,
        boot_device=request.boot_device,
        single_user=request.single_user,
        verbose=request.verbose,
        commands=tuple(request.commands),
        explain=request.explain,
    )
    with _machine(request, name) as vm, RawTerminal(console.in_fd if os.isatty(console.in_fd) else console.out_fd):
        report = load(
            vm,
            disks,
            request.environment,
            host_directory=request.host_directory,
            console=console,
            compat=request.compat or "current",
            options=options,
            loaders=loaders,
            sandbox=sandbox,
            timeout=request.deadline,
            wired=request.wired,
            incore=request.incore,
            kept={"load": {"command": request.words, "folder": _folder()}},
        )
    for note in report.notes:
        warn(program, note)
    if reports:
        from bhyveload.cli.load_report import print_report

        print_report(report, request.json, request.list_variables)
    return 0


def _folder() -> str:
    """Where relative paths of the command line lead to; "" where that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _machine(request: LoadRequest, name: str) -> Machine:
    return open_machine(
        request.vmm, name, request.memory, dry_run=request.dry_run, wired=request.wired, incore=request.incore
    )


def _list_boot_environments(program: str, request: LoadRequest, disks: list[Disk], sandbox: Sandbox | bool) -> int:
    from bhyveload.boot_environments import lines, list_boot_environments

    listing = list_boot_environments(disks, sandbox=sandbox, timeout=request.deadline)
    for pool in listing["pools"]:
        if "error" in pool:
            warn(program, f"ZFS pool {pool.get('name')}: {pool['error']}")
    if request.json:
        from bhyveload.jsontext import dumps

        sys.stdout.write(dumps(listing, indent=2) + "\n")
    elif any(pool.get("boot_environments") for pool in listing["pools"]):
        from bhyveload.cli.load_report import write_lines

        write_lines(lines(listing))
    else:
        warn(program, "there are no ZFS boot environments on these disks")
        return EXIT_USAGE
    return 0


def _sandbox(program: str, request: LoadRequest) -> Sandbox | bool:
    if request.no_sandbox:
        if request.require_sandbox or request.user is not None:
            raise UsageError("--no-sandbox contradicts --require-sandbox and --user")
        warn(program, "--no-sandbox: the loader has all your rights; a hostile guest could use them")
        return False
    folder = request.host_directory is not None
    sandbox = Sandbox(request.user, request.require_sandbox, request.incore, folder=folder)
    for lack in sandbox.missing:
        warn(program, f"sandbox: {lack}")
    return sandbox


def _cross_check(request: LoadRequest, disks: list[Disk], loaders: Loaders | None, sandbox: Sandbox | bool) -> int:
    from bhyveload.cross_check import cross_check

    result = cross_check(
        request.memory,
        disks,
        request.environment,
        loaders=loaders,
        host_directory=request.host_directory,
        compat=request.compat,
        sandbox=sandbox,
        timeout=request.deadline,
    )
    return print_cross_check(result, request.json)


if __name__ == "__main__":
    sys.exit(main())
