"""bhyvedisk(8): look into a guest's disks without mounting them: what is there, what would boot, files out of them."""

from __future__ import annotations

import os
import stat
import sys

from bhyveload.cli.getopt import Getopt, timeout_of
from bhyveload.cli.messages import program_name, run, warn
from bhyveload.cli.progress import UnpackProgress
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import FOREVER, READ_SECONDS, SURVEY_SECONDS, Deadline
from bhyveload.confined.reports import LOOKED
from bhyveload.confined.run import run as run_confined
from bhyveload.errors import EX_DATAERR, DataError, ImageError, InputError, UsageError
from bhyveload.image.named import named_disk
from bhyveload.image.open import open_disk
from bhyveload.sandbox import Sandbox

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.cli.copytarget import CopyTarget
    from bhyveload.confined.child import Leave
    from bhyveload.image.open import Disk

HELP = """\
usage: bhyvedisk info     [--json] [--svg FILE] [--html FILE] DISK...
       bhyvedisk ls       [-lR] [options] DISK... [PATH]
       bhyvedisk cat      [options] DISK... PATH
       bhyvedisk cp       [options] DISK... PATH HOST-PATH
       bhyvedisk checksum [options] DISK... [PATH]

Look into a guest's disks: nothing is mounted, nothing is written to them.

  -d, --disk DISK       a disk of the guest; repeat for more.  With it, DISK... is left away
      --partition NAME  the partition to look at: disk0p2, disk0s1a; disk0 is the whole first disk
      --dataset NAME    the ZFS dataset to look at: pool/dataset
      --allow-backing   follow the names of backing files in qcow2 images
      --timeout SECONDS give up after that long; else info after a minute, the others after four hours
      --user NAME, --require-sandbox, --no-sandbox
                        as of bhyveload: how the reading process is confined
      --json            info as JSON
      --svg FILE        info as a picture in FILE
      --html FILE       info as a page in FILE: the picture, and a table
  -l                    ls: permissions, owner, size and time, too
  -R                    ls: directories below, too
      --help, --version

Without --partition and --dataset: the file system that would boot.
PATH begins with `/' where it may be left away.  A last word that could be either is a path if the guest has it.
"""
SHORT_OPTIONS = "d:lR"
LONG_OPTIONS = {
    "disk": "d:",
    "partition": "partition:",
    "dataset": "dataset:",
    "timeout": "timeout:",
    "json": "json",
    "svg": "svg:",
    "html": "html:",
    "allow-backing": "allow-backing",
    "user": "user:",
    "require-sandbox": "require-sandbox",
    "no-sandbox": "no-sandbox",
    "help": "help",
    "version": "version",
}
# command -> (paths that must follow the disks, paths that may)
OPERANDS = {"info": (0, 0), "ls": (0, 1), "cat": (1, 1), "cp": (2, 2), "checksum": (0, 1)}
_GROWTH = 1 << 60  # what is written to standard output may be as large as it likes: the user has asked for it
_OWN_OPTIONS = {"json": "info", "svg": "info", "html": "info", "l": "ls", "R": "ls"}


class DiskRequest:
    """What the command line asks for."""

    __slots__ = (
        "command",
        "dataset",
        "deadline",
        "disks",
        "doubtful",
        "flags",
        "host_path",
        "html",
        "named",
        "partition",
        "path",
        "svg",
        "user",
    )

    def __init__(self) -> None:
        self.command = ""
        self.disks: list[str] = []
        self.named = False  # with -d
        self.doubtful = False  # whether the last operand is a path or a disk
        self.path = ""
        self.host_path = ""
        self.partition = ""
        self.dataset = ""
        self.deadline = FOREVER
        self.svg: str | None = None  # where to draw
        self.html: str | None = None
        self.user: str | None = None
        self.flags: set[str] = set()

    @property
    def drawn(self) -> bool:
        return self.svg is not None or self.html is not None


def main() -> int:
    """The program.  Exit status: 0, or as errors.py says (64 usage, 65 damaged disk, 66 no such file, ...)."""
    program = program_name("bhyvedisk")
    return run(program, lambda: _main(program, sys.argv[1:]))


