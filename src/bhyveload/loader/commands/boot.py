"""boot and autoboot: which kernel, with which flags, from which root (stand/common/boot.c,
stand/userboot/userboot/bootinfo.c, sys/kern/subr_boot.c; docs/errata.md, "Countdown", "bootfile", "fstab")."""

from __future__ import annotations

import time

from bhyveload.errors import FileSystemError, KernelError, LoaderError
from bhyveload.libc import strtol, to_int
from bhyveload.loader.kernel.formats import exec_file
from bhyveload.loader.kernel.metadata import find_file
from bhyveload.loader.kernel.modules import load_kernel_or_module
from bhyveload.loader.state import CMD_ERROR, CMD_OK, Absent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion
    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Command, Loader

RB_ASKNAME, RB_SINGLE, RB_DFLTROOT, RB_KDB, RB_VERBOSE, RB_SERIAL = 0x1, 0x2, 0x20, 0x40, 0x800, 0x1000
RB_CDROM, RB_GDB, RB_MUTE, RB_PAUSE, RB_MUTEMSGS = 0x2000, 0x8000, 0x10000, 0x100000, 0x800000
RB_PROBE, RB_MULTIPLE = 0x10000000, 0x20000000

_FLAGS = {
    "a": RB_ASKNAME,
    "s": RB_SINGLE,
    "r": RB_DFLTROOT,
    "d": RB_KDB,
    "v": RB_VERBOSE,
    "h": RB_SERIAL,
    "C": RB_CDROM,
    "g": RB_GDB,
    "m": RB_MUTE,
    "p": RB_PAUSE,
    "D": RB_MULTIPLE,
    "P": RB_PROBE,
}
_VARIABLES = {
    "boot_askname": RB_ASKNAME,
    "boot_single": RB_SINGLE,
    "boot_dfltroot": RB_DFLTROOT,
    "boot_ddb": RB_KDB,
    "boot_verbose": RB_VERBOSE,
    "boot_serial": RB_SERIAL,
    "boot_cdrom": RB_CDROM,
    "boot_gdb": RB_GDB,
    "boot_mute": RB_MUTE,
    "boot_pause": RB_PAUSE,
    "boot_multicons": RB_MULTIPLE,
}
_SCREEN_FIRST = (
    "the guest's first console is a screen (console=vidconsole,...), which bhyverun does not have: what /etc/rc and a "
    "single-user shell write is not seen (--loader-command 'set console=comconsole,vidconsole' puts the serial port "
    "first)"
)
_DEFAULT_PROMPT = "Hit [Enter] to boot immediately, or any other key for command prompt."
_DEFAULT_DELAY = 10
_FSTAB_LINE = 128
_ASSIGNMENT = 127  # the newer loader copies at most this much of a name=value word
_MAX_FSTAB_LINES = 20_000


def boot(loader: Loader, argv: list[str]) -> int:
    run_commands(loader)
    words = argv[1:]
    if words and not words[0].startswith("-"):
        if find_file(loader.preloaded) is not None:
            return loader.fail_with(f"can't boot '{words[0]}', kernel module already loaded")
        if load_kernel_or_module(loader, words[0], words[1:]) != 0:
            return CMD_ERROR
        words = []
    if find_file(loader.preloaded) is None and load_a_kernel(loader, words[1:]):
        words = []  # the first of them is lost: the loader's own quirk
    kernel = find_file(loader.preloaded)
    if kernel is None:
        return loader.fail("no bootable kernel")
    if words:
        kernel.args = " ".join(words)
    howto = boot_howto(loader, kernel.args or "")
    if kernel.args is not None:
        kernel.args = _first_word(kernel.args, loader.version)
    if not set_root_device(loader):
        return CMD_ERROR
    loader.facts["howto"] = howto
    for restore in loader.before_exec:
        restore()
    try:
        exec_file(loader, kernel, howto)
    except KernelError as error:  # the original starts such a kernel, which dies at once
        loader.diagnosis = f"{error.message}: {error.hint}" if error.hint else error.message
        return loader.fail_with(loader.diagnosis)


def run_commands(loader: Loader) -> None:
    """Run the --loader-command lines, once: after the scripts, or when they boot themselves, before that.

    Raises LoaderError in a --batch run when one fails.
    """
    commands, loader.pending_commands = loader.pending_commands, ()
    assert loader.interpreter is not None
    for line in commands:
        if loader.interpreter.run(line) and loader.options.batch:
            why = loader.interpreter.complaint or loader.message or "unknown command"
            raise LoaderError(f"--loader-command '{line}' failed: {why}")


