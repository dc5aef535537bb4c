"""Compare what two loaders left in two VMs, in words: bhyveload --cross-check.

Both load the same disk; registers, metadata, environment, preloaded files and every page of guest memory should be the
same.  Not compared is what the real loader copies without having written it: the rest of the stack page (whatever was
on its C stack) and, for i386, the unused entries of KEYBUF (its heap); Handover.leftovers.
"""

from __future__ import annotations

import os
from bisect import bisect_right

from bhyveload.errors import MemoryAccessError
from bhyveload.printable import escape
from bhyveload.userboot.handover import FileRecords, Handover, describe, read_handover
from bhyveload.vm.memory import PAGE_SIZE, VM_HIGHMEM_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bhyveload.vm.memory import GuestMemory
    from bhyveload.vm.registers import Registers

MAX_LINES = 200
_BLOCK = 1 << 20
_OF_ALL_FILES = ("ENVP", "KERNEND")
_ADDRESSES = ("ADDR", "SSYM", "ESYM", "DYNAMIC", "CTORS_ADDR")
_SHDR_64, _SHDR_32 = (64, 16, 8), (40, 12, 4)  # size of a section header, place and width of its sh_addr
_FIXED_PAGES = {
    (True, 0x1000): "stack",
    (True, 0x2000): "PML4",
    (True, 0x3000): "PDPT",
    (True, 0x4000): "page directory",
    (True, 0x5000): "GDT",
    (False, 0x1000): "stack",
    (False, 0x2000): "bootinfo",
    (False, 0x3000): "GDT",
    (False, 0x4000): "TSS",
}


class LoadedState:
    """A loaded VM: ``label`` names its loader in the differences ("built-in", "userboot.so")."""

    __slots__ = ("handover", "label", "memory", "vcpu")

    def __init__(self, label: str, memory: GuestMemory, vcpu: Registers) -> None:
        self.label = label
        self.memory = memory
        self.vcpu = vcpu
        self.handover = read_handover(memory, vcpu)


def is_reordered(a: LoadedState, b: LoadedState) -> bool:
    """Whether both loaded the same files, the kernel first, but the others in another order.

    The guest's Lua asks for the modules in the order of pairs(), which is another one in each run: of strings' hashes
    with a random seed.
    """
    left, right = ([file.name for file in state.handover.files] for state in (a, b))
    return left != right and left[:1] == right[:1] and sorted(left) == sorted(right)


def compare(a: LoadedState, b: LoadedState) -> list[str]:
    """The differences, a line each, most telling first; empty when the guests are the same.

    Where modules are only in another order each file is compared with its like, addresses within it relative to where
    it was put; what lies between and behind the files is then not compared.
    At most MAX_LINES lines; the last then says how many more there are.  Lines print, whatever the guests hold.
    """
    lines = [*_registers(a, b), *_faults(a), *_faults(b), *_metadata(a, b), *_environment(a, b), *_contents(a, b)]
    if is_reordered(a, b):
        pass
    elif (a.memory.low, a.memory.high) != (b.memory.low, b.memory.high):
        lines.append(
            f"memory: {a.memory.low:#x} + {a.memory.high:#x} bytes with {a.label}, "
            f"{b.memory.low:#x} + {b.memory.high:#x} with {b.label}; pages not compared"
        )
    else:
        lines += _pages(a, b)
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"... and {len(lines) - MAX_LINES + 1} more differences"]
    return [escape(line) for line in lines]


def _both(what: str, one: str, other: str, a: LoadedState, b: LoadedState) -> str:
    return f"{what}: {one} with {a.label}, {other} with {b.label}"


def _faults(state: LoadedState) -> list[str]:
    return [f"{fault} ({state.label})" for fault in state.handover.faults]


def _registers(a: LoadedState, b: LoadedState) -> Iterator[str]:
    def shown(value: int | tuple[int, int, int] | None) -> str:
        if value is None:
            return "not set"
        if isinstance(value, int):
            return f"{value:#x}"
        return f"base {value[0]:#x} limit {value[1]:#x} access {value[2]:#x}"

    tables: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
        ("register", a.vcpu.registers, b.vcpu.registers),
        ("selector", a.vcpu.selectors, b.vcpu.selectors),
        ("descriptor", a.vcpu.descriptors, b.vcpu.descriptors),
    )
    for kind, left, right in tables:
        for name in dict.fromkeys((*left, *right)):
            one, other = left.get(name), right.get(name)
            if one != other:
                yield _both(f"{kind} {name}", shown(one), shown(other), a, b)