def _main(program: str, words: list[str]) -> int:
    request = parse(words)
    if "help" in request.flags:
        sys.stdout.write(HELP)
        return 0
    if "version" in request.flags:
        from bhyveload import __version__

        sys.stdout.write(f"bhyvedisk (bhyveload) {__version__}\n")
        return 0
    for path in filter(None, (request.svg, request.html)):
        if any(
            os.path.exists(path) and os.path.exists(disk) and os.path.samefile(path, disk) for disk in request.disks
        ):
            raise UsageError(f"{path}: is one of the disks", "draw into another file")
    sandbox = _sandbox(program, request)
    disks = _open(program, request, sandbox)
    request.doubtful = request.doubtful and _is_file(request.path)
    if request.command == "cp":
        from bhyveload.cli.copytarget import CopyTarget

        with CopyTarget(request.host_path, request.path, request.disks) as target:
            return _look(program, request, sandbox, disks, target) or 0
    if request.doubtful:
        return _look_twice(program, request, sandbox, disks)
    return _look(program, request, sandbox, disks) or 0


def _look_twice(program: str, request: DiskRequest, sandbox: Sandbox | bool, disks: list[Disk]) -> int:
    """The last operand is a path if the guest has it; else a disk, if one with anything on it has that name."""
    path = request.path
    request.doubtful = False
    try:
        return _look(program, request, sandbox, disks) or 0
    except (InputError, DataError) as error:
        first = error
    request.doubtful = True
    request.path = ""
    try:
        last = _open_disk(program, request, sandbox, path)
    except (InputError, ImageError):
        raise first from None
    status = _look(program, request, sandbox, [*disks, last])
    if status is None:
        raise first
    return status


def _open_disk(program: str, request: DiskRequest, sandbox: Sandbox | bool, path: str) -> Disk:
    named = named_disk(path)
    return open_disk(
        named.path,
        read_only=True,
        format=named.format,
        allow_backing=named.backing or "allow-backing" in request.flags,
        progress=UnpackProgress(program),
        sandbox=sandbox,
        deadline=request.deadline,
    )


def _is_file(path: str) -> bool:
    try:
        mode = os.stat(named_disk(path).path).st_mode
    except OSError:
        return False
    if stat.S_ISCHR(mode):
        return sys.platform.startswith("freebsd")  # whose disks they are
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _sandbox(program: str, request: DiskRequest) -> Sandbox | bool:
    if "no-sandbox" in request.flags:
        warn(program, "--no-sandbox: the reading process has all your rights; a hostile guest could use them")
        return False
    sandbox = Sandbox(request.user, "require-sandbox" in request.flags, growth=_GROWTH)
    for lack in sandbox.missing:
        warn(program, f"sandbox: {lack}")
    return sandbox


def _open(program: str, request: DiskRequest, sandbox: Sandbox | bool) -> list[Disk]:
    """Raises InputError, ImageError."""
    disks: list[Disk] = []
    for path in request.disks:
        try:
            disks.append(_open_disk(program, request, sandbox, path))
        except InputError as error:
            if disks and not request.named and "/" not in path:
                raise InputError(error.message, "a path on the guest begins with '/'") from None
            raise
    return disks


def parse(words: list[str]) -> DiskRequest:
    """The request in the command line ``words``; options may stand anywhere before a `--`.  Raises UsageError."""
    request = DiskRequest()
    last = words.index("--") if "--" in words else len(words)
    pending, behind = words[:last], words[last + 1 :]
    operands: list[str] = []
    while pending:
        options = Getopt(pending, SHORT_OPTIONS, LONG_OPTIONS)
        for option, argument in options:
            _take(request, option, argument or "")
        pending = options.operands
        if pending:
            operands.append(pending.pop(0))
    operands += behind
    if request.flags & {"help", "version"}:
        return request
    _sort_operands(request, operands)
    for flag, command in _OWN_OPTIONS.items():
        if flag in request.flags and request.command != command:
            dashes = "-" if len(flag) == 1 else "--"
            raise UsageError(f"{dashes}{flag} goes with {command} only")
    if "no-sandbox" in request.flags and ("require-sandbox" in request.flags or request.user is not None):
        raise UsageError("--no-sandbox contradicts --require-sandbox and --user")
    if request.partition and request.dataset:
        raise UsageError("--partition and --dataset exclude each other", "a dataset is on all of its pool's partitions")
    for option, name in (("partition", request.partition), ("dataset", request.dataset)):
        if name and request.command == "info":
            raise UsageError(f"--{option} does not go with info", "info shows all that is on the disks")
    return request


