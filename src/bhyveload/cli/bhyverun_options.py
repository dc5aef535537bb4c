"""bhyverun's command line."""

from __future__ import annotations

import os

from bhyveload.cli.getopt import Getopt, number_of, timeout_of
from bhyveload.errors import UsageError
from bhyveload.handoff.network import Network, parse_network
from bhyveload.handoff.qemu.command import MAX_CPUS
from bhyveload.running.choices import STDIO, check_console, parse_key
from bhyveload.vm.memsize import parse_memory_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USAGE = """\
usage: bhyverun [options] NAME [-- QEMU-ARGUMENT...]
       bhyverun --exec COMMAND [options] NAME|IMAGE
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
      --add-disk PATH   one more disk, behind those
      --allow-backing   as ,backing behind the only disk
      --no-disk         no disk at all
      --overlay FILE    what the guest writes to its disk goes into FILE, a qcow2 image, made if it is not there;
                        repeat for the next disks
      --snapshot        what the guest writes to its disks is dropped at the end of the run

      --seed USER-DATA[,META-DATA]
                        a disk for the guest's first boot (nuageinit, cloud-init) with these files; short forms:
      --hostname NAME, --ssh-key FILE.pub

      --net NETWORK     none (default), user[,host][,hostfwd=tcp:127.0.0.1:2222-:22]..., or tap,INTERFACE;
                        user alone reaches nothing behind its gateway, host opens it; also mac=, model=
      --ssh PORT        user network; PORT of the host's loopback leads to the guest's sshd
      --share DIR       a folder for the guest (9p, FreeBSD 15); behind DIR: ,tag=NAME ,ro; with --exec it is mounted
                        on /mnt/NAME, or where ,at=PLACE says, or not (,at=none)

      --console WHERE   stdio (default), pty, unix:PATH, tcp:[HOST:]PORT, a device or file, none;
                        bhyvectl --vm=NAME --console reaches it as well
      --log FILE        append the console's output to FILE
      --escape KEY      the key in front of commands for the run (Ctrl-A), or none
      --daemon          run in the background, console none; return when the guest runs
      --pid-file FILE   write the process id there
      --restart         when the guest reboots, load it again as it was loaded and run it
      --timeout SECONDS end the run after that time with exit status 124

      --expect REGEX    the run ends, with 0, when a line of the console matches; with 3 when the guest ends before
      --fail-on REGEX   the run ends with 3 when a line matches; both may be repeated
      --gdb PORT        wait for gdb on PORT of the host's loopback (target remote :PORT) before the guest starts
      --symbols FOLDER  with --gdb: copy the kernel and its debug information from the guest's disk into FOLDER

      --exec COMMAND    boot, log in on the console, run COMMAND in the guest's sh: its output is ours, its exit status
                        too; repeat for more, up to the first that fails.  What the guest writes to its disks is
                        dropped, unless there is an --overlay.  With a disk's IMAGE for NAME: load that, keep no VM
      --login NAME      who logs in (root); --password-file FILE: a password other than none
      --put FILE:PLACE  a file for the guest, before the commands; --get PLACE:FILE from it, after them; small ones
      --copy-in DIR[:PLACE]
                        a folder for the guest, before the commands; --copy-out PLACE[:DIR] from it, after them;
                        --copy-limit SIZE (8G) is the most that one may have
      -m, --memory SIZE for an IMAGE: guest memory (512M); -e, --env NAME=VALUE: a loader variable

      --save FOLDER     run in a way that can be saved, into a new FOLDER: by bhyvectl --vm=NAME --save, or
      --save-at REGEX   when a line of the console matches; the run then ends with 0.  With --exec: after the commands
      --restore FOLDER  run the saved guest as a clone called NAME: memory is shared until written, what it writes to
                        its disks is dropped at the end, or kept in a new --overlay FILE; also with --exec
      --on-restore COMMAND
                        run in the clone's sh first, with $BHYVE_NAME, $BHYVE_MAC and $BHYVE_TIME (the host's, seconds)

      --user NAME       as root: whom QEMU runs as (nobody)
      --no-sandbox      do not confine QEMU; needed for QEMU-ARGUMENTs that name files
      --dry-run         print the QEMU command and do nothing
      --stub FILE       keep the start-up stub in FILE (with --dry-run: the printed command then runs)
      --export FILE     write the whole VM as one PVH image and print the command that runs it
      --vm NAME         NAME, for one that begins with '-'
  QEMU-ARGUMENT...      handed to QEMU as they are

Exit status: 0 rebooted, 1 powered off or stopped, 2 halted, 3 triple fault, 4 error, 124 out of time, 130 interrupted;
3 also when the kernel stands in its debugger or at mountroot> and nobody can type.
With --exec: the command's, 124 out of time, 125 an error of ours, 126 the guest ended or panicked.
"""
)
ACCELERATORS = ("auto", "kvm", "tcg")
_FLAGS = ("allow-backing", "daemon", "dry-run", "help", "no-disk", "no-sandbox", "restart", "snapshot", "version")
_WITH_ARGUMENT = (
    *("accel", "add-disk", "console", "escape", "export", "log", "net", "overlay", "pid-file", "share", "ssh", "stub"),
    *("timeout", "user", "vm", "exec", "login", "password-file", "put", "get", "seed", "hostname", "ssh-key"),
    *("expect", "fail-on", "gdb", "symbols", "save", "save-at", "restore", "on-restore"),
    *("copy-in", "copy-out", "copy-limit"),
)
_WORDS = (
    *("export", "hostname", "log", "seed", "pid-file", "stub", "user"),
    *("save", "save-at", "restore", "on-restore"),
)  # kept as they are
SHORT_OPTIONS = "c:d:e:m:"
LONG_OPTIONS = {
    "cpus": "c:",
    "disk": "d:",
    "env": "e:",
    "memory": "m:",
    **{name: name for name in _FLAGS},
    **{name: f"{name}:" for name in _WITH_ARGUMENT},
}
GUEST_MEMORY = 512 << 20
NO_MOUNT = "none"
_TAG_LIMIT = 31  # QEMU's