def load_a_kernel(loader: Loader, args: list[str]) -> bool:
    """loadakernel: try each name of $bootfile (default "kernel"); an empty one ends the list.

    With --kernel it is that one and no other: as a folder of /boot, a folder, or a file.
    """
    if loader.options.kernel:
        return _load_chosen_kernel(loader, loader.options.kernel, args)
    names = loader.environment.get("bootfile")
    for name in ("kernel" if names is None else names).split(";"):
        if not name:
            break
        if load_kernel_or_module(loader, name, args) == 0:
            return True
        loader.print(f"can't load '{name}'\n")
    return False


def _load_chosen_kernel(loader: Loader, kernel: str, args: list[str]) -> bool:
    found = False
    for name in (f"/boot/{kernel}/kernel", f"{kernel}/kernel", kernel):
        if not loader.files.exists(name):
            continue
        found = True
        if load_kernel_or_module(loader, name, args) == 0:
            folder, slash, _ = name.rpartition("/")
            if slash:
                path = loader.environment.get("module_path")
                loader.environment.set("module_path", f"{folder};{path or '/boot/kernel;/boot/modules'}")
            return True
    loader.print(f"can't load '{kernel}'\n")
    if not found:
        loader.diagnosis = Absent(f"there is no file '/boot/{kernel}/kernel'")
    return False


def boot_howto(loader: Loader, args: str) -> int:
    """bi_getboothowto: flags and assignments of the kernel's arguments, boot_* variables, consoles."""
    howto = 0
    for word in args.replace("\t", " ").replace("\n", " ").split(" "):
        if word.startswith("-"):
            howto |= _flags(loader, word)
        elif word:
            _assign(loader, word)
    variables = dict(_VARIABLES, boot_mutemsgs=RB_MUTEMSGS) if loader.version == "current" else _VARIABLES
    for name, flag in variables.items():
        value = loader.environment.get(name)
        if value is not None and value.lower() != "no":
            howto |= flag
    consoles = loader.environment.get("console") or ""
    howto = console_flags(consoles, howto)
    if consoles.startswith(("vidconsole,", "vidconsole ")):
        loader.notes.append(_SCREEN_FIRST)
    return howto


def _flags(loader: Loader, word: str) -> int:
    howto = 0
    for index, letter in enumerate(word[1:], 1):
        if letter == "S":
            loader.environment.set("comconsole_speed", word[index + 1 :])
            break
        if letter == "M" and loader.version == "current":
            howto |= RB_MUTEMSGS
        howto |= _FLAGS.get(letter, 0)
    return howto


def _assign(loader: Loader, word: str) -> None:
    if loader.version == "current":
        word = word[:_ASSIGNMENT]
    name, equals, value = word.partition("=")
    loader.environment.set(name, value if equals else "1")


def console_flags(consoles: str, howto: int) -> int:
    """What $console adds.  The last comparison comes when strsep has cut the value behind its first word (which is
    empty where the value begins with a delimiter)."""
    words = consoles.replace(",", " ").split(" ")
    if "comconsole" in words:
        howto |= RB_SERIAL
    if "nullconsole" in words:
        howto |= RB_MUTE
    if "vidconsole" in words and howto & RB_SERIAL:
        howto |= RB_MULTIPLE
    if words[0] == "vidconsole":
        howto &= ~RB_SERIAL
    return howto


def _first_word(args: str, version: LoaderVersion) -> str:
    """What splitting leaves of the arguments for the ARGS record (stand/common/boot.c)."""
    ends = [at for at in (args.find(char) for char in " \t\n") if at >= 0]
    word = args[: min(ends)] if ends else args
    if version == "13.2" and not word.startswith("-"):
        word = word.partition("=")[0]
    return word


def set_root_device(loader: Loader) -> bool:
    """Set vfs.root.mountfrom from the root device's /etc/fstab; False (said on the console) without a root device."""
    environment = loader.environment
    name = environment.get("rootdev")
    if name is None:
        name = environment.get("currdev") or ""
    try:
        device, _ = loader.files.parse(name)
    except FileSystemError:
        loader.print("can't determine root device\n")
        return False
    get_root_mount(loader, device.format())
    return True


def get_root_mount(loader: Loader, rootdev: str) -> None:
    """getrootmount: the fstab entry of `/`, else currdev when that is a ZFS dataset."""
    environment = loader.environment
    if environment.get("vfs.root.mountfrom") is not None:
        return
    path = f"{rootdev}/etc/fstab"
    entry = None
    try:
        entry = _fstab_root(loader.files.open(path), path)
    except FileSystemError:
        pass  # no fstab: the kernel will ask, or ZFS answers below
    if entry is not None:
        device, kind, mount_options = entry
        environment.set("vfs.root.mountfrom", f"{kind}:{device}", overwrite=False)
        environment.set("vfs.root.mountfrom.options", mount_options, overwrite=False)
        return
    currdev = environment.get("currdev")
    if currdev is not None and currdev.startswith("zfs:"):
        environment.set("vfs.root.mountfrom", currdev[:-1], overwrite=False)


