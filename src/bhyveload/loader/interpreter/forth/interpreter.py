"""The Forth interpreter of loader(8): its start, typed lines, included files, commands as words
(stand/common/interp_forth.c)."""

from __future__ import annotations

import gc
import sys

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import strerror
from bhyveload.loader.commands.table import LISTING
from bhyveload.loader.interpreter.forth.ficl_format import (
    BF_PARSE,
    LINE_BUFFER,
    SOURCE_ID,
    STATE,
    VM_ABORT,
    VM_ABORTQ,
    VM_ERREXIT,
    VM_OUTOFTEXT,
    VM_QUIT,
    VM_USEREXIT,
)
from bhyveload.loader.interpreter.forth.system import System
from bhyveload.loader.interpreter.forth.throws import Throw
from bhyveload.loader.interpreter.forth.words_loader import MAX_SCRIPT, execute_file
from bhyveload.loader.parse import ParseError, failure_line, parse
from bhyveload.loader.state import CMD_CRIT, CMD_ERROR, CMD_FATAL, CMD_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Loader

LOADER_RC = "/boot/loader.rc"
BOOT_4TH = "/boot/boot.4th"
_WHILE_INCLUDING = "Error while including"
_OBJECTS = 50_000  # new ones before the garbage collector looks: definitions stay
_DEEP_ENOUGH = 3000  # Python's frames for as many nested texts as the return stack has cells
_MAX_STRINGS = 64  # a command's arguments on the stack: as many as it could hold
_EXIT_PANIC = 1
_VERSIONS = {"current": (1500000, 3000), "13.2": (1302001, 12)}  # (FreeBSD_version, loader_version)