def _metadata(a: LoadedState, b: LoadedState) -> Iterator[str]:
    if is_reordered(a, b):
        for one, other in _pairs(a.handover.files, b.handover.files):
            yield from _records(_relative(one, a), _relative(other, b), a, b)
        return
    for what in ("modulep", "kernend"):
        one, other = getattr(a.handover, what), getattr(b.handover, what)
        if one != other:
            yield _both(what, f"{one:#x}", f"{other:#x}", a, b)
    left, right = a.handover.files, b.handover.files
    names = [file.name for file in left], [file.name for file in right]
    if names[0] != names[1]:
        yield _both("preloaded files", ", ".join(names[0]) or "none", ", ".join(names[1]) or "none", a, b)
    for one_file, other_file in _pairs(left, right):
        yield from _records(one_file, other_file, a, b)


def _relative(file: FileRecords, state: LoadedState) -> FileRecords:
    """``file`` as if it had been put at address 0, and without what tells how large all files together are."""
    start, size = file.extent()
    result = FileRecords()
    for name, payload in file.records:
        if name in _OF_ALL_FILES:
            continue
        if name == "SHDR":
            entry, field, width = _SHDR_64 if state.vcpu.registers.get("efer") else _SHDR_32
            places = range(field, len(payload), entry)
        else:
            width = len(payload)
            places = range(1) if name in _ADDRESSES and width in (4, 8) else range(0)
        moved = bytearray(payload)
        for at in places:
            address = int.from_bytes(payload[at : at + width], "little")
            if start <= address <= start + size and at + width <= len(payload):
                moved[at : at + width] = (address - start).to_bytes(width, "little")
        result.records.append((name, bytes(moved)))
    return result


def _pairs(left: list[FileRecords], right: list[FileRecords]) -> Iterator[tuple[FileRecords, FileRecords]]:
    """Files of the same name; of several with one name the first with the first, and so on."""
    waiting: dict[str, list[FileRecords]] = {}
    for file in right:
        waiting.setdefault(file.name, []).append(file)
    for file in left:
        others = waiting.get(file.name)
        if others:
            yield file, others.pop(0)


def _records(one: FileRecords, other: FileRecords, a: LoadedState, b: LoadedState) -> Iterator[str]:
    orders = [name for name, _ in one.records], [name for name, _ in other.records]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        yield _both(f"{one.name}: order of the records", " ".join(orders[0]), " ".join(orders[1]), a, b)
    by_name = _by_name(one), _by_name(other)
    for name in dict.fromkeys((*orders[0], *orders[1])):
        left, right = by_name[0].get(name, []), by_name[1].get(name, [])
        for number in range(max(len(left), len(right))):
            payloads = [side[number] if number < len(side) else None for side in (left, right)]
            if payloads[0] == payloads[1]:
                continue
            shown = ["absent" if payload is None else describe(name, payload) for payload in payloads]
            if shown[0] == shown[1]:  # bytes that words do not tell apart
                assert payloads[0] is not None
                assert payloads[1] is not None
                at = _first_difference(payloads[0], payloads[1])
                shown = [
                    f"{text} ({payload[at : at + 8].hex()} at +{at:#x})"
                    for text, payload in zip(shown, payloads, strict=True)
                    if payload is not None
                ]
            yield _both(f"{one.name}: record {name}", shown[0], shown[1], a, b)


def _by_name(file: FileRecords) -> dict[str, list[bytes]]:
    payloads: dict[str, list[bytes]] = {}
    for name, payload in file.records:
        payloads.setdefault(name, []).append(payload)
    return payloads


def _environment(a: LoadedState, b: LoadedState) -> Iterator[str]:
    left, right = dict(a.handover.environment), dict(b.handover.environment)
    for name in dict.fromkeys((*left, *right)):
        if left.get(name) != right.get(name):
            one, other = (f'"{side[name]}"' if name in side else "not set" for side in (left, right))
            yield _both(f"variable {name}", one, other, a, b)
    orders = [name for name, _ in a.handover.environment], [name for name, _ in b.handover.environment]
    if orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]):
        at = next(i for i, (one, other) in enumerate(zip(*orders, strict=True)) if one != other)
        yield _both(f"environment: order, variable {at}", orders[0][at], orders[1][at], a, b)


def _contents(a: LoadedState, b: LoadedState) -> Iterator[str]:
    """Each preloaded file's image, wherever each loader put it: together they fit into memory, or lie over each other,
    as often as the guest likes."""
    left_over = min(a.memory.low, b.memory.low)
    for one, other in _pairs(a.handover.files, b.handover.files):
        (left, size), (right, other_size) = one.extent(), other.extent()
        count, first, at = 0, 0, 0
        length = min(size, other_size)
        left_over -= length
        if left_over < 0:
            yield f"{one.name}: preloaded files lie over each other; from here on their images are not compared"
            return
        while at < length:
            step = min(_BLOCK, length - at)
            try:
                pieces = a.memory.read(left + at, step), b.memory.read(right + at, step)
            except MemoryAccessError:
                yield f"{one.name}: {length:#x} bytes at {left:#x} and {right:#x} do not lie in guest memory"
                break
            if pieces[0] != pieces[1]:
                first = first if count else at + _first_difference(*pieces)
                count += _count_differences(*pieces)
            at += step
        if count:
            yield (
                f"{one.name}: {count} of {length} bytes of its image differ, first at +{first:#x} "
                f"(guest address {left + first:#x})"
            )