def _fstab_root(file: OpenFile, path: str) -> tuple[str, str, str] | None:
    """(device, type, options) of the root entry.

    Works on the C buffer as it is: an entry that ends right after its type takes for options what an earlier, longer
    text left behind it (docs/errata.md, "fstab").
    """
    line = bytearray(path.encode("latin-1", "replace")[: _FSTAB_LINE - 1].ljust(_FSTAB_LINE, b"\0"))
    for _ in range(_MAX_FSTAB_LINES):
        if not _fgetstr(file, line):
            return None
        if line[0] in b"\0#":
            continue
        at = _word_end(line, 0)
        if line[at] == 0:
            continue
        device = line[:at]
        line[at] = 0
        at = _skip_space(line, at + 1)
        if line[at] != 0x2F or bytes(line[at + 1 : at + 2]) not in (b" ", b"\t", b"\v", b"\f", b"\r", b"\n"):
            continue
        at = _skip_space(line, at + 2)
        if line[at] == 0:
            continue
        end = _word_end(line, at)
        kind = line[at:end]
        line[end] = 0
        if end + 1 >= _FSTAB_LINE:
            continue
        at = _skip_space(line, end + 1)
        if line[at] == 0:
            continue
        end = _word_end(line, at)
        return device.decode("latin-1"), kind.decode("latin-1"), line[at:end].decode("latin-1")
    return None


def _fgetstr(file: OpenFile, line: bytearray) -> bool:
    """Read up to 127 characters or to CR or LF into the buffer, NUL behind them; False at the end."""
    text = file.line(_FSTAB_LINE - 1)
    if text is None:
        return False
    line[: len(text) + 1] = text + b"\0"
    return True


def _word_end(line: bytearray, at: int) -> int:
    while line[at] and line[at] not in b" \t\n\v\f\r":
        at += 1
    return at


def _skip_space(line: bytearray, at: int) -> int:
    while at < _FSTAB_LINE - 1 and line[at] in b" \t\n\v\f\r" and line[at]:
        at += 1
    return at


def autoboot_command(loader: Loader, argv: list[str]) -> int:
    if len(argv) > 3:
        return loader.fail("too many arguments")
    delay = -1
    if len(argv) > 1:
        number, end = strtol(argv[1])
        if end != len(argv[1]):
            return loader.fail_with(f"bad delay '{argv[1]}'")
        delay = to_int(number)
    return autoboot(loader, delay, argv[2] if len(argv) > 2 else None)


def autoboot_maybe(loader: Loader) -> None:
    """Before the first prompt: boot unless something tried already or autoboot_delay says NO."""
    delay = loader.environment.get("autoboot_delay")
    if not loader.autoboot_tried and (delay is None or delay.lower() != "no"):
        autoboot(loader, -1, None)


def autoboot(loader: Loader, delay: int, prompt: str | None) -> int:
    """Load a kernel if there is none, count down, boot.  ``delay`` in seconds; -1: $autoboot_delay, else 10."""
    loader.autoboot_tried = True
    environment = loader.environment
    if delay == -1:
        delay = _DEFAULT_DELAY
        value = environment.get("autoboot_delay")
        if value is not None:
            number, end = strtol(value)
            delay = to_int(number) if end else _DEFAULT_DELAY
    if environment.get("kernelname") is None:
        load_a_kernel(loader, [])
        if environment.get("kernelname") is None:
            return loader.fail("no valid kernel found")
    kernel = environment.get("kernelname") or ""
    go = True
    if delay >= 0:
        loader.print((prompt if prompt is not None else _DEFAULT_PROMPT) + "\n")
        go = _count_down(loader, delay, kernel)
    if go:
        loader.print(f"\rBooting [{kernel}]...               ")
    loader.print("\n")
    return boot(loader, ["boot"]) if go else CMD_OK


def _count_down(loader: Loader, delay: int, kernel: str) -> bool:
    """True: boot (Enter, or time is up); False: another key was pressed."""
    last = -1
    when = int(time.time()) + delay
    while True:
        if loader.console.ischar():
            return loader.console.getchar() in (0x0A, 0x0D)
        now = int(time.time())
        if now >= when:
            return True
        if now != last:
            left = when - now
            loader.print(f"\rBooting [{kernel}] in {left} second{'' if left == 1 else 's'}... ")
            last = now
        loader.console.wait_for_key(now + 1 - time.time())


COMMANDS: dict[str, Command] = {"boot": boot, "autoboot": autoboot_command}