class Arguments:
    """The command line.  ``disks`` as the user names them; None for those that bhyveload was given."""

    def __init__(self) -> None:
        self.accel = "auto"
        self.cpus = 1
        self.disks: list[str] | None = None
        self.added: list[str] = []
        self.allow_backing = self.snapshot = False
        self.overlays: list[str] = []
        self.net = Network()
        self.shares: list[tuple[str, str, bool]] = []
        self.user: str | None = None
        self.confined = True
        self.console = ""
        self.log = self.pid_file = ""
        self.escape = b"\1"
        self.daemon = self.restart = False
        self.timeout: float | None = None
        self.dry_run = False
        self.stub = self.export = ""
        self.show = ""
        self.expect: list[str] = []
        self.fail_on: list[str] = []
        self.gdb = 0
        self.symbols = ""
        self.seed = self.hostname = ""
        self.ssh_keys: list[str] = []
        self.save = self.save_at = self.restore = self.on_restore = ""
        self.for_image: list[str] = []  # the options that only --exec of an image has
        self.commands: list[str] = []
        self.puts: list[tuple[str, str]] = []
        self.gets: list[tuple[str, str]] = []
        self.copies_in: list[tuple[str, str]] = []
        self.copies_out: list[tuple[str, str]] = []
        self.copy_limit = 0
        self.mounts: list[tuple[str, str]] = []  # (tag, place in the guest) of the shares
        self.login, self.password_file = "root", ""
        self.memory = GUEST_MEMORY
        self.environment: list[str] = []
        self.for_exec: list[str] = []  # the options that only --exec has
        self.name = ""
        self.extra: list[str] = []


def parse(words: Sequence[str]) -> Arguments:
    """The command line ``words``.  Raises UsageError."""
    arguments = Arguments()
    words = list(words)
    if "--" in words:
        at = words.index("--")
        words, arguments.extra = words[:at], words[at + 1 :]
    operands: list[str] = []
    no_disk, ssh, net = False, "", ""
    for option, value in _options_around_operands(words, operands):
        if option in ("help", "version"):
            arguments.show = option
            return arguments
        if option == "no-disk":
            no_disk = True
        elif option == "ssh":
            ssh = value
        elif option == "net":
            net = value
        elif option == "vm":
            operands.append(value)
        else:
            _act(arguments, option, value)
    arguments.net = parse_network(net) if net else Network()
    if ssh:
        arguments.net = arguments.net.with_ssh(ssh)
    if not operands and arguments.extra:  # a name that begins with "-"
        operands.append(arguments.extra.pop(0))
        if arguments.extra[:1] == ["--"]:
            del arguments.extra[0]
    if len(operands) != 1:
        what = "name the VM" if not operands else f"one VM, not {len(operands)}"
        raise UsageError(what, "bhyverun --help; arguments for QEMU stand behind --")
    arguments.name = operands[0]
    _check(arguments, no_disk)
    return arguments


