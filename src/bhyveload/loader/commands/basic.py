"""Everyday builtin commands: variables, text, files on the screen, help.

Sources: stand/common/{commands,interp,bcache}.c, stand/libsa/pager.c, stand/userboot/userboot/main.c;
docs/errata.md, "Words of the loader".
"""

from __future__ import annotations

import time

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import strerror
from bhyveload.host.callbacks import USERBOOT_EXIT_QUIT, USERBOOT_EXIT_REBOOT
from bhyveload.libc import strtol, to_int
from bhyveload.loader.commands.options import options
from bhyveload.loader.state import CMD_ERROR, CMD_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Command, Loader

_BANNER = 79  # command_more's line buffer
_PAGE = 79  # pager_file's
_HELP_LINE = 80
_HELP_FILE = "/boot/loader.help.userboot"
_MAX_HELP = 512 << 10  # bytes of that file; FreeBSD's has 30 KB
_MAX_SHOWN = 8 << 20  # bytes of one file on the screen
_TOO_LONG = -2
_MAX_READTEST = 256 << 20


def quit_loader(loader: Loader, argv: list[str]) -> int:
    loader.host.exit(USERBOOT_EXIT_QUIT)


def reboot(loader: Loader, argv: list[str]) -> int:
    loader.host.exit(USERBOOT_EXIT_REBOOT)


def show(loader: Loader, argv: list[str]) -> int:
    if len(argv) < 2:
        console = loader.console
        console.pager_open()
        for variable in loader.environment.sorted():
            if console.pager_output(f"{variable.name}={variable.value or ''}\n"):
                break
        console.pager_close()
        return CMD_OK
    value = loader.environment.get(argv[1])
    if value is None:
        return loader.fail_with(f"variable '{argv[1]}' not found")
    loader.print(value + "\n")
    return CMD_OK