def _pages(a: LoadedState, b: LoadedState) -> Iterator[str]:
    """Runs of differing pages that belong to the same thing."""
    run: list[tuple[int, int, int]] = []  # (guest address of the page, first difference, how many)
    what = ""
    owners = Owners(a)
    for page, left, right in _differing_pages(a, b):
        first = page + _first_difference(left, right)
        owner = owners.of(first)
        if run and (owner != what or page != run[-1][0] + PAGE_SIZE):
            yield _run(run, what)
            run = []
        what = owner
        run.append((page, first, _count_differences(left, right)))
    if run:
        yield _run(run, what)


def _run(run: list[tuple[int, int, int]], what: str) -> str:
    place = f"page {run[0][0]:#x}" if len(run) == 1 else f"pages {run[0][0]:#x}-{run[-1][0] + PAGE_SIZE - 1:#x}"
    return f"guest {place} ({what}): {sum(count for *_, count in run)} bytes differ, first at {run[0][1]:#x}"


def _differing_pages(a: LoadedState, b: LoadedState) -> Iterator[tuple[int, bytes, bytes]]:
    """(guest address, page of a, page of b) for every page that differs in what is compared."""
    total = a.memory.low + a.memory.high
    leftovers = a.handover.leftovers + b.handover.leftovers
    at = 0
    while at < total:
        data = min(_next_data(a.memory.fd, at, total), _next_data(b.memory.fd, at, total))
        at = max(at, data & -PAGE_SIZE)
        length = min(_BLOCK, total - at)
        left, right = (os.pread(state.memory.fd, length, at).ljust(length, b"\0") for state in (a, b))
        if left != right:
            for offset in range(0, length, PAGE_SIZE):
                pages = left[offset : offset + PAGE_SIZE], right[offset : offset + PAGE_SIZE]
                if pages[0] == pages[1]:
                    continue
                address = _guest_address(a.memory, at + offset)
                one, other = (_without(page, address, leftovers) for page in pages)
                if one != other:
                    yield address, one, other
        at += length


def _next_data(fd: int, at: int, total: int) -> int:
    """File offset of the next byte ever written; holes are zero in both."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        return total


def _without(page: bytes, address: int, leftovers: list[tuple[int, int]]) -> bytes:
    """The page at ``address`` with zeros where the leftovers are."""
    for start, end in leftovers:
        first, last = max(0, start - address), min(PAGE_SIZE, end - address)
        if first < last:
            page = page[:first] + bytes(last - first) + page[last:]
    return page


def _guest_address(memory: GuestMemory, offset: int) -> int:
    return offset if offset < memory.low else offset - memory.low + VM_HIGHMEM_BASE


class Owners:
    """What lies where in guest memory, by a state's own account."""

    def __init__(self, state: LoadedState) -> None:
        self._state = state
        self._long_mode = bool(state.vcpu.registers.get("efer"))
        extents = ((*file.extent(), file.name) for file in state.handover.files)
        self._files = sorted((start, start + size, name) for start, size, name in extents)
        self._starts = [start for start, _, _ in self._files]

    def of(self, address: int) -> str:
        """In words; where files lie over each other, the one that begins last."""
        handover: Handover = self._state.handover
        fixed = _FIXED_PAGES.get((self._long_mode, address & -PAGE_SIZE))
        if fixed:
            return fixed
        place = bisect_right(self._starts, address)
        if place and address < self._files[place - 1][1]:
            return self._files[place - 1][2]
        if handover.environment_at <= address < handover.environment_at + handover.environment_size:
            return "environment"
        if handover.modulep <= address < handover.modulep + handover.metadata_size:
            return "module metadata"
        if address >= handover.kernend:
            return "behind kernend"
        return "between preloaded files"


def _first_difference(left: bytes, right: bytes) -> int:
    """Offset of the first byte that differs, or the shorter length."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        elif middle - low == 1:
            return low
        else:
            high = middle
    return low


def _count_differences(left: bytes, right: bytes) -> int:
    length = min(len(left), len(right))
    both = int.from_bytes(left[:length], "little") ^ int.from_bytes(right[:length], "little")
    return length - both.to_bytes(length, "little").count(0)
