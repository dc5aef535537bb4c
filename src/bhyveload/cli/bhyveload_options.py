"""bhyveload(8)'s options, and what each does as it is read.

As in main of usr.sbin/bhyveload/bhyveload.c they are acted on in command-line order: an early error masks later ones.
"""

from __future__ import annotations

import os
import stat
import sys

from bhyveload.cli.getopt import Getopt, timeout_of
from bhyveload.cli.loaders import check_directory, open_loader
from bhyveload.cli.machines import check_vmm
from bhyveload.compat import compat_option
from bhyveload.confined.deadline import FOREVER, Deadline
from bhyveload.errors import HostError, InputError, UsageError
from bhyveload.image.named import named_disk
from bhyveload.image.raw import RawImage, open_raw
from bhyveload.vm.memory import MB
from bhyveload.vm.memsize import parse_memory_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.compat import LoaderVersion
    from bhyveload.host.interface import HostDirectory
    from bhyveload.image.named import NamedDisk

DEFAULT_MEMORY = 256 * MB
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
    "explain": "explain",
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
      --explain           when it fails: the way it took, what it looked for, what is there instead
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
        self.batch = self.json = self.explain = self.dry_run = self.list_variables = self.list_boot_envs = False
        self.single_user = self.verbose = False
        self.kernel = self.boot_device = self.boot_environment = ""
        self.commands: list[str] = []
        self.vmm = "auto"
        self.compat: LoaderVersion | None = None  # not chosen
        self.deadline = FOREVER
        self.user: str | None = None
        self.require_sandbox = self.no_sandbox = False


class GetoptError(Exception):
    """getopt's own complaint, which is followed by the usage text."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def walk(options: Getopt) -> Iterator[tuple[str, str | None]]:
    """Each option with its argument.  Raises GetoptError."""
    steps = iter(options)
    while True:
        try:
            step = next(steps)
        except StopIteration:
            return
        except UsageError as error:
            raise GetoptError(error.message) from None
        yield step


def only_looks(words: list[str]) -> bool:
    """Whether an option among ``words``, wherever it stands, says that nothing is kept."""
    try:
        return any(option in LOOKS for option, _ in Getopt(words, SHORT_OPTIONS, LONG_OPTIONS))
    except UsageError:
        return False  # told when the walk comes to it


def act(request: LoadRequest, option: str, argument: str) -> None:
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
            | "explain"
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


def _open_host(path: str) -> HostDirectory:
    from bhyveload.host.directory import open_host_directory

    try:
        return open_host_directory(path)
    except OSError as error:
        raise HostError(f"open: {path}: {error.strerror}") from None
