"""bhyveload(8): load a FreeBSD guest into a VM.

Options, messages and exit statuses are those of usr.sbin/bhyveload/bhyveload.c (main, usage); long options are ours.
"""

from __future__ import annotations

import os
import stat
import sys

from bhyveload import __version__
from bhyveload.api import load
from bhyveload.cli.getopt import Getopt, timeout_of
from bhyveload.cli.loaders import check_directory, chosen_loaders, open_loader, print_cross_check
from bhyveload.cli.machines import check_vmm, open_machine
from bhyveload.cli.messages import EXIT_INTERRUPTED, program_name, report_error, run, warn
from bhyveload.cli.progress import UnpackProgress
from bhyveload.cli.terminal import RawTerminal, Terminated
from bhyveload.compat import compat_option
from bhyveload.confined.deadline import FOREVER, Deadline
from bhyveload.errors import (
    HostError,
    InputError,
    UsageError,
    VmBusy,
    VmMemoryError,
    VmNameError,
    VmNotFound,
)
from bhyveload.host.console import FdConsole
from bhyveload.image.magic import RAW
from bhyveload.image.named import named_disk
from bhyveload.image.open import disk_in
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.image.remembered import forgotten_warning
from bhyveload.loader.state import Options as LoaderOptions
from bhyveload.printable import escape
from bhyveload.sandbox import Sandbox
from bhyveload.vm.memory import MB
from bhyveload.vm.memsize import parse_memory_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bhyveload.compat import LoaderVersion
    from bhyveload.host.interface import HostDirectory
    from bhyveload.image.named import NamedDisk
    from bhyveload.image.open import Disk
    from bhyveload.report import LoadReport
    from bhyveload.userboot.search import Loaders
    from bhyveload.vm.interface import Machine

DEFAULT_MEMORY = 256 * MB
EXIT_USAGE = EXIT_VM = 1  # bhyveload.c's, not sysexits'
SHORT_OPTIONS = "CSc:d:e:h:l:m:"
LONG_OPTIONS = {
    "incore": "C",
    "wired": "S",
    "console": "c:",
    "disk": "d:",
    "env": "e:",
    "host": "h:",
    "loader": "l:",
    "memory": "m:",
    "help": "help",
    "version": "version",
    "allow-backing": "allow-backing",
    "batch": "batch",
    "compat": "compat:",
    "json": "json",
    "dry-run": "dry-run",
    "list-variables": "list-variables",
    "single-user": "single-user",
    "verbose-boot": "verbose-boot",
    "kernel": "kernel:",
    "boot-device": "boot-device:",
    "boot-env": "boot-env:",
    "list-boot-envs": "list-boot-envs",
    "loader-command": "loader-command:",
    "timeout": "timeout:",
    "user": "user:",
    "require-sandbox": "require-sandbox",
    "no-sandbox": "no-sandbox",
    "loader-dir": "loader-dir:",
    "cross-check": "cross-check",
    "vmm": "vmm:",
}
LOOKS = ("dry-run", "list-boot-envs", "cross-check")
HELP = """\
usage: bhyveload [options] vmname

Load a FreeBSD guest into the virtual machine vmname (bhyverun runs it).

  -d, --disk PATH         a disk of the guest; repeat for more.  Behind PATH: ,format=raw|qcow2|...
                          ,backing (follow the names of backing files in it) ,ro
  -h, --host DIR          directory that the loader sees as host0:
  -m, --memory SIZE       guest memory (256M); suffixes K, M, G, T
  -e, --env NAME=VALUE    a loader variable; repeat for more
  -c, --console DEVICE    console on a character device instead of stdio
  -l, --loader FILE       run FreeBSD's userboot.so instead of the built-in loader
  -C, --incore            include guest memory in core dumps
  -S, --wired             wire guest memory

      --allow-backing     as ,backing behind the only disk
      --loader-dir DIR    run the userboot.so in DIR, or its other ones as the guest asks
      --cross-check       load with both loaders and say what differs

      --batch             never prompt: boot at once, or fail with the reason
      --kernel NAME       boot this kernel
      --boot-device DEV   boot from disk0p3, disk1, zfs:pool, ... instead of what the loader would choose
      --boot-env NAME     boot this ZFS boot environment
      --list-boot-envs    list the ZFS boot environments on the disks; nothing is loaded
      --single-user       boot to single-user mode
      --verbose-boot      boot with verbose kernel messages
      --loader-command L  run this loader command before booting; repeat for more
      --dry-run           load nothing: say what would be loaded
      --json              print the report as JSON
      --list-variables    print the variables that the kernel gets
      --compat VERSION    behave as the loader of 13.2 or current (current)
      --timeout SECONDS   give up after that long
      --user NAME         as root: whom the loader runs as (nobody)
      --require-sandbox   fail where this host cannot confine the loader wholly
      --no-sandbox        do not confine the loader: a hostile guest then has your rights
      --vmm KIND          where VMs are: store, libvmmapi[:PATH] (vmm(4)); auto
      --help, --version
"""


