"""bhyve(8)'s options, one at a time from left to right, into the tree (bhyverun_machdep.c:bhyve_optparse, bhyverun.c).

The last value of a variable wins, whether it came from an option, from ``-o`` or from a file (``-k``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from bhyveload.bhyve.config import Config
from bhyveload.bhyve.emulations import EMULATIONS, parse_slot, scan_numbers
from bhyveload.bhyve.usage import LPC_DEVICES
from bhyveload.errors import EX_USAGE, BhyveError
from bhyveload.libc import whole_long

if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.compat import LoaderVersion

CPU_SETSIZE: dict[LoaderVersion, int] = {"current": 1024, "13.2": 256}
_MAX_FILE = 1 << 20
_MAX_FWCFG_NAME = 55  # QEMU_FWCFG_MAX_NAME less its NUL
_MAX_DOMAIN = 255
_FLAGS = {
    "a": ("x86.x2apic", False),
    "C": ("memory.guest_in_core", True),
    "D": ("destroy_on_poweroff", True),
    "e": ("x86.strictio", True),
    "H": ("x86.vmexit_on_hlt", True),
    "P": ("x86.vmexit_on_pause", True),
    "S": ("memory.wired", True),
    "u": ("rtc.use_localtime", False),
    "W": ("virtio_msix", False),
    "w": ("x86.strictmsr", False),
    "x": ("x86.x2apic", True),
    "Y": ("x86.mptable", False),
}
_VALUES = {"K": "keyboard.layout", "m": "memory.size", "U": "uuid"}
_TOPOLOGY = ("cpus", "sockets", "cores", "threads")


class FirmwareItem(NamedTuple):
    """``-f``: what a boot ROM would find; ``kind`` is "string" or "file"."""

    name: str
    kind: str
    value: str


class CommandLine:
    """What the options have made so far.  ``listing``: lines that help asked for; bhyve then prints them and ends."""

    def __init__(self, compat: LoaderVersion, warn: Callable[[str], None]) -> None:
        self.compat = compat
        self.config = Config(warn)
        self._warn = warn
        self.items: list[FirmwareItem] = []
        self.listing: tuple[str, ...] = ()
        self._set_defaults()

    def _set_defaults(self) -> None:
        current = self.compat == "current"
        self.config.set_bool("acpi_tables", current)
        if current:
            self.config.set_bool("acpi_tables_in_memory", True)
        self.config.set("memory.size", "256M")
        self.config.set_bool("x86.strictmsr", True)
        if current:
            self.config.set_bool("x86.verbosemsr", False)
            self.config.set("lpc.fwcfg", "bhyve")

    def option(self, letter: str, argument: str) -> None:
        """Act on one option of SHORT_OPTIONS (not ``-h``).  Raises BhyveError with bhyve's words and exit status."""
        if letter in _FLAGS:
            self.config.set_bool(*_FLAGS[letter])
        elif letter in _VALUES:
            self.config.set(_VALUES[letter], argument)
        elif letter == "A":
            if self.compat == "13.2":
                self.config.set_bool("acpi_tables", True)
        elif letter == "c":
            self._topology(argument)
        elif letter == "f":
            self.items.append(_firmware_item(argument))
        elif letter == "G":
            self._debug_server(argument)
        elif letter == "k":
            self._file(argument)
        elif letter == "l":
            if "help".startswith(argument):
                self.listing = LPC_DEVICES[self.compat]
            else:
                self._lpc(argument)
        elif letter == "n":
            self._domain(argument)
        elif letter == "o":
            if not self._assignment(argument):
                raise BhyveError(f"invalid configuration option '{argument}'", EX_USAGE)
        elif letter == "p":
            self._pin(argument)
        elif letter == "s":
            if "help".startswith(argument):
                self.listing = tuple(EMULATIONS)
            else:
                parse_slot(self.config, argument)

    def finish(self) -> None:
        """After the last option: the variables' older names (bhyverun_machdep.c:bhyve_optparse)."""
        for name in ("bootrom", "bootvars") if self.compat == "current" else ():
            value = self.config.get(f"lpc.{name}")
            if value is not None and self.config.get(name) is None:
                self._warn(f"lpc.{name} is deprecated, use '-o {name}' instead")
                self.config.set(name, value)

    def _topology(self, text: str) -> None:
        if not text:
            for name in ("sockets", "cores", "threads", "cpus"):
                self.config.set(name, "1")
            return
        for word in text.split(","):
            name, equals, value = word.partition("=")
            if not equals:
                self.config.set("cpus", word)
            elif name in _TOPOLOGY:
                self.config.set(name, value)
            else:
                raise BhyveError(f"invalid cpu topology '{text}'", EX_USAGE)

    def _debug_server(self, text: str) -> None:
        if text.startswith("w"):
            self.config.set_bool("gdb.wait", True)
            text = text[1:]
        address, colon, port = text.rpartition(":")
        if colon:
            self.config.set("gdb.address", address)
        self.config.set("gdb.port", port)

    def _assignment(self, text: str) -> bool:
        name, _, value = text.partition("=")
        if not value:
            return False
        self.config.set(name, value)
        return True

    def _file(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                data = file.read(_MAX_FILE + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "Invalid argument"
            raise BhyveError(f"Failed to open configuration file {path}: {reason}") from None
        if len(data) > _MAX_FILE:
            raise BhyveError(f"Failed to open configuration file {path}: larger than {_MAX_FILE >> 20} MiB")
        for number, line in enumerate(os.fsdecode(data).split("\n"), 1):
            if not line or line[0] == "#":
                continue
            line = line.partition("\0")[0]  # a C string's end
            if not self._assignment(line):
                raise BhyveError(f"{path} line {number}: invalid config option '{line}'")

    def _lpc(self, text: str) -> None:
        name, comma, rest = text.partition(",")
        device = name.lower()
        if device not in LPC_DEVICES[self.compat]:
            raise BhyveError(f"invalid lpc device configuration '{text}'", EX_USAGE)
        if device == "bootrom":
            self._bootrom(text, rest if comma else None)
        elif device == "tpm":
            self._tpm(text, rest if comma else None)
        elif device == "pc-testdev":
            self.config.set_bool("lpc.pc-testdev", True)
        elif comma:
            self.config.set(f"lpc.{device}.path", rest)

    def _bootrom(self, text: str, rest: str | None) -> None:
        if rest is None:
            # bhyve's own words are those of _lpc; with these libvirt believes that there are no boot ROMs
            raise BhyveError(
                f"invalid lpc device configuration '{text}'",
                EX_USAGE,
                hint="boot ROMs are not to be had here: load the VM with bhyveload",
            )
        prefix = "" if self.compat == "current" else "lpc."
        words = rest.split(",")
        self.config.set(f"{prefix}bootrom", words[0])
        if len(words) > 1 and "=" not in words[1]:
            self.config.set(f"{prefix}bootvars", words.pop(1))
        if len(words) > 1:
            self.config.parse_options(self.config.create("lpc"), ",".join(words[1:]))

    def _tpm(self, text: str, rest: str | None) -> None:
        words = [] if rest is None else rest.split(",")
        if not words:
            raise BhyveError(f'invalid tpm type "{text}"')
        if len(words) < 2:
            raise BhyveError(f'invalid tpm path "{text}"')
        node = self.config.create("tpm")
        self.config.set_in(node, "type", words[0])
        self.config.set_in(node, "path", words[1])
        if len(words) > 2:
            self.config.parse_options(node, ",".join(words[2:]))
        if node is not None and "version" not in node.entries:
            self.config.set_in(node, "version", "2.0")

    def _domain(self, text: str) -> None:
        found: dict[str, str] = {}
        for word in text.split(","):
            name, equals, value = word.partition("=")
            if equals and name in ("id", "size", "cpus", "domain_policy"):
                found[name] = value
        if "id" not in found:
            before = [f"Missing NUMA domain ID in '{text}'"] if text else []
            raise BhyveError(f"invalid NUMA configuration '{text}'", EX_USAGE, before=before)
        node = self.config.create(f"domains.{parse_number('id', found.pop('id'), 0, _MAX_DOMAIN)}")
        for name in ("size", "domain_policy", "cpus"):
            if name in found:
                self.config.set_in(node, name, found[name])

    def _pin(self, text: str) -> None:
        limit = CPU_SETSIZE[self.compat]
        numbers = scan_numbers(text, ":", 2)
        if len(numbers) < 2:
            reason = f"invalid format: {text}"
        elif numbers[0] < 0:
            reason = f"invalid vcpu '{numbers[0]}'"
        elif not 0 <= numbers[1] < limit:
            reason = f"hostcpu '{numbers[1]}' outside valid range from 0 to {limit - 1}"
        else:
            key = f"vcpu.{numbers[0]}.cpuset"
            before = self.config.get(key)
            self.config.set(key, f"{before},{numbers[1]}" if before is not None else str(numbers[1]))
            return
        raise BhyveError(f"invalid vcpu pinning configuration '{text}'", EX_USAGE, before=[reason])


def parse_number(name: str, text: str, low: int, high: int) -> int:
    """A whole C number (decimal, 0x, 0) from ``low`` to ``high``.  Raises BhyveError (parse_int_value)."""
    value = whole_long(text)
    if value is None or not low <= value <= high:
        raise BhyveError(f"Invalid value for {name}: '{text}'")
    return value


def _firmware_item(text: str) -> FirmwareItem:
    """``[name=]NAME,string=TEXT`` or ``file=PATH`` (qemu_fwcfg.c:qemu_fwcfg_parse_cmdline_arg)."""
    name, _, rest = text.removeprefix("name=").partition(",")
    kind, equals, value = rest.partition("=")
    if not equals or kind not in ("string", "file") or not name or len(os.fsencode(name)) > _MAX_FWCFG_NAME:
        raise BhyveError(f"invalid fwcfg item '{text}'", EX_USAGE)
    return FirmwareItem(name, kind, value)
