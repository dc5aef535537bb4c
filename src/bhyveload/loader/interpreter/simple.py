"""The simple interpreter: commands only (stand/common/interp_simple.c)."""

from __future__ import annotations

from bhyveload.errors import FileSystemError, LoaderError
from bhyveload.freebsd_errno import strerror
from bhyveload.loader.parse import ParseError, failure_line, parse
from bhyveload.loader.prompt import print_prompt
from bhyveload.loader.state import CMD_ERROR, CMD_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.state import Loader

DEFAULT_SCRIPT = "/boot/loader.rc"
_LINE = 256
_MAX_LINES = 100_000
# FreeBSD's has no limit but its stack: a script that includes itself makes it crash
_MAX_DEPTH = 64
_MAX_INCLUDES = 10_000


class SimpleInterpreter:
    """Runs lines as builtin commands."""

    name = "simp"
    complaint = ""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self._depth = 0
        self._includes = 0

    def start(self) -> str:
        self.loader.environment.set("script.lang", "simple")
        self.include(DEFAULT_SCRIPT)
        return ""  # FreeBSD's goes on after a loader.rc that fails

    def run(self, line: str) -> int:
        loader = self.loader
        words = self._parse(line)
        if words is None:
            loader.print("parse error\n")
            return CMD_ERROR
        if loader.perform(words):
            loader.print(f"{words[0]}: {loader.message}\n")
            return CMD_ERROR
        return CMD_OK

    def include(self, path: str) -> int:
        """Run a file's lines.  Raises LoaderError: files include each other without end."""
        self._includes += 1
        if self._depth == _MAX_DEPTH or self._includes > _MAX_INCLUDES:
            why = f"{_MAX_DEPTH} deep" if self._depth == _MAX_DEPTH else f"{_MAX_INCLUDES} times"
            raise LoaderError(f"{path}: the guest's scripts include each other {why}", "does one include itself?")
        self._depth += 1
        try:
            return self._include(path)
        finally:
            self._depth -= 1

    def _include(self, path: str) -> int:
        loader = self.loader
        try:
            script = _script_lines(loader.files.open(path))
        except FileSystemError as error:
            return loader.fail_with(f"can't open '{path}': {strerror(error.errno)}")
        for number, text, quiet, ignore in script:
            if not quiet:
                print_prompt(loader)
                loader.print(text + "\n")
            words = self._parse(text)
            if words is None:
                loader.print(f"{path} line {number}: parse error\n")
                return CMD_ERROR
            if words and loader.perform(words):
                loader.print(f"{words[0]}: {loader.message}\n")
                if not ignore:
                    return CMD_ERROR
        return CMD_OK

    def _parse(self, line: str) -> list[str] | None:
        try:
            return parse(line, self.loader.environment)
        except ParseError as error:
            self.loader.print(f"fail at line {failure_line(error.reason, self.loader.version)}\n")
            return None


def _script_lines(file: OpenFile) -> list[tuple[int, str, bool, bool]]:
    """(line number, text, quiet, errors ignored) of each line to run; `\\` starts a comment, `@` and `-` are flags."""
    lines: list[tuple[int, str, bool, bool]] = []
    pending = b""
    number = 0
    while number < _MAX_LINES:
        data = file.read(4096)
        pending += data
        parts = pending.replace(b"\r", b"\n").split(b"\n")
        pending = parts.pop() if data else b""
        for part in parts:
            for start in range(0, max(1, len(part)), _LINE - 1):
                number += 1
                text = part[start : start + _LINE - 1].decode("latin-1").partition("\0")[0]
                if text.lstrip(" ").startswith("\\"):
                    continue
                quiet = text.startswith("@")
                text = text[1:] if quiet else text
                ignore = text.startswith("-")
                text = text[1:] if ignore else text
                if text:
                    lines.append((number, text, quiet, ignore))
        if not data:
            break
    return lines