class LoadRequest:
    """The command line, as far as it has been acted on."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.memory = DEFAULT_MEMORY
        self.files: list[tuple[RawImage, NamedDisk]] = []
        self.looks = False  # nothing is kept: the disks are opened for reading
        self.allow_backing = False
        self.environment: list[bytes] = []
        self.console_fd = -1
        self.host_directory: HostDirectory | None = None
        self.loader_fd = -1
        self.loader_name = self.loader_directory = ""
        self.incore = self.wired = False
        self.cross_check = False
        self.batch = self.json = self.dry_run = self.list_variables = self.list_boot_envs = False
        self.single_user = self.verbose = False
        self.kernel = self.boot_device = self.boot_environment = ""
        self.commands: list[str] = []
        self.vmm = "auto"
        self.compat: LoaderVersion | None = None  # not chosen
        self.deadline = FOREVER
        self.user: str | None = None
        self.require_sandbox = self.no_sandbox = False


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
    request.looks = _only_looks(words)
    options = Getopt(words, SHORT_OPTIONS, LONG_OPTIONS)
    try:
        for option, argument in _walk(options):
            if option == "help":
                sys.stdout.write(HELP)
                return 0
            if option == "version":
                sys.stdout.write(f"bhyveload {__version__}\n")
                return 0
            _act(request, option, argument or "")
    except GetoptError as error:
        warn(program, error.message)
        return _usage(program)
    operands = options.operands
    if len(operands) != 1 and not ((request.dry_run or request.cross_check or request.list_boot_envs) and not operands):
        return _usage(program)
    return _load(program, request, operands[0] if operands else "dry-run")


class GetoptError(Exception):
    """getopt's own complaint, which is followed by the usage text."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def _walk(options: Getopt) -> Iterator[tuple[str, str | None]]:
    steps = iter(options)
    while True:
        try:
            step = next(steps)
        except StopIteration:
            return
        except UsageError as error:
            raise GetoptError(error.message) from None
        yield step


def _only_looks(words: list[str]) -> bool:
    """Whether an option among ``words``, wherever it stands, says that nothing is kept."""
    try:
        return any(option in LOOKS for option, _ in Getopt(words, SHORT_OPTIONS, LONG_OPTIONS))
    except UsageError:
        return False  # told when the walk comes to it


def _usage(program: str) -> int:
    blank = " " * len(program)
    sys.stderr.write(
        f"usage: {program} [-S] [-c <console-device>] [-d <disk-path>] [-e <name=value>]\n"
        f"       {blank} [-h <host-path>] [-m memsize[K|k|M|m|G|g|T|t]] <vmname>\n"
    )
    return EXIT_USAGE


def _act(request: LoadRequest, option: str, argument: str) -> None:
    """Carry out one option, in command-line order as bhyveload.c does."""
    match option:
        case "C":
            request.incore = True
        case "S":
            request.wired = True
        case "c":
            if argument != "stdio":
                request.console_fd = _open_console(argument)
        case "d":
            request.files.append(_open_disk(argument, request.looks))
        case "e":
            request.environment.append(os.fsencode(argument))
        case "h":
            request.host_directory = _open_host(argument)
        case "l":
            if request.loader_fd >= 0:
                raise UsageError("-l can only be given once")
            request.loader_fd = open_loader(argument)
            request.loader_name = argument
        case "loader-dir":
            request.loader_directory = check_directory(argument)
        case "m":
            request.memory = parse_memory_size(argument, request.compat or "current")
        case (
            "batch"
            | "cross-check"
            | "json"
            | "dry-run"
            | "list-boot-envs"
            | "list-variables"
            | "single-user"
            | "verbose-boot"
            | "require-sandbox"
            | "no-sandbox"
            | "allow-backing"
        ):
            setattr(request, {"verbose-boot": "verbose"}.get(option, option.replace("-", "_")), True)
        case "kernel":
            request.kernel = argument
        case "boot-device":
            request.boot_device = argument
        case "boot-env":
            request.boot_environment = argument
        case "loader-command":
            request.commands.append(argument)
        case "compat":
            request.compat = compat_option(argument)
        case "vmm":
            request.vmm = check_vmm(argument)
        case "user":
            request.user = argument
        case "timeout":
            request.deadline = Deadline(timeout_of(argument))


def _open_console(path: str) -> int:
    if path.startswith("/dev/nmdm") and not sys.platform.startswith("freebsd"):  # which has nmdm(4)
        from bhyveload.host.nmdm import device_of

        path = device_of(path)
    try:
        if stat.S_ISCHR(os.stat(path).st_mode):
            return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        pass  # the one message below says it all
    raise UsageError(f"Could not open '{path}'", "-c wants a character device, such as a pseudo-terminal")


def _open_disk(text: str, look: bool) -> tuple[RawImage, NamedDisk]:
    named = named_disk(text)
    try:
        return open_raw(named.path, named.read_only, look=look), named
    except InputError as error:
        raise UsageError(f"Could not open '{named.path}'", error.message) from None


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


def _open_host(path: str) -> HostDirectory:
    from bhyveload.host.directory import open_host_directory

    try:
        return open_host_directory(path)
    except OSError as error:
        raise HostError(f"open: {path}: {error.strerror}") from None


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
    _print_report(request, report)
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
        _write_lines(lines(listing))
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


def _print_report(request: LoadRequest, report: LoadReport) -> None:
    if request.json:
        from bhyveload.jsontext import dumps

        sys.stdout.write(dumps(report.as_dict(), indent=2) + "\n")
    elif request.list_variables:
        _write_lines(f"{name}={value}" for name, value in report.environment.items())
    elif request.dry_run:
        _write_lines(_describe(report))


def _write_lines(lines: Any) -> None:
    sys.stdout.write("".join(f"{escape(line)}\n" for line in lines))


def _describe(report: LoadReport) -> Any:
    """The dry run's text: what would be loaded from where, with which variables."""
    yield f"from {report.currdev} ({report.filesystem or 'no file system'}), scripts: {report.interpreter}"
    for file in report.files:
        args = f" args: {file.args}" if file.args else ""
        yield f"{file.address:#x} +{file.size:#x} {file.name} ({file.type}){args}"
    yield f"entry {report.entry:#x}, howto {report.howto:#x}, ends at {report.kernend:#x}"
    for name, value in report.environment.items():
        yield f"{name}={value}"


if __name__ == "__main__":
    sys.exit(main())
