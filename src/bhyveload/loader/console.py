"""The loader's console layer: consoles, newline expansion, twiddles, line input and the pager.

Sources: stand/common/console.c, stand/userboot/userboot/userboot_cons.c, stand/libsa/{twiddle,gets,pager}.c;
docs/errata.md, "Twiddles", "Newlines", "Several consoles", "Line input".
Text is str with one byte a character (latin-1).
"""

from __future__ import annotations

import time

from bhyveload.errors import LoaderError
from bhyveload.host.callbacks import InputEnded
from bhyveload.libc import strtol, strtoul, to_int
from bhyveload.loader.environment import no_unset

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader.environment import Environment, Variable

CONSOLES = ("userboot", "comconsole")
MODULE_VERBOSE_SILENT, MODULE_VERBOSE_SIZE, MODULE_VERBOSE_TWIDDLE, MODULE_VERBOSE_FULL = range(4)
_TWIDDLES = (b"|\b", b"/\b", b"-\b", b"\\\b")
_UINT_MAX = 0xFFFFFFFF
_PAGER_PROMPT = " --more--  <space> page down <enter> line down <q> quit "
_PAGER_BLANK = " " * 56
_COMMAND_OK, _COMMAND_ERROR = 0, 2
_MAX_QUESTION = 60  # characters of what scripts ask that an error repeats