def set_variable(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        return loader.fail("wrong number of arguments")
    error = loader.environment.put(argv[1])
    return loader.fail(strerror(error)) if error else CMD_OK


def unset(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        return loader.fail("wrong number of arguments")
    error = loader.environment.unset(argv[1])
    return loader.fail(strerror(error)) if error else CMD_OK


def echo(loader: Loader, argv: list[str]) -> int:
    parsed = options(loader, argv, "n")
    if parsed is None:
        return CMD_OK
    letters, words = parsed
    loader.print(" ".join(words) + ("" if letters else "\n"))
    return CMD_OK


def read(loader: Loader, argv: list[str]) -> int:
    bad: list[str] = []

    def is_bad_timeout(letter: str, argument: str) -> bool:
        if letter == "t" and strtol(argument)[1] == 0:
            bad.append(f"bad timeout '{argument}'")
        return bool(bad)

    parsed = options(loader, argv, "p:t:", is_bad_timeout)
    if parsed is None:
        return loader.fail_with(bad[0]) if bad else CMD_OK
    letters, words = parsed
    timeout = -1
    prompt = ""
    for letter, argument in letters:
        if letter == "p":
            prompt = argument
        else:
            timeout = to_int(strtol(argument)[0])
    loader.print(prompt)
    if timeout >= 0 and not loader.console.wait_for_key(timeout):
        return CMD_OK
    line = loader.console.gets(256)
    if words:
        loader.environment.set(words[0], line)
    return CMD_OK


def more(loader: Loader, argv: list[str]) -> int:
    console = loader.console
    console.pager_open()
    for name in argv[1:]:
        if console.pager_output(f"*** FILE {name} BEGIN ***\n"[:_BANNER]):
            break
        if page_file(loader, name) or console.pager_output(f"*** FILE {name} END ***\n"[:_BANNER]):
            break
    console.pager_close()
    return CMD_OK


def page_file(loader: Loader, name: str) -> int:
    """page_file of commands.c: as pager_file, with a text for the command's error."""
    result = pager_file(loader, name)
    if result < 0:
        too_long = f": more than {_MAX_SHOWN >> 20} MiB" if result == _TOO_LONG else ""
        loader.fail_with(f"error showing {name}{too_long}")
    return result


def pager_file(loader: Loader, name: str) -> int:
    """0 shown, 1 the user quit, -1 it cannot be opened or read, _TOO_LONG to be a text."""
    try:
        file = loader.files.open(name)
    except FileSystemError as error:
        loader.print(f"can't open '{name}': {strerror(error.errno)}\n")
        return -1
    shown = 0
    try:
        while data := file.read(_PAGE):
            shown += len(data)
            if shown > _MAX_SHOWN:
                return _TOO_LONG
            if loader.console.pager_output(data.decode("latin-1").partition("\0")[0]):
                return 1
    except FileSystemError:
        return -1
    return 0


def _devices(loader: Loader, verbose: bool) -> Iterator[str]:
    yield "host devices:\n"
    yield "    host0:   Host filesystem\n"
    yield from loader.disks.describe("disk", verbose)
    yield from loader.disks.describe("vdisk", verbose)
    if loader.files.pools is not None:
        yield from loader.files.pools.describe(verbose)


def lsdev(loader: Loader, argv: list[str]) -> int:
    parsed = options(loader, argv, "v")
    if parsed is None:
        return CMD_OK
    verbose = bool(parsed[0])
    console = loader.console
    console.pager_open()
    for line in _devices(loader, verbose):
        if console.pager_output(line):
            break
    console.pager_close()
    return CMD_OK


def readtest(loader: Loader, argv: list[str]) -> int:
    if len(argv) != 2:
        return loader.fail_with("Usage: readtest <filename>")
    start = int(time.time())
    try:
        file = loader.files.open(argv[1])
    except FileSystemError:
        return loader.fail_with(f"can't open '{argv[1]}'")
    count = 0
    try:
        while count < _MAX_READTEST and (data := file.read(512)):
            count += len(data)
    except FileSystemError:
        pass  # the loader stops counting there, too
    if count >= _MAX_READTEST:
        return loader.fail_with(f"'{argv[1]}' is longer than {_MAX_READTEST >> 20} MiB: no further")
    loader.print(f"Received {count} bytes during {int(time.time()) - start} seconds\n")
    return CMD_OK


def include(loader: Loader, argv: list[str]) -> int:
    assert loader.interpreter is not None
    for path in argv[1:]:
        result = loader.interpreter.include(path)
        if result != CMD_OK:
            return result
    return CMD_OK


def bcachestat(loader: Loader, argv: list[str]) -> int:
    """The block cache's counters: images are mapped here, so there is nothing to count."""
    if len(argv) != 1:
        return loader.fail("wrong number of arguments")
    loader.print("\ncache blocks: 32768\ncache blocksz: 512\ncache readahead: 256\nunit cache blocks: 32768\n")
    loader.print(f"cached units: {len(loader.host.disks)}\n0 ops 0 bypasses 0 hits 0 misses\n")
    return CMD_OK


def _help_line(file: OpenFile) -> str | None:
    """fgetstr into an 80-byte buffer: a line without its end, None at the end of the file."""
    line = file.line(_HELP_LINE - 1) if file.tell < _MAX_HELP else None
    return None if line is None else line.decode("latin-1").partition("\0")[0]


def _help_entry(file: OpenFile) -> tuple[str, str | None, str | None] | None:
    """help_getnext: (topic, subtopic, description) of the next `# Ttopic Ssub Ddesc` line."""
    while (line := _help_line(file)) is not None:
        if len(line) < 3 or not line.startswith("# "):
            continue
        topic = subtopic = description = None
        rest: str | None = line[2:]
        while rest:
            word, space, behind = rest.partition(" ")
            if rest[0] == "T" and topic is None:
                topic = word[1:]
            elif rest[0] == "S" and subtopic is None:
                subtopic = word[1:]
            elif rest[0] == "D":
                description = rest[1:]
                break
            rest = behind if space else None
        if topic is not None:
            return topic, subtopic, description
    return None


def _emit_summary(loader: Loader, entry: tuple[str, str | None, str | None]) -> bool:
    topic, subtopic, description = entry
    text = topic if subtopic is None else f"{topic} {subtopic}"
    if description is not None:
        text += " " * max(1, 31 - len(text)) + description
    return loader.console.pager_output(f"    {text}\n")


def help_command(loader: Loader, argv: list[str]) -> int:
    try:
        file = loader.files.open(((loader.environment.get("loaddev") or "") + _HELP_FILE)[:80])
    except FileSystemError:
        loader.print("Verbose help not available, use '?' to list commands\n")
        return CMD_OK
    if len(argv) > 3:
        return loader.fail("usage is 'help <topic> [<subtopic>]")
    topic = argv[1] if len(argv) > 1 else "help"
    subtopic = argv[2] if len(argv) > 2 else None
    matched = index = topic == "index"
    loader.console.pager_open()
    try:
        while (entry := _help_entry(file)) is not None:
            if index:
                if _emit_summary(loader, entry):
                    break
            elif entry[0] != topic:
                if matched:
                    break
            else:
                matched = True
                if entry[1] == subtopic:
                    while (line := _help_line(file)) is not None and not line.startswith("#"):
                        if loader.console.pager_output(line) or loader.console.pager_output("\n"):
                            break
                elif subtopic is None and _emit_summary(loader, entry):
                    break
    except FileSystemError:
        pass  # an unreadable help file ends there
    loader.console.pager_close()
    if not matched:
        return loader.fail_with(f"no help available for '{topic}'", CMD_ERROR)
    return CMD_OK


COMMANDS: dict[str, Command] = {
    "quit": quit_loader,
    "reboot": reboot,
    "show": show,
    "set": set_variable,
    "unset": unset,
    "echo": echo,
    "read": read,
    "more": more,
    "lsdev": lsdev,
    "readtest": readtest,
    "include": include,
    "bcachestat": bcachestat,
    "help": help_command,
}
