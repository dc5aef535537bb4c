"""What lies where in a loaded guest's memory: the kernel's parts, modules, page tables, the firmware's places.

Nothing is trusted: the state and the kernel's headers come from a guest, and what does not fit is left out.
"""

from __future__ import annotations

from bhyveload.boot_formats.elf_format import PF_W, PF_X
from bhyveload.handoff.kernel_image import kernel_segments
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.pvh.firmware import ROM_END, SEABIOS
from bhyveload.vm.memory import VM_HIGHMEM_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from bhyveload.handoff.machine import LoadedMachine
    from bhyveload.vm.memory import GuestMemory

KERNEL, MODULE, TABLES, FIRMWARE, FREE, HOLE = "kernel", "module", "tables", "firmware", "free", "hole"
_PAGE = 4096
_CR0_PG, _EFER_LMA = 1 << 31, 1 << 10
_FILES_MAX = 4096


class Place:
    """``start`` to ``end``, guest physical; ``kind`` is one of the constants; ``name`` may be the guest's."""

    __slots__ = ("end", "kind", "name", "start")

    def __init__(self, start: int, end: int, kind: str, name: str) -> None:
        self.start = start
        self.end = end
        self.kind = kind
        self.name = name

    @property
    def size(self) -> int:
        return self.end - self.start


def places(vm: LoadedMachine) -> list[Place]:
    """All of the guest's address space up to the end of RAM, in order, without gaps or overlaps.

    Raises VmNotLoaded.
    """
    memory, state = loaded(vm)
    found = [place for place in _known(memory, state) if place.start < place.end <= _top(memory)]
    return _filled(sorted(found, key=lambda place: (place.start, -place.end)), memory)


def _known(memory: GuestMemory, state: Mapping[str, Any]) -> Iterator[Place]:
    """From the least to the most that is known of a place."""
    report = state.get("loaded")
    report = report if isinstance(report, dict) else {}
    files = report.get("files")
    end = 0
    for number, file in enumerate(files[:_FILES_MAX] if isinstance(files, list) else ()):
        start, size = (_number(file, "address"), _number(file, "size")) if isinstance(file, dict) else (0, 0)
        if not size:
            continue
        end = max(end, start + size)
        name = str(file.get("name"))
        if number:
            yield Place(start, start + size, MODULE, f"{name} ({file.get('type')})")
        else:
            yield from _kernel(memory, start, size, name)
    kernend = _number(report, "kernend")
    if end < kernend:
        yield Place(-(-end // _PAGE) * _PAGE, kernend, TABLES, "environment and module metadata")
    yield from _processor(state)
    yield Place(SEABIOS.base_end, ROM_END, FIRMWARE, "the firmware's: EBDA, video, ROM")
    yield Place(memory.low - SEABIOS.top, memory.low, FIRMWARE, "the firmware's: ACPI tables")
    first, last = SEABIOS.scratch(memory.low)
    yield Place(first, last, FREE, "free (the firmware writes here before the guest starts)")


def _processor(state: Mapping[str, Any]) -> Iterator[Place]:
    """What the boot processor's registers point at."""
    vcpus = state.get("vcpus")
    vcpu = vcpus[0] if isinstance(vcpus, list) and vcpus and isinstance(vcpus[0], dict) else {}
    registers = vcpu.get("registers")
    registers = registers if isinstance(registers, dict) else {}
    if _number(registers, "cr0") & _CR0_PG:
        root = _number(registers, "cr3") & ~(_PAGE - 1)
        pages = 3 if _number(registers, "efer") & _EFER_LMA else 1
        yield Place(root, root + pages * _PAGE, TABLES, "page tables")
    stack = _number(registers, "rsp") & ~(_PAGE - 1)
    yield Place(stack, stack + _PAGE, TABLES, "stack")
    descriptors = vcpu.get("descriptors")
    gdtr = descriptors.get("gdtr") if isinstance(descriptors, dict) else None
    if isinstance(gdtr, dict) and _number(gdtr, "base"):
        base = _number(gdtr, "base")
        yield Place(base, base + min(_number(gdtr, "limit"), 0xFFFF) + 1, TABLES, "GDT")


def _kernel(memory: GuestMemory, address: int, size: int, name: str) -> Iterator[Place]:
    """The parts of a kernel of 64 bits by the program headers in its first page; else it as a whole."""
    end = address
    for segment in kernel_segments(memory, address):
        part = "text" if segment.flags & PF_X else "data" if segment.flags & PF_W else "read-only data"
        if segment.start < end or segment.end > address + size:
            break
        yield Place(segment.start, segment.filled, KERNEL, f"{name}: {part}")
        yield Place(segment.filled, segment.end, KERNEL, f"{name}: bss")
        end = segment.end
    yield Place(end, address + size, KERNEL, f"{name}: symbols" if end > address else name)


def _filled(found: list[Place], memory: GuestMemory) -> list[Place]:
    """``found`` without overlaps, and what is between them."""
    every: list[Place] = []
    at = 0
    for place in found:
        if place.end <= at or (place.start < memory.low < place.end):
            continue
        if place.start > at:
            every += _between(at, place.start, memory)
        every.append(Place(max(at, place.start), place.end, place.kind, place.name))
        at = place.end
    return [*every, *_between(at, _top(memory), memory)]


def _between(start: int, end: int, memory: GuestMemory) -> Iterator[Place]:
    low = memory.low
    for first, last, kind in ((0, low, FREE), (low, VM_HIGHMEM_BASE, HOLE), (VM_HIGHMEM_BASE, _top(memory), FREE)):
        if max(start, first) < min(end, last):
            name = "devices" if kind == HOLE else "free"
            yield Place(max(start, first), min(end, last), kind, name)


def _top(memory: GuestMemory) -> int:
    return VM_HIGHMEM_BASE + memory.high if memory.high else memory.low


def _number(parent: Mapping[str, Any], name: str) -> int:
    value = parent.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 else 0
