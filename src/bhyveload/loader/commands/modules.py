"""Builtin commands for kernels, modules and preloaded files (the COMMAND_SETs of stand/common/module.c).

Letters and texts: stand/common/module.c; docs/errata.md, "What is not imitated".
"""

from __future__ import annotations

from bhyveload.libc import strtol, to_int
from bhyveload.loader.commands.options import options
from bhyveload.loader.kernel import modules
from bhyveload.loader.kernel.metadata import find_file
from bhyveload.loader.kernel.modules import load_kernel_or_module
from bhyveload.loader.state import CMD_CRIT, CMD_ERROR, CMD_FATAL, CMD_OK, CMD_WARN
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.kernel import hints as linker_hints
    from bhyveload.loader.kernel.hints import PnpOptions
    from bhyveload.loader.kernel.preloaded import PreloadedFile
    from bhyveload.loader.state import Command, Loader
else:
    linker_hints = OnDemand("bhyveload.loader.kernel.hints")

_GELI_USAGE = "usage is [-n key#] <prov> <file>"
_LINE = 79  # lsmod's line buffer


def load(loader: Loader, argv: list[str]) -> int:
    if len(argv) == 1:
        return loader.fail("no filename specified", CMD_CRIT)
    # 13.2 takes the letters of a loader that verifies files, but has no use for -p and -s: the command ends there
    letters = "kt:" if loader.version == "current" else "dkp:s:t:"
    parsed = options(loader, argv, letters, lambda letter, _: letter in ("p", "s"))
    if parsed is None:
        return CMD_OK
    flags, words = parsed
    types = [value for letter, value in flags if letter == "t"]
    if types:
        return _load_typed(loader, types[-1], words)
    if not words:
        return loader.fail("no filename specified", CMD_CRIT)
    name, *args = words
    if ("k", "") in flags or modules.has_path(loader, name):
        error = load_kernel_or_module(loader, name, args)
    else:
        error = modules.load_module(loader, name, None, args)
    return CMD_OK if error == 0 else CMD_CRIT


def _load_typed(loader: Loader, type_: str, words: list[str]) -> int:
    if len(words) != 1 or not type_:
        return loader.fail("invalid load type", CMD_CRIT)
    if find_file(loader.preloaded, words[0], type_) is not None:
        return loader.fail_with(f"warning: file '{words[0]}' already loaded", CMD_WARN)
    if modules.load_raw(loader, words[0], type_):
        return CMD_OK
    return CMD_FATAL if type_ == "mfs_root" else CMD_ERROR


def load_geli(loader: Loader, argv: list[str]) -> int:
    if len(argv) < 3:
        return loader.fail(_GELI_USAGE)
    bad: list[str] = []

    def is_bad_index(letter: str, argument: str) -> bool:
        if strtol(argument)[1] == 0:
            bad.append(f"bad key index '{argument}'")
        return bool(bad)

    parsed = options(loader, argv, "n:", is_bad_index)
    if parsed is None:
        return loader.fail_with(bad[0]) if bad else CMD_OK
    flags, words = parsed
    key = to_int(strtol(flags[-1][1])[0]) if flags else 0
    if len(words) == 1:  # the file's name is the null pointer that ends the words
        if find_file(loader.preloaded) is None:
            return loader.fail("can't load file before kernel")
        return loader.fail_with("can't find '(null)'")
    if not words:
        return loader.fail(_GELI_USAGE)
    return CMD_OK if modules.load_raw(loader, words[1], f"{words[0]}:geli_keyfile{key}") else CMD_ERROR


def unload(loader: Loader, argv: list[str]) -> int:
    modules.unload(loader)
    return CMD_OK


def lsmod(loader: Loader, argv: list[str]) -> int:
    parsed = options(loader, argv, "v")
    if parsed is None:
        return CMD_OK
    flags, _ = parsed
    loader.console.pager_open()
    for file in loader.preloaded:
        if _list_file(loader, file, bool(flags)):
            break
    loader.console.pager_close()
    return CMD_OK


def _list_file(loader: Loader, file: PreloadedFile, verbose: bool) -> bool:
    """Show one file; True when the user has seen enough."""
    output = loader.console.pager_output
    output(f" {file.addr:#x}: ")
    output(file.name)
    if output(_line(f" ({file.type}, 0x{file.size:x})\n")):
        return True
    if file.args is not None:
        output("    args: ")
        output(file.args)
        if output("\n"):
            return True
    if file.modules:
        output("  modules: ")
        for name, version in file.modules:
            output(_line(f"{name}.{version} "))
        if output("\n"):
            return True
    if verbose:
        for type_, data in file.metadata:
            if output(f"      0x{type_:04x}, 0x{len(data):x}\n"):
                break  # only this file's records: the next file is still shown
    return False


def _line(text: str) -> str:
    return text[:_LINE]


def _pnp(loader: Loader, argv: list[str]) -> tuple[PnpOptions, list[str]] | None:
    parsed = options(loader, argv, "vd")
    if parsed is None:
        return None
    flags, words = parsed
    return linker_hints.PnpOptions(dump=("d", "") in flags, verbose=("v", "") in flags), words


def pnpmatch(loader: Loader, argv: list[str]) -> int:
    parsed = _pnp(loader, argv)
    if parsed is None:
        return CMD_OK
    pnp_options, words = parsed
    if len(words) != 2:
        return loader.fail("Usage: pnpmatch <busname> compat=<compatdata>", CMD_CRIT)
    bus, device = words
    module = modules.search_device(loader, bus, device, pnp_options)
    if module is not None:
        loader.print(f"Matched module: {module}\n")
    else:
        loader.print(f"No module matches {device} on bus {bus}\n")
    return CMD_OK


def pnpload(loader: Loader, argv: list[str]) -> int:
    parsed = _pnp(loader, argv)
    if parsed is None:
        return CMD_OK
    pnp_options, words = parsed
    if len(words) != 2:
        return loader.fail("Usage: pnpload <busname> compat=<compatdata>")
    bus, device = words
    module = modules.search_device(loader, bus, device, pnp_options)
    if module is None:  # the original crashes here
        return loader.fail_with(f"No module matches {device} on bus {bus}", CMD_CRIT)
    error = modules.load_module(loader, module)
    return CMD_OK if error == 0 else CMD_CRIT


def pnpautoload(loader: Loader, argv: list[str]) -> int:
    """userboot knows no bus that can be asked for its devices.

    Without a word FreeBSD's loader prints what lies behind its arguments: nothing or a null pointer, where it survives.
    """
    parsed = options(loader, argv, "v")
    if parsed is None:
        return CMD_OK
    flags, words = parsed
    if len(words) > 1:
        return CMD_ERROR
    missing = "" if flags else "(null)"
    loader.print(f"Unsupported bus {words[0] if words else missing}\n")
    return CMD_OK


COMMANDS: dict[str, Command] = {
    "load": load,
    "load_geli": load_geli,
    "unload": unload,
    "lsmod": lsmod,
    "pnpmatch": pnpmatch,
    "pnpload": pnpload,
    "pnpautoload": pnpautoload,
}
