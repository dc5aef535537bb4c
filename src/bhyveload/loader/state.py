"""One loader run: everything that FreeBSD's loader keeps in global variables, in one place.

Commands are functions ``(loader, argv) -> result`` in loader/commands/; results are CMD_OK ... CMD_FATAL
(stand/common/bootstrap.h).  Words are str with one byte a character (latin-1).
"""

from __future__ import annotations

import time

from bhyveload.loader.console import LoaderConsole
from bhyveload.loader.environment import Environment
from bhyveload.loader.files.devices import Disks
from bhyveload.loader.files.files import Files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    from bhyveload.compat import LoaderVersion
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader.kernel.preloaded import PreloadedFile

    Command = Callable[["Loader", list[str]], int]

    class Interpreter(Protocol):
        """What runs typed lines and scripts: Lua, Forth or the simple one (struct interp).

        ``complaint``: what the last line that failed said, where no command's message tells it.
        """

        name: str
        complaint: str

        def start(self) -> str:
            """Set up and run the guest's first script; why that failed, or nothing."""
            ...

        def run(self, line: str) -> int:
            """Run one typed line; CMD_OK or an error."""
            ...

        def include(self, path: str) -> int:
            """Run a file (the include command)."""
            ...


CMD_OK, CMD_WARN, CMD_ERROR, CMD_CRIT, CMD_FATAL = range(5)
NO_MESSAGE = "no error message"
COMMAND_ERRBUFSZ = 256


class Absent(str):
    """A reason (``Loader.diagnosis``): what was asked for is not there.  Any other reason says more."""

    __slots__ = ()


class Options:
    """What the user chose beyond FreeBSD's loader (bhyveload's long options).

    ``batch``: never prompt, boot at once.  ``kernel``, ``boot_environment``, ``boot_device``: used instead of the
    guest's choice.  ``single_user``, ``verbose``: boot -s, boot -v.  ``commands``: lines run before boot.  ``explain``:
    a LoaderError has the way to it as its ``explanation``.
    """

    __slots__ = ("batch", "boot_device", "boot_environment", "commands", "explain", "kernel", "single_user", "verbose")

    def __init__(
        self,
        batch: bool = False,
        kernel: str = "",
        boot_environment: str = "",
        boot_device: str = "",
        single_user: bool = False,
        verbose: bool = False,
        commands: tuple[str, ...] = (),
        explain: bool = False,
    ) -> None:
        self.batch = batch
        self.kernel = kernel
        self.boot_environment = boot_environment
        self.boot_device = boot_device
        self.single_user = single_user
        self.verbose = verbose
        self.commands = commands
        self.explain = explain


class Loader:
    """The state of one run.  ``version``: behave as the loader of 2026 ("current") or FreeBSD 13.2's."""

    def __init__(
        self, host: LoaderCallbacks, version: LoaderVersion = "current", options: Options | None = None
    ) -> None:
        self.host = host
        self.version: LoaderVersion = version
        self.options = options or Options()
        self.environment = Environment()
        self.console = LoaderConsole(host, self.environment, version)
        self.console.asks = not self.options.batch
        self.disks = Disks(host)
        self.files = Files(host, self.console, self.environment, self.disks, version)
        self.commands: dict[str, Command] = {}
        self.interpreter: Interpreter | None = None
        self.autoboot_tried = False
        self.pending_commands = self.options.commands
        self.before_exec: list[Callable[[], None]] = []  # run when the guest is about to start
        self.leave: Callable[[BaseException], NoReturn] | None = None  # ends a child process from anywhere

        # stand/common/module.c
        self.preloaded: list[PreloadedFile] = []
        self.loadaddr = 0
        self.last_file_format = 0
        self.module_path: Any = None  # kernel.modules keeps the module directories and their hints here

        # what a failing command says: a text of its own, or the buffer (command_errmsg, command_errbuf)
        self.errbuf = ""
        self._errmsg: str | None = None
        self._errmsg_is_buffer = False
        self.diagnosis = ""  # our own reason why the last load failed, in a user's words

        # for the report
        self.notes: list[str] = []
        self.timings: dict[str, int] = {}
        self._stage: tuple[str, int] | None = None
        self.facts: dict[str, Any] = {}

    def stage(self, name: str) -> None:
        """From now on time counts for the stage ``name`` of the report ("" for none)."""
        now = time.perf_counter_ns()
        if self._stage is not None:
            self.timings[self._stage[0]] = now - self._stage[1]
        self._stage = (name, now) if name else None

    def perform(self, argv: list[str]) -> int:
        """interp_builtin_cmd: run the builtin command argv[0]."""
        if not argv:
            return CMD_OK
        self.begin_command(NO_MESSAGE)
        command = self.commands.get(argv[0])
        if command is None:
            return self.fail("unknown command")
        return command(self, argv)

    def begin_command(self, text: str) -> None:
        """command_errmsg = command_errbuf, which holds ``text``: what a command that fails without a word says."""
        self.errbuf = text
        self._errmsg_is_buffer = True

    def fail(self, constant: str, result: int = CMD_ERROR) -> int:
        """command_errmsg = constant: the message of a failing command that leaves the buffer alone."""
        self._errmsg = constant
        self._errmsg_is_buffer = False
        return result

    def fail_with(self, text: str, result: int = CMD_ERROR) -> int:
        """snprintf(command_errbuf, ...): the message of a failing command."""
        self.errbuf = text[: COMMAND_ERRBUFSZ - 1]
        return result

    def clear_message(self) -> None:
        """command_errmsg = NULL."""
        self._errmsg = None
        self._errmsg_is_buffer = False

    @property
    def message(self) -> str | None:
        """What command_errmsg points to; None for NULL."""
        return self.errbuf if self._errmsg_is_buffer else self._errmsg

    def print(self, text: str) -> None:
        self.console.print(text)