class LoaderConsole:
    """What the loader prints to and reads keys from."""

    def __init__(self, host: LoaderCallbacks, environment: Environment, version: LoaderVersion) -> None:
        self.host = host
        self.environment = environment
        self.version = version
        self.active = [True, False]  # per CONSOLES
        self.asks = True  # False: nobody is there to press a key (--batch)
        self._drawing = False  # with --batch: scripts draw what nobody is to see
        self._question = ""  # what they wrote last, for the case that they wait for an answer
        self.silent = False  # our own look at a file: no twiddles, nothing counted, no complaints of a file system
        self.module_verbose = MODULE_VERBOSE_TWIDDLE
        self._divisor = 16
        self._calls = 0
        self._counted = 0
        self._position = 0
        self._free_lines = 0
        self._page_lines = -1

    def probe(self) -> None:
        """cons_probe: the console variables, and the list of consoles."""
        environment = self.environment
        environment.define("module_verbose", str(self.module_verbose), self._set_module_verbose, no_unset)
        environment.define("twiddle_divisor", "16", self._set_twiddle_divisor, no_unset)
        self.print("Consoles: userboot  \n")
        environment.define("console", CONSOLES[0], self._set_console, no_unset)

    # Output

    def print(self, text: str) -> None:
        """Send text; every newline becomes CR LF, each active console gets each byte (docs/errata.md, "Newlines")."""
        if self.silent:
            return
        data = text.replace("\n", "\r\n").encode("latin-1", "replace")
        copies = sum(self.active)
        if copies > 1:
            data = bytes(byte for byte in data for _ in range(copies))
        self.host.console.write(data)

    def draw(self, text: str) -> None:
        """printc in a --batch run: from a control sequence on (a menu is drawn) nothing of it is shown, until
        ``drawn``."""
        self._drawing = self._drawing or "\x1b" in text
        if not self._drawing:
            self.print(text)
        if "\x1b" not in text and text.strip():
            self._question = text

    def drawn(self) -> None:
        """Scripts run a command: the menu's countdown, say, is over."""
        self._drawing = False

    def twiddle(self, caller_divisor: int, times: int = 1) -> None:
        """Show progress, as that many calls one after the other do (docs/errata.md, "Twiddles")."""
        if self.silent:
            return
        calls = self._calls + times
        self._calls, times = calls & _UINT_MAX, calls // caller_divisor - self._calls // caller_divisor
        if not times:
            return
        counted = self._counted + times
        if self._divisor > 1:
            times = counted // self._divisor - self._counted // self._divisor
        self._counted = counted & _UINT_MAX
        for _ in range(times):
            data = _TWIDDLES[self._position & 3]
            self._position += 1
            if sum(self.active) > 1:
                data = bytes(byte for byte in data for _ in self.active)
            self.host.console.write(data)

    # Input

    def getchar(self) -> int:
        """The next key as getc gives it (signed char), waiting for it.  Raises InputEnded, LoaderError (--batch)."""
        host = self.host
        if not self.asks:
            raise self.nobody_there()
        while True:
            key = host.getc()
            if key != -1:
                return key
            if host.console.at_end:
                raise InputEnded
            host.delay(10_000)

    def nobody_there(self) -> LoaderError:
        """The error of a --batch run whose scripts wait for a key; it says what they asked."""
        question = " ".join(self._question.split())[:_MAX_QUESTION]
        asked = f" ('{question}')" if question else ""
        return LoaderError(f"the guest's boot scripts wait for a key{asked}", "answer them in a run without --batch")

    def ischar(self) -> bool:
        """Whether a key waits."""
        return self.asks and self.host.poll() != 0

    def wait_for_key(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for a key; whether one is there.  The key is not read."""
        deadline = time.monotonic() + seconds
        while not self.ischar():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.host.delay(int(min(left, 0.02) * 1_000_000))
        return True

    def gets(self, limit: int) -> str:
        """ngets: an edited, echoed line of at most ``limit`` - 1 characters (docs/errata.md, "Line input")."""
        line: list[str] = []
        while True:
            key = self.getchar()
            code = key & 0x7F
            if code in (0x0A, 0x0D):
                self.print("\n")
                return "".join(line)
            if code in (0x08, 0x7F):
                if line:
                    line.pop()
                    self.print("\b \b")
            elif code == 0x12:  # ^R
                self.print("\n" + "".join(line))
            elif code in (0x15, 0x17):  # ^U, ^W
                line.clear()
                self.print("\n")
            elif len(line) < limit - 1:
                line.append(chr(key & 0xFF))
                self.print(line[-1])

    # Pager

    def pager_open(self) -> None:
        """Start paging by $LINES (24)."""
        lines = self.environment.get("LINES")
        count = 24 if lines is None else to_int(strtol(lines)[0])
        self._page_lines = max(count - 1, 1)
        self._free_lines = self._page_lines

    def pager_close(self) -> None:
        self._page_lines = -1

    def pager_output(self, text: str) -> bool:
        """Print, stopping at each full page; True when the user quits."""
        start = 0
        while start < len(text):
            newline = text.find("\n", start)
            if newline < 0:
                self.print(text[start:])
                return False
            self.print(text[start : newline + 1])
            start = newline + 1
            self._free_lines -= 1
            if self._free_lines <= 0 and self._ask_for_more():
                return True
        return False

    def _ask_for_more(self) -> bool:
        self.print(_PAGER_PROMPT)
        quit_paging = False
        while True:
            key = self.getchar()
            if key in (0x0A, 0x0D):
                self._free_lines = 1
            elif key == 0x20:
                self._free_lines = self._page_lines
            elif key in (0x51, 0x71):  # Q, q
                quit_paging = True
            else:
                continue
            break
        self.print(f"\r{_PAGER_BLANK}\r")
        return quit_paging

    # Variables with hooks

    def _set_module_verbose(self, variable: Variable, value: str | None) -> int:
        level = self._number("module_verbose", value)
        if level is None:
            return _COMMAND_ERROR
        self.module_verbose = to_int(level)
        if self.module_verbose < MODULE_VERBOSE_TWIDDLE:
            self._divisor = _UINT_MAX
        variable.value = value
        return _COMMAND_OK

    def _set_twiddle_divisor(self, variable: Variable, value: str | None) -> int:
        divisor = self._number("twiddle_divisor", value)
        if divisor is None:
            return _COMMAND_ERROR
        self._divisor = divisor & _UINT_MAX
        variable.value = value
        return _COMMAND_OK

    def _number(self, name: str, value: str | None) -> int | None:
        number, end = strtoul(value or "")
        if not value or end != len(value):
            self.print(f"invalid {name} '{value or ''}'\n")
            return None
        return number

    def _set_console(self, variable: Variable, value: str | None) -> int:
        if value is None:
            return _COMMAND_OK
        words = [word for word in value.replace(",", " ").split(" ") if word]
        found = [word for word in words if word in CONSOLES]
        for word in words:
            if word not in CONSOLES:
                self.print(
                    f"console {word} is unavailable\n" if self.version == "current" else f"console {word} is invalid!\n"
                )
        if not found:
            self.print("no valid consoles!\n")
        refused = len(found) < len(words)
        if (refused and not found) if self.version == "current" else (refused or not found):
            self.print("Available consoles:\n" + "".join(f"    {name}\n" for name in CONSOLES))
        if found:
            self.active = [name in found for name in CONSOLES]
            variable.value = value
        return _COMMAND_OK
