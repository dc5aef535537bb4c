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

from bhyveload.errors import EX_SOFTWARE, HostError
from bhyveload.host.callbacks import USERBOOT_VERSION, LoaderExit
from bhyveload.userboot.abi import INITIALISER, LOADER_MAIN, callback_table
from bhyveload.userboot.bridge import Bridge
from bhyveload.userboot.mapper import map_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bhyveload.host.callbacks import LoaderCallbacks

MIN_STACK = 1 << 20  # one frame of the exec path holds 16 KiB, and Lua recurses (spec/userboot-abi.md 5)


class Prepared:
    """A mapped object with its table of callbacks, ready to be called."""

    def __init__(self, loader: bytes | memoryview, host: LoaderCallbacks, version: int) -> None:
        self._version = version
        self._object = map_object(loader)
        self._bridge = Bridge(host, self._object.address, self._object.image)
        self._table, self._entries = callback_table(self._bridge.functions(), version)
        self._initialisers = [INITIALISER(address) for address in self._object.initialisers]
        self._loader_main = LOADER_MAIN(self._object.entry)

    def run(self, ndisks: int, leave: Callable[[BaseException], object]) -> NoReturn:
        """Call loader_main.  ``leave`` gets how it ended and must not return (os._exit); it is called from inside the
        loader's frames, on its stack.

        GuestReady, LoaderExit (also when loader_main returns: exit status 0, as upstream) or SwapInterpreter for the
        ways a loader ends; bridge.InputEnded when it waits for a key that cannot come; HostError or VmStorageError when
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