def _act(arguments: Arguments, option: str, value: str) -> None:
    match option:
        case "accel":
            arguments.accel = _one_of("accel", value, ACCELERATORS)
        case "c":
            arguments.cpus = _cpus(value)
        case "d":
            arguments.disks = [*(arguments.disks or ()), value]
        case "add-disk":
            arguments.added.append(value)
        case "overlay":
            arguments.overlays.append(value)
        case "share":
            share, place = _share(value, len(arguments.shares))
            arguments.shares.append(share)
            if place != NO_MOUNT:
                arguments.mounts.append((share[1], place or f"/mnt/{share[1]}"))
            if place:
                arguments.for_exec.append("--share with ,at=")
        case "console":
            arguments.console = check_console(value)
        case "escape":
            arguments.escape = _escape(value)
        case "timeout":
            arguments.timeout = timeout_of(value)
        case "expect":
            arguments.expect.append(value)
        case "ssh-key":
            arguments.ssh_keys.append(value)
        case "fail-on":
            arguments.fail_on.append(value)
        case "gdb":
            arguments.gdb = number_of(value, 1, 65535) or 0
            if not arguments.gdb:
                raise UsageError(f"--gdb {value}: must be a port from 1 to 65535")
        case "symbols":
            arguments.symbols = value
        case "exec":
            arguments.commands.append(value)
        case "put" | "get" | "e" | "m" | "login" | "password-file" | "copy-in" | "copy-out" | "copy-limit":
            arguments.for_exec.append(f"--{option}" if len(option) > 1 else f"-{option}")
            arguments.for_image += [option] if option in ("e", "m") else []
            _act_for_exec(arguments, option, value)
        case "no-sandbox":
            arguments.confined = False
        case (
            "export"
            | "hostname"
            | "log"
            | "seed"
            | "pid-file"
            | "stub"
            | "user"
            | "save"
            | "save-at"
            | "restore"
            | "on-restore"
        ):
            setattr(arguments, option.replace("-", "_"), value)
        case _:
            setattr(arguments, option.replace("-", "_"), True)


def _act_for_exec(arguments: Arguments, option: str, value: str) -> None:
    match option:
        case "put":
            arguments.puts.append(_two_files(option, value))
        case "get":
            arguments.gets.append(_two_files(option, value))
        case "e":
            arguments.environment.append(value)
        case "copy-in":
            arguments.copies_in.append(_two_folders(option, *value.partition(":")))
        case "copy-out":
            front, colon, behind = value.rpartition(":")
            arguments.copies_out.append(_two_folders(option, *((front, colon, behind) if colon else (value, "", ""))))
        case "copy-limit":
            arguments.copy_limit = parse_memory_size(value, "current")
        case "m":
            arguments.memory = parse_memory_size(value, "current")
        case "login":
            arguments.login = _login(value)
        case _:
            setattr(arguments, option.replace("-", "_"), value)


def _login(value: str) -> str:
    """A name that can be typed at a prompt and is one word there."""
    if not value or value.startswith("-") or not value.isprintable() or any(map(str.isspace, value)):
        raise UsageError(f"--login '{value}': must be a user's name")
    return value


def _two_files(option: str, value: str) -> tuple[str, str]:
    source, colon, target = value.rpartition(":") if option == "get" else value.partition(":")
    if not (colon and source and target):
        raise UsageError(f"--{option} {value}: must be two files with a colon between them")
    return source, target


def _two_folders(option: str, source: str, colon: str, target: str) -> tuple[str, str]:
    """Without a colon the folder's own name: in the home of who logs in, or here."""
    name = target if colon else os.path.basename(os.path.abspath(source) if option == "copy-in" else source.rstrip("/"))
    if not source or (name in ("", ".", "..") and not colon) or not name:
        raise UsageError(f"--{option} {source}{colon}{target}: must be two folders with a colon between them")
    return source, name