def _take(request: DiskRequest, option: str, argument: str) -> None:
    if option == "d":
        request.disks.append(argument)
    elif option in ("partition", "dataset"):
        if not argument:
            raise UsageError(f"--{option} wants a name")
        setattr(request, option, argument)
    elif option in ("user", "svg", "html"):
        setattr(request, option, argument)
        request.flags.add(option)
    elif option == "timeout":
        request.deadline = Deadline(timeout_of(argument))
    else:
        request.flags.add(option)


def _sort_operands(request: DiskRequest, operands: list[str]) -> None:
    """Tell disks from paths: see HELP.  Raises UsageError."""
    command = operands.pop(0) if operands else ""
    if command not in OPERANDS:
        known = ", ".join(OPERANDS)
        raise UsageError(f"unknown command '{command}'" if command else "no command", f"it is one of {known}; --help")
    request.command = command
    least, most = OPERANDS[command]
    if request.disks:
        request.named = True
        count = len(operands)
    elif least < most:
        count = 1 if len(operands) > 1 and operands[-1].startswith("/") else 0
    else:
        count = min(least, max(0, len(operands) - 1))
    request.doubtful = not request.named and least < most and count > 0
    split = len(operands) - count
    request.disks += operands[:split]
    paths = operands[split:]
    if not request.disks:
        raise UsageError(f"{command}: no disk is named", "bhyvedisk --help")
    if not least <= len(paths) <= most:
        if len(paths) < least:
            missing = "the path of a file on the guest" if not paths else "the host's path to copy to"
            raise UsageError(f"{command}: {missing} is missing", "bhyvedisk --help")
        raise UsageError(f"{command}: '{paths[most]}' is too much", "with -d the disks are all named by -d")
    if paths:
        request.path = paths[0]
    if len(paths) > 1:
        request.host_path = paths[1]


def copy_out(disks: list[Disk], partition: str, dataset: str, path: str, folder: str) -> str:
    """Copy a guest's file into a folder of the host, as cp does; where it is then.  Raises BhyveloadError."""
    from bhyveload.cli.copytarget import CopyTarget

    request = DiskRequest()
    request.command, request.path = "cp", path
    request.partition, request.dataset = partition, dataset
    sandbox = Sandbox(None, False, growth=_GROWTH)
    with CopyTarget(os.path.join(folder, ""), path, [disk.name for disk in disks]) as target:
        _look(program_name("bhyvedisk"), request, sandbox, disks, target)
        return target.path


def _look(
    program: str, request: DiskRequest, sandbox: Sandbox | bool, disks: list[Disk], target: CopyTarget | None = None
) -> int | None:
    """Do it in a confined child, which sees every byte of the guest's; once more when that lacked a module.

    None: nothing was done because the last disk, of which that was doubtful, is none.
    """
    from bhyveload.inspect.output import Output
    from bhyveload.inspect.work import prepare, work

    prepare(request.command)

    output = Output(1) if target is None else Output(target.fd, target.is_new)

    def child(_: Leave) -> dict[str, Any]:
        return work(request, disks, output, lambda text: warn(program, text))

    deadline = request.deadline.or_else(SURVEY_SECONDS if request.command == "info" else READ_SECONDS)
    subject = Subject(
        "bhyvedisk's reader", sandbox if isinstance(sandbox, Sandbox) else None, disks=disks, others=[output.fd]
    )
    report = run_confined(child, subject, deadline, LOOKED)
    if report["layout"] is not None:
        from bhyveload.cli.disk_picture import picture
        from bhyveload.cli.drawing import save

        save(picture(report["layout"], request.disks), request.svg, request.html)
    return _finish(report, target)


def _finish(report: dict[str, Any], target: CopyTarget | None) -> int | None:
    if report["no disk"]:
        return None
    number = report["output"]
    if number is not None:
        raise OSError(number, os.strerror(number), "standard output" if target is None else target.path)
    if target is not None:
        mode = report["mode"]
        target.commit(0o644 if mode is None else mode & 0o777)
    return EX_DATAERR if report["damage"] else 0


if __name__ == "__main__":
    sys.exit(main())
