"""linker.hints: which file holds which module (written by kldxref(8)).

Source: stand/common/module.c (moduledir_readhints, mod_search_hints, devmatch_search_hints);
docs/errata.md, "linker.hints".
"""

from __future__ import annotations

from struct import Struct

from bhyveload.boot_formats.elf_format import MDT_MODULE, MDT_PNP_INFO, MDT_VERSION
from bhyveload.errors import FileSystemError
from bhyveload.libc import strtol, to_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhyveload.loader.state import Loader

    Dependency = tuple[int, int, int]  # minimum, preferred, maximum version
    Versions = dict[str, list[tuple[int, str]]]  # module name -> (version, file)

LINKER_HINTS_VERSION = 1
_RECORD = Struct("<ii").unpack_from  # length of what follows it, type
_INT = 4
_VERSION = Struct("<iB").unpack_from  # the number behind a name, and the length of the file's name behind it
_LONGEST_VERSION = 2 * _INT + 256 + _INT + _INT + 256  # bytes of a VERSION record whose names have 255 characters
_INTEGER_FIELDS = "IJGLM"
_STRING_FIELDS = "DZ"


def read(loader: Loader, path: str, size: int) -> bytes | None:
    """The records of a linker.hints file of ``size`` bytes (its stat said so); None when it is not one."""
    try:
        file = loader.files.open(path)
    except FileSystemError:
        return None
    try:
        version = file.read(_INT)
        if len(version) != _INT or int.from_bytes(version, "little") != LINKER_HINTS_VERSION:
            return None
        records = file.read(size - _INT)
        return records if len(records) == size - _INT else None
    except FileSystemError:
        return None
    finally:
        file.close()


