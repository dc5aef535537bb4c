"""What would boot from a guest's file system: names of kernels, whose boot scripts are there, how much of them is read.

The loader and ``bhyvedisk info`` go by the same rules (stand/userboot/userboot/main.c check_interpreter,
stand/libsa/zipfs).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL = "/boot/kernel/kernel"
COMPRESSED = (".gz", ".bz2")  # what FreeBSD's loader finds behind a name that is not there
BEYOND = (".zst", ".xz")  # and this one, too
KERNELS = tuple(KERNEL + suffix for suffix in ("", *COMPRESSED, *BEYOND))

LOADER_PATH = "/boot/loader"
LUA_SCRIPT = "/boot/lua/loader.lua"
INTERP_MARKER = b"$Interpreter:"
MAX_LOADER_FILE = 64 << 20  # userboot's whole heap
_MAX_NAME = 64

FIRST_INTERPRETER = "lua"  # which loader runs when nobody has asked for another
WITHOUT_MARKER = "4th"


def interpreter_marker(loader_file: bytes) -> str:
    """What the guest's /boot/loader says its scripts are written for; empty: nothing."""
    at = loader_file.find(INTERP_MARKER)
    if at < 0:
        return ""
    at += len(INTERP_MARKER)
    return loader_file[at : at + _MAX_NAME].partition(b"\0")[0].decode("latin-1")


def wanted_interpreter(marker: str | None, running: str, has_lua_script: Callable[[], bool]) -> str:
    """The interpreter for a guest's scripts when ``running`` looks; ``marker`` None: there is no readable /boot/loader.

    Unlike FreeBSD's, a loader file without a marker is not taken for Forth's when there are Lua scripts.
    """
    if marker is None:
        return running
    if marker or (running == FIRST_INTERPRETER and has_lua_script()):
        return marker or running
    return WITHOUT_MARKER
