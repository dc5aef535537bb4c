"""Run a userboot object: map it and build its callbacks first, confine the process, then call loader_main.

The order matters: the confinement forbids new executable memory, which both the object and ctypes' closures need.

    prepared = prepare(loader, host)         # in the forked child, before the sandbox
    ...                                      # confine
    prepared.run(len(host.disks), leave)     # never returns
"""

from __future__ import annotations

import ctypes
import os
import resource

from bhyveload.errors import EX_SOFTWARE, HostError, LoaderCrashed
from bhyveload.host.callbacks import USERBOOT_VERSION, LoaderExit
from bhyveload.userboot.abi import INITIALISER, LOADER_MAIN, callback_table
from bhyveload.userboot.bridge import Bridge
from bhyveload.userboot.dynamic import UNDEFINED_HINT
from bhyveload.userboot.mapper import map_object
from bhyveload.userboot.support import supplied_address
from bhyveload.userboot.vintage import accepted_version, has_old_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from bhyveload.host.callbacks import LoaderCallbacks

MAX_ABSENT = 256
MIN_STACK = 1 << 20  # one frame of the exec path holds 16 KiB, and Lua recurses


class Prepared:
    """A mapped object with its table of callbacks, ready to be called."""

    def __init__(self, loader: bytes | memoryview, host: LoaderCallbacks, version: int) -> None:
        self._absent: dict[str, Any] = {}
        self._object = map_object(loader, self._supplied, self._missing)
        old = has_old_table(self._object)
        self._version = accepted_version(loader, old, version)
        self._bridge = Bridge(host, self._object.address, self._object.image, old)
        self._table, self._entries = callback_table(self._bridge.functions(), self._version, old)
        self._initialisers = [INITIALISER(address) for address in self._object.initialisers]
        self._loader_main = LOADER_MAIN(self._object.entry)

    def _supplied(self, name: str) -> int | None:
        if name == "abort":  # FreeBSD 10's library has none of its own
            return self._ending(name, "the loader gave up: it called abort()", "")
        return supplied_address(name)

    def _missing(self, name: str) -> int:
        return self._ending(name, f"loader object: it called the undefined symbol {name}", UNDEFINED_HINT)

    def _ending(self, name: str, message: str, hint: str) -> int:
        """Address of a function to stand for the symbol ``name``: it ends the run with ``message``."""
        if len(self._absent) > MAX_ABSENT:
            raise HostError("loader object: it leaves too many functions undefined", UNDEFINED_HINT)
        function = self._absent.get(name)
        if function is None:
            function = INITIALISER(lambda: self._bridge.end(LoaderCrashed(message, hint)))
            self._absent[name] = function
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        return address

    def run(self, ndisks: int, leave: Callable[[BaseException], object]) -> NoReturn:
        """Call loader_main.  ``leave`` gets how it ended and must not return (os._exit); it is called from inside the
        loader's frames, on its stack.

        GuestReady, LoaderExit (also when loader_main returns: exit status 0, as upstream) or SwapInterpreter for the
        ways a loader ends; InputEnded when it waits for a key that cannot come; HostError or VmStorageError when
        the host failed it; KeyboardInterrupt.  A crash ends the process by a signal.
        """
        self._bridge.leave = leave
        try:
            for initialiser in self._initialisers:
                initialiser()
            self._loader_main(ctypes.addressof(self._table), None, self._version, ndisks)
            leave(LoaderExit(0))
        finally:
            os._exit(EX_SOFTWARE)


def prepare(loader: bytes | memoryview, host: LoaderCallbacks, version: int = USERBOOT_VERSION) -> Prepared:
    """Map ``loader`` (the file's bytes) and build the callbacks of ``version`` (1 to 5) over ``host``.

    Raises KernelError(ENOEXEC) when it is no loader object, HostError when the host cannot run one.
    """
    soft, _hard = resource.getrlimit(resource.RLIMIT_STACK)
    if soft != resource.RLIM_INFINITY and soft < MIN_STACK:
        raise HostError(
            f"the stack is limited to {soft >> 10} KiB, a loader object needs 1 MiB", "run `ulimit -s 8192`"
        )
    return Prepared(loader, host, version)
