"""What goes with a core of guest memory: the loader's metadata as notes, the kernel at its virtual addresses.

Appended to a core that is there, with a new table of program headers behind it: the same for a core of ours and for one
of QEMU's.  Notes are named "bhyveload":

* type 0x42480001, the loader's report as JSON (docs/report-json.md);
* type 0x42480002, the records that the kernel was given (sys/sys/linker.h, MODINFO_*): 8 bytes with their guest
  physical address, then the records.

A core of a guest that has not run has the processor's registers as well ("CORE", NT_PRSTATUS), as QEMU's have.
Segments of the kernel have their physical addresses, too, so that libkvm, which goes by those
(lib/libkvm/kvm_amd64.c:_kvm_pa2off), finds the same bytes.
"""

from __future__ import annotations

import os
import struct

from bhyveload.boot_formats.elf_format import ELF64, ELFMAG, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE
from bhyveload.boot_formats.modinfo import records
from bhyveload.boot_formats.modinfo_format import MODINFO_END
from bhyveload.errors import HostError, MemoryAccessError
from bhyveload.handoff.kernel_image import kernel_segments
from bhyveload.jsontext import dumps
from bhyveload.libc import pwrite_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from bhyveload.handoff.kernel_image import KernelSegment
    from bhyveload.vm.memory import GuestMemory

NAME = b"bhyveload"
NT_REPORT, NT_MODINFO = 0x42480001, 0x42480002  # none that debuggers give a meaning, whatever the name
_ET_CORE = 4
_NT_PRSTATUS = 1
_EFER_LMA = 1 << 10
_HEADERS_MAX = 1 << 12
_NOTE = struct.Struct("<III")
# struct elf_prstatus of Linux on x86-64: what is in front of the registers, these (struct user_regs_struct), the rest
_PRSTATUS = struct.Struct("<112x27QI4x")
_USER_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", ""),
    *("rip", "cs", "rflags", "rsp", "ss", "fs base", "gs base", "ds", "es", "fs", "gs"),
)


def annotate(fd: int, memory: GuestMemory, state: Mapping[str, Any], registers: bool, path: str) -> None:
    """Append what ``state`` and ``memory``, as the loader left them, say to the ELF core in ``fd``, the file ``path``.

    ``registers``: those of the boot processor, too.  Raises HostError: it is no core, or cannot be written.
    """
    report = state.get("loaded")
    report = report if isinstance(report, dict) else {}
    notes = b"".join(_notes(memory, state, report, registers))
    try:
        size = os.fstat(fd).st_size
        header, table = _headers(fd, size, path)
        segments = [*table, *_kernel(memory, report, table)]
        end = -(-size // 8) * 8
        segments.append((PT_NOTE, PF_R, end, 0, 0, len(notes), 0, 4))
        place = end + -(-len(notes) // 8) * 8
        packed = b"".join(ELF64.phdr.pack(*segment) for segment in segments)
        pwrite_all(fd, memoryview(notes.ljust(place - end, b"\0") + packed), end)
        header[5], header[10] = place, len(segments)  # e_phoff, e_phnum
        pwrite_all(fd, memoryview(ELF64.ehdr.pack(*header)), 0)
    except OSError as error:
        raise HostError(f"--dump {path}: {error.strerror}") from None


def _headers(fd: int, size: int, path: str) -> tuple[list[Any], list[tuple[int, ...]]]:
    """The ELF header's fields and the program headers.  QEMU wrote them: a guest may have it in its hands."""
    raw = os.pread(fd, ELF64.ehdr.size, 0)
    if len(raw) == ELF64.ehdr.size and raw[:4] == ELFMAG and raw[4] == ELF64.ei_class:
        header = list(ELF64.ehdr.unpack(raw))
        offset, entry, count = header[5], header[9], header[10]
        length = count * ELF64.phdr.size
        if header[1] == _ET_CORE and entry == ELF64.phdr.size and count < _HEADERS_MAX and offset + length <= size:
            return header, list(ELF64.phdr.iter_unpack(os.pread(fd, length, offset)))
    raise HostError(f"--dump {path}: what was written is no core of 64 bits")


def _kernel(
    memory: GuestMemory, report: Mapping[str, Any], table: Sequence[tuple[int, ...]]
) -> Iterator[tuple[int, ...]]:
    """The kernel's segments at the addresses that it is linked at: the same bytes of the file."""
    kernel = report.get("kernel")
    address = kernel.get("address") if isinstance(kernel, dict) else None
    for segment in kernel_segments(memory, address) if isinstance(address, int) else ():
        for kind, _, offset, _, physical, filled, _, _ in table:
            if kind == PT_LOAD and physical <= segment.start < segment.end <= physical + filled:
                yield _mapped(segment, offset + segment.start - physical)
                break


def _mapped(segment: KernelSegment, offset: int) -> tuple[int, ...]:
    size = segment.end - segment.start
    flags = segment.flags & (PF_R | PF_W | PF_X)
    return PT_LOAD, flags, offset, segment.vaddr, segment.start, size, size, 1


def _notes(
    memory: GuestMemory, state: Mapping[str, Any], report: Mapping[str, Any], registers: bool
) -> Iterator[bytes]:
    vcpus = state.get("vcpus")
    vcpu = vcpus[0] if isinstance(vcpus, list) and vcpus and isinstance(vcpus[0], dict) else {}
    if registers:
        yield _note(b"CORE", _NT_PRSTATUS, _prstatus(vcpu))
    yield _note(NAME, NT_REPORT, dumps(report).encode())
    modulep = report.get("modulep")
    if isinstance(modulep, int) and modulep > 0:
        stride = 8 if _member(vcpu, "registers").get("efer", 0) & _EFER_LMA else 4
        content = _modinfo(memory, modulep, stride)
        if content:
            yield _note(NAME, NT_MODINFO, struct.pack("<Q", modulep) + content)


def _modinfo(memory: GuestMemory, modulep: int, stride: int) -> bytes:
    """The records as they lie in memory, up to their end; nothing where they are damaged."""
    try:
        for record in records(memory, modulep, stride):
            if record.kind == MODINFO_END:
                return memory.read(modulep, record.address - modulep)
    except MemoryAccessError:
        pass
    return b""


def _prstatus(vcpu: Mapping[str, Any]) -> bytes:
    registers, selectors, descriptors = (_member(vcpu, name) for name in ("registers", "selectors", "descriptors"))
    values = []
    for name in _USER_REGISTERS:
        if name.endswith(" base"):
            value = _member(descriptors, name.removesuffix(" base")).get("base", 0)
        else:
            value = selectors.get(name, registers.get(name, 0))
        values.append(value & (1 << 64) - 1 if isinstance(value, int) else 0)
    return _PRSTATUS.pack(*values, 0)


def _member(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name)
    return value if isinstance(value, dict) else {}


def _note(name: bytes, kind: int, content: bytes) -> bytes:
    name += b"\0"
    padded = name.ljust(-(-len(name) // 4) * 4, b"\0")
    return _NOTE.pack(len(name), len(content), kind) + padded + content.ljust(-(-len(content) // 4) * 4, b"\0")
