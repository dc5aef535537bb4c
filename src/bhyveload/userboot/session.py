"""One run of a userboot object in the child process, and what the user's options mean to it.

The object's own choices are its scripts' and its prompt's; of the options beyond FreeBSD's, those are understood that a
loader variable can express.
"""

from __future__ import annotations

from bhyveload import need
from bhyveload.errors import HostError, KernelError, UsageError
from bhyveload.userboot.report import run_userboot
from bhyveload.userboot.run import prepare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from bhyveload.confined.child import Leave
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.host.interface import Console
    from bhyveload.userboot.run import Prepared
    from bhyveload.userboot.search import LoaderObject

    class UserbootOptions(Protocol):
        """loader/state.py's Options."""

        batch: bool
        boot_device: str
        boot_environment: str
        commands: tuple[str, ...]
        explain: bool
        kernel: str
        single_user: bool
        verbose: bool


BOOT = b"boot\r"


def check_options(options: UserbootOptions) -> None:
    """Raises UsageError for what a userboot object cannot be told."""
    for given, name in (
        (options.kernel, "--kernel"),
        (options.boot_environment, "--boot-env"),
        (options.boot_device, "--boot-device"),
        (options.commands, "--loader-command"),
        (options.explain, "--explain"),
    ):
        if given:
            raise UsageError(
                f"{name} works with the built-in loader only", "leave -l away, or choose at the loader's own prompt"
            )


def variables(options: UserbootOptions) -> list[bytes]:
    """The options as loader variables.  A guest's loader.conf may set them anew."""
    chosen = (
        (options.batch, b"autoboot_delay=-1"),
        (options.batch, b"beastie_disable=YES"),
        (options.single_user, b"boot_single=YES"),
        (options.verbose, b"boot_verbose=YES"),
    )
    return [text for wanted, text in chosen if wanted]


class BatchConsole:
    """A console that nobody types at: no key is ever there, and a loader that waits for one is told to boot, once."""

    def __init__(self, console: Console) -> None:
        self.write = console.write
        self.flush = console.flush
        self._keys = BOOT

    def getc(self) -> int:
        self.flush()
        key, self._keys = self._keys[:1], self._keys[1:]
        return key[0] if key else -1

    def poll(self) -> bool:
        return False

    @property
    def at_end(self) -> bool:
        return not self._keys


def prepare_object(loader: LoaderObject, host: LoaderCallbacks, batch: bool) -> Prepared:
    """Map ``loader``, to run over ``host``: before the process is confined.

    Raises HostError when it is no object that can run here.
    """
    if batch:
        host.console = BatchConsole(host.console)
    try:
        prepared = prepare(loader.data, host)
    except KernelError as error:
        raise HostError(f"{loader.path}: {error.message}", error.hint) from None
    return prepared


def run_object(prepared: Prepared, host: LoaderCallbacks, leave: Leave) -> NoReturn:
    """Run the object; ``leave`` gets the report."""
    need.limit(need.DISKS)
    run_userboot(prepared, host, leave, leave.failure)