class ForthInterpreter:
    """One ficl system with the loader's words."""

    name = "4th"

    def __init__(self, loader: Loader) -> None:
        gc.set_threshold(_OBJECTS)
        sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEEP_ENOUGH))
        self.loader = loader
        self.complaint = ""
        self._system = System(loader, [name for name, _ in LISTING], self._command)
        self._machine = self._system.machine
        freebsd_version, loader_version = _VERSIONS[loader.version]
        self._system.queries.set(b"FreeBSD_version", (freebsd_version,))
        self._system.queries.set(b"loader_version", (loader_version,))

    def start(self) -> str:
        """interp_init: /boot/boot.4th where there is one, then /boot/loader.rc; why that failed, or nothing."""
        loader = self.loader
        loader.environment.set("script.lang", "forth")
        try:
            file = loader.files.open(BOOT_4TH)
        except FileSystemError:
            pass
        else:
            number = self._system.descriptors.add(file)
            execute_file(self._machine, file, number)
            self._system.descriptors.close(number)
        if self.include(LOADER_RC) == CMD_OK or not loader.errbuf.startswith(_WHILE_INCLUDING):
            return ""
        return self.complaint or "it ended early"

    def run(self, line: str) -> int:
        """interp_run: a typed line."""
        self._machine.cells[SOURCE_ID >> 3] = 0
        text = line.encode("latin-1", "replace")
        return CMD_OK if self._ended(self._machine.run_line(text)) == VM_OUTOFTEXT else CMD_ERROR

    def include(self, path: str) -> int:
        """interp_include: run the lines of a file until one fails."""
        loader, machine = self.loader, self._machine
        try:
            file = loader.files.open(path)
            lines = script_lines(file)
        except FileSystemError as error:
            return loader.fail_with(f"can't open '{path}': {strerror(error.errno)}")
        block = machine.arena.allocate(sum(map(len, lines)) + len(lines))
        if not block:
            return loader.fail_with(f"file '{path}' line {len(lines)}: memory allocation failure - aborting")
        machine.arena.write(block, b"\0".join(lines) + b"\0")
        cells = machine.cells
        saved = cells[SOURCE_ID >> 3]
        cells[SOURCE_ID >> 3] = self._system.descriptors.next_free()
        result = CMD_OK
        at = block
        for line in lines:
            if self._ended(machine.execute_text(at, len(line))) != VM_OUTOFTEXT:
                shown = line.decode("latin-1")
                result = loader.fail_with(f"{_WHILE_INCLUDING} {path}, in the line:\n{shown}")
                break
            at += len(line) + 1
        cells[SOURCE_ID >> 3] = saved
        machine.arena.free(block)
        return result

    def _ended(self, code: int) -> int:
        """bf_run: say what a line's end has to say; the code."""
        loader = self.loader
        if code == VM_ERREXIT:
            self.complaint = self._machine.complaint
        elif code == VM_OUTOFTEXT:
            self.complaint = ""
        if code == VM_USEREXIT:
            loader.print("No where to leave to!\n")
            self._panic("interpreter exit")
        if code == VM_ABORT:
            loader.print("Aborted!\n")
        elif code == BF_PARSE:
            loader.print("Parse error!\n")
        elif code not in (VM_OUTOFTEXT, VM_ABORTQ, VM_QUIT, VM_ERREXIT) and loader.message is not None:
            self.complaint = self.complaint or loader.message.replace("\n", " ")
            loader.print(f"{loader.message}\n")
            loader.clear_message()
        loader.environment.set("interpret", "" if self._machine.cells[STATE >> 3] else "OK")
        return code

    def _panic(self, text: str) -> NoReturn:
        """panic (stand/libsa/panic.c)."""
        loader = self.loader
        loader.print(f"panic: {text}\n--> Press a key on the console to reboot <--\n")
        loader.console.getchar()
        loader.print("Rebooting...\n")
        loader.host.exit(_EXIT_PANIC)

    def _command(self, name: str) -> Callable[[], None]:
        """bf_command: ( flag -- 0 ), with the rest of the line (flag 0) or strings on the stack as arguments.

        Throws the command's result when that is not 0.
        """
        loader = self.loader

        def run() -> None:
            machine = self._machine
            stack = machine.stack
            if stack.pop():
                line = self._arguments(name)
            else:
                text = machine.rest()[0].partition(b"\0")[0].partition(b"\n")[0]
                machine.skip(len(text))
                line = name + (" " + text.decode("latin-1") if text else "")
            loader.begin_command("")
            try:
                words = parse(line, loader.environment)
            except ParseError as error:
                loader.print(f"fail at line {failure_line(error.reason, loader.version)}\n")
                raise Throw(BF_PARSE) from None
            result = loader.commands[name](loader, words)
            if result == CMD_CRIT:
                loader.print(f"{loader.message}\n")
                self.complaint = loader.message or ""
                loader.clear_message()
            elif result == CMD_FATAL:
                self._panic(loader.message or "")
            if result != CMD_OK:
                raise Throw(result)
            stack.append(result)

        return run

    def _arguments(self, name: str) -> str:
        """``name`` and the strings on the stack, each behind a blank."""
        machine = self._machine
        stack = machine.stack
        count = stack.pop()
        if not 0 <= count <= _MAX_STRINGS:
            raise IndexError
        line = [name]
        for _ in range(count):
            size = stack.pop()
            line.append(machine.arena.read(stack.pop(), size).partition(b"\0")[0].decode("latin-1"))
        return " ".join(line)


def script_lines(file: OpenFile) -> list[bytes]:
    """The lines of a script as fgetstr reads them, without the empty ones; longer ones are cut into several."""
    parts: list[bytes] = []
    size = 0
    while size < MAX_SCRIPT and (data := file.read(4096)):
        parts.append(data)
        size += len(data)
    lines: list[bytes] = []
    limit = LINE_BUFFER - 1
    for line in b"".join(parts).replace(b"\r", b"\n").split(b"\n"):
        if len(line) <= limit:
            text = line.partition(b"\0")[0]
            if text:
                lines.append(text)
            continue
        for start in range(0, len(line), limit):
            text = line[start : start + limit].partition(b"\0")[0]
            if text:
                lines.append(text)
    return lines