def _check_exec(arguments: Arguments) -> None:
    free = ["--copy-limit"] if arguments.save else ["--login", "--password-file"] if arguments.on_restore else []
    bound = [option for option in arguments.for_exec if option not in free]
    if bound and not arguments.commands:
        raise UsageError(f"{bound[0]} is for --exec")
    if not arguments.commands:
        return
    for option in ("daemon", "restart", "dry_run", "stub", "export", "expect", "fail_on"):
        if getattr(arguments, option):
            raise UsageError(f"--exec and --{option.replace('_', '-')} exclude each other")
    if arguments.console == STDIO:
        raise UsageError("--exec has the console for itself", "--log FILE keeps what it says")
    arguments.console = arguments.console or "none"
    arguments.snapshot = arguments.snapshot or not (arguments.overlays or arguments.restore or arguments.save)


def _check_saved(arguments: Arguments) -> None:
    """What does not go with --save and --restore.  Raises UsageError."""
    if arguments.save_at and not arguments.save:
        raise UsageError("--save-at is for --save")
    if arguments.on_restore and not arguments.restore:
        raise UsageError("--on-restore is for --restore")
    if arguments.save_at and arguments.commands:
        raise UsageError("--save-at and --exec exclude each other", "with --exec a guest is saved after the commands")
    if not (arguments.save or arguments.restore):
        return
    one = "--save" if arguments.save else "--restore"
    others = [
        "restart",
        "snapshot",
        "seed",
        "hostname",
        "ssh_keys",
        "shares",
        "gdb",
        "dry_run",
        "stub",
        "export",
        "extra",
    ]
    others += ["restore", "overlays"] if arguments.save else ["added", "allow_backing", "for_image", "copy_limit"]
    names = {
        "overlays": "--overlay",
        "shares": "--share",
        "added": "--add-disk",
        "for_image": "-m and -e",
        "extra": "QEMU's own arguments",
    }
    for member in others:
        if getattr(arguments, member, None):
            name = names.get(member, f"--{member.replace('_', '-')}")
            raise UsageError(f"{one} and {name} exclude each other")
    if arguments.restore and (arguments.disks is not None or arguments.cpus != 1):
        raise UsageError("--restore: disks and processors are those of the saved guest")


def _check(arguments: Arguments, no_disk: bool) -> None:
    """What does not go together.  Raises UsageError."""
    if no_disk and arguments.disks is not None:
        raise UsageError("--no-disk and --disk exclude each other")
    if no_disk:
        arguments.disks = []
    if arguments.allow_backing and len(arguments.disks or ()) > 1:
        raise UsageError("--allow-backing is for a single disk", "say it of the disk that needs it: -d PATH,backing")
    if arguments.snapshot and arguments.overlays:
        raise UsageError("--snapshot and --overlay exclude each other")
    if "-snapshot" in arguments.extra or "--snapshot" in arguments.extra:
        raise UsageError("QEMU's -snapshot has no effect on these disks", "bhyverun --snapshot NAME, without the --")
    if arguments.symbols and not arguments.gdb:
        raise UsageError("--symbols is for --gdb", "bhyvectl --vm=NAME --dump=FILE has it, too")
    _check_saved(arguments)
    _check_exec(arguments)
    if arguments.daemon and arguments.console == STDIO:
        raise UsageError("--daemon has no terminal", "bhyvectl --vm=NAME --console reaches the guest's console")
    if (arguments.seed or arguments.hostname or arguments.ssh_keys) and (
        arguments.dry_run or arguments.stub or arguments.export
    ):
        raise UsageError("a seed is made for a run: not with --dry-run, --stub, --export")
    arguments.console = arguments.console or ("none" if arguments.daemon else STDIO)


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


def _escape(value: str) -> bytes:
    key = parse_key(value)
    if not key and value != "none":
        raise UsageError(f"--escape {value}: must be a key, as Ctrl-A, ^] or ~, or none")
    return key


def _share(value: str, number: int) -> tuple[tuple[str, str, bool], str]:
    """(folder, tag, read-only), and where it is mounted, if that is said."""
    path, tag, read_only, place = value, f"share{number}" if number else "share", False, ""
    while True:
        front, comma, word = path.rpartition(",")
        if comma and word == "ro":
            read_only = True
        elif comma and word.startswith("tag="):
            tag = word[len("tag=") :]
        elif comma and word.startswith("at="):
            place = word[len("at=") :]
        else:
            break
        path = front
    if not 0 < len(tag.encode()) <= _TAG_LIMIT or not tag.isprintable():
        raise UsageError(f"--share {value}: a tag has 1 to {_TAG_LIMIT} characters")
    return (path, tag, read_only), place