class _Cursor:
    """Reading a record's fields: integers lie at multiples of 4.  Behind the end everything is zero or empty."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def integer(self) -> int:
        self.at = (self.at + _INT - 1) // _INT * _INT
        value = int.from_bytes(self.data[self.at : self.at + _INT], "little", signed=True)
        self.at += _INT
        return value

    def string(self) -> str:
        size = self.data[self.at] if self.at < len(self.data) else 0
        text = self.data[self.at + 1 : self.at + 1 + size]
        self.at += size + 1
        return text.decode("latin-1")


def _records(hints: bytes) -> Iterator[tuple[int, _Cursor, int]]:
    """(type, cursor behind it, end) of every record; ends at a length that leads nowhere."""
    at = 0
    while at + 2 * _INT <= len(hints):
        length, kind = _RECORD(hints, at)
        yield kind, _Cursor(hints, at + 2 * _INT), min(at + _INT + length, len(hints))
        if length < 0:
            return
        at += length + _INT


def versions(hints: bytes) -> Versions:
    """The VERSION records by module name, in order: a release has thousands, and many modules are looked up."""
    found: Versions = {}
    size = len(hints)
    at = 0
    while at + 2 * _INT <= size:
        length, kind = _RECORD(hints, at)
        if kind == MDT_VERSION:
            if at + _LONGEST_VERSION <= size:  # all of it is there: as the cursor reads it, without one
                start = at + 2 * _INT + 1
                end = start + hints[start - 1]
                place = (end + _INT - 1) // _INT * _INT
                version, file_length = _VERSION(hints, place)
                file = hints[place + _INT + 1 : place + _INT + 1 + file_length].decode("latin-1")
                found.setdefault(hints[start:end].decode("latin-1"), []).append((version, file))
            else:
                cursor = _Cursor(hints, at + 2 * _INT)
                found.setdefault(cursor.string(), []).append((cursor.integer(), cursor.string()))
        if length < 0:
            break
        at += length + _INT
    return found


def find_version(known: Versions, name: str, wanted: Dependency | None) -> str | None:
    """mod_search_hints: the file of module ``name``: the preferred version, else the highest in range.

    Only VERSION records count.  None: the hints know nothing of it.
    """
    best = 0
    found: str | None = None
    for version, file in known.get(name, ()):
        if wanted is None or version == wanted[1]:
            return file
        if wanted[0] <= version <= wanted[2] and version > best:
            best, found = version, file
    return found


class PnpOptions:
    """pnpmatch -d (``dump``) and -v (``verbose``)."""

    __slots__ = ("dump", "verbose")

    def __init__(self, dump: bool = False, verbose: bool = False) -> None:
        self.dump = dump
        self.verbose = verbose


def find_device(loader: Loader, hints: bytes, bus: str, device: str, options: PnpOptions) -> str | None:
    """devmatch_search_hints: the file of the first driver on ``bus`` whose table has ``device`` (``key=value ...``)."""
    file: str | None = None
    talk = options.dump or options.verbose
    for kind, cursor, end in _records(hints):
        if kind == MDT_VERSION:
            if talk:
                name, version, in_file = cursor.string(), cursor.integer(), cursor.string()
                loader.print(f"Version: if {name}.{version} kmod {in_file}\n")
        elif kind == MDT_MODULE:
            name, file = cursor.string(), cursor.string()
            if talk:
                loader.print(f"module {name} in {name}\n")  # the original shows the module's name twice
        elif kind == MDT_PNP_INFO:
            if file == "kernel" and not options.dump:
                continue
            if _table_matches(loader, cursor, end, bus, device, options, file) and file is not None:
                return file
    return None


def _table_matches(
    loader: Loader, cursor: _Cursor, end: int, bus: str, device: str, options: PnpOptions, file: str | None
) -> bool:
    table_bus, descriptor, count = cursor.string(), cursor.string(), cursor.integer()
    if options.dump or options.verbose:
        shown = "(null)" if file is None else file
        loader.print(f"PNP info for bus {table_bus} format {descriptor} {count} entries ({shown})\n")
    if table_bus == "usb":
        if options.verbose:
            loader.print("Treating usb as uhub -- bug in source table still?\n")
        table_bus = "uhub"
    if table_bus != bus:
        if options.verbose:
            loader.print(f"Skipped because table for bus {table_bus}, looking for {bus}\n")
        return False
    matched = False
    for number in range(count):
        if cursor.at >= end:
            break  # a count beyond the end of the record
        start = cursor.at
        if options.verbose:
            loader.print(f"---------- Entry {number} ----------\n")
        if options.dump:
            loader.print("   ")
        fits = _entry_matches(loader, cursor, descriptor, device, options)
        if options.dump:
            loader.print("\n")
        elif fits:
            matched = True
            if options.verbose:
                loader.print(f"Matches --- {'(null)' if file is None else file} ---\n")
        if cursor.at == start:
            break  # without data every entry is the same, and the count may be millions
    return matched


def _entry_matches(loader: Loader, cursor: _Cursor, descriptor: str, device: str, options: PnpOptions) -> bool:
    """Compare one entry of a table, field by field as ``descriptor`` (`T:name;...`) says, with ``device``."""
    fits = True
    mask = -1
    bit = -1
    at = 0
    while at >= 0 and at < len(descriptor):
        letter = descriptor[at]
        name = descriptor[at + 2 :]
        if letter in _INTEGER_FIELDS:
            value = cursor.integer()
            if options.dump:
                loader.print(f"{_hex(value)}:")
            elif not (bit >= 0 and (1 << min(bit, 31)) & mask == 0):
                actual = _device_integer(name, device)
                if options.verbose:
                    loader.print(f"Matching {name} ({letter}) table={_hex(actual)} tomatch={_hex(value)}\n")
                if letter == "M":
                    mask = value
                elif letter == "G":
                    fits &= actual >= value
                elif letter == "L":
                    fits &= actual <= value
                elif letter == "I" or value != -1:
                    fits &= actual == value
        elif letter in _STRING_FIELDS:
            text = cursor.string()
            if options.dump:
                loader.print(f"'{text}':")
            elif letter == "Z":
                fits &= _device_string(name, device) == text
        elif letter == "T":
            if not options.dump:
                key = name.removesuffix(";")
                place = device.find(key)
                fits &= place >= 0 and (place == 0 or device[place - 1] == " ")
        else:
            loader.print(f"Unknown field type {letter}\n:")
        bit += 1
        at = descriptor.find(";", at) + 1 or -1
    return fits


def _hex(value: int) -> str:
    """%#x of an int: zero has no prefix."""
    return f"{value & 0xFFFFFFFF:#x}" if value else "0"


def _device_value(name: str, device: str) -> str | None:
    """What follows ``key=`` in ``device``, to its end; the key is ``name`` up to a semicolon."""
    key = name.partition(";")[0] + "="
    if device.startswith(key):
        return device[len(key) :]
    place = device.find(" " + key)
    return None if place < 0 else device[place + 1 + len(key) :]


def _device_integer(name: str, device: str) -> int:
    """pnpval_as_int: -1 for a field the device does not have."""
    text = _device_value(name, device)
    return -1 if text is None else to_int(strtol(text)[0])


def _device_string(name: str, device: str) -> str:
    """pnpval_as_str: a quoted value, or one word; MISSING for a field the device does not have."""
    text = _device_value(name, device)
    if text is None:
        return "MISSING"
    quote = text[0] if text[:1] in ("'", '"') else ""
    return text[1:].partition(quote)[0] if quote else text.partition(" ")[0]
