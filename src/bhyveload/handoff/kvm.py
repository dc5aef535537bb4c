"""A processor and memory on KVM, without QEMU: for finding out whether KVM runs kernels (kvm_probe.py)."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct

from bhyveload.errors import HandoffError
from bhyveload.handoff.kvm_format import (
    CONTROL,
    CPUID_ENTRIES,
    CPUID_ENTRY_SIZE,
    CPUID_HEADER,
    IO,
    KVM_API_VERSION,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_EXIT_IO,
    KVM_EXIT_IO_OUT,
    KVM_GET_API_VERSION,
    KVM_GET_SREGS,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN,
    KVM_SET_CPUID2,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_USER_MEMORY_REGION,
    MEMORY_REGION,
    MMIO,
    REGS,
    RUN_EXIT_REASON,
    RUN_UNION,
    SEGMENT,
    SREGS_CONTROL,
    SREGS_SIZE,
    SREGS_TABLES,
    TABLE,
)
from bhyveload.handoff.pvh.entry_state import CODE32, CODE64, DATA32, DATA64, EntryState
from bhyveload.vm.memory import PAGE_SIZE

PROBE_PORT = 0xF4
_BUSY_TSS_TYPE, _LDT_TYPE = 11, 2


class KvmMachine:
    """One vCPU and guest memory.  Raises HandoffError where KVM is missing or refuses."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._mappings: list[mmap.mmap] = []
        try:
            kvm = self._keep(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
            if fcntl.ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION:
                raise HandoffError("/dev/kvm speaks another version of the KVM interface")
            self._vm = self._keep(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
            self._vcpu = self._keep(fcntl.ioctl(self._vm, KVM_CREATE_VCPU, 0))
            size = fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0)
            self._run = mmap.mmap(self._vcpu, size)
            self._mappings.append(self._run)
            cpuid = bytearray(CPUID_HEADER.size + CPUID_ENTRIES * CPUID_ENTRY_SIZE)
            CPUID_HEADER.pack_into(cpuid, 0, CPUID_ENTRIES, 0)
            fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
            fcntl.ioctl(self._vcpu, KVM_SET_CPUID2, cpuid)
        except OSError as error:
            self.close()
            raise HandoffError(f"/dev/kvm: {error.strerror}") from None
        except HandoffError:
            self.close()
            raise

    def _keep(self, fd: int) -> int:
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in reversed(self._fds):
            os.close(fd)
        for mapping in self._mappings:
            mapping.close()
        self._fds, self._mappings = [], []

    def add_memory(self, slot: int, address: int, memory: mmap.mmap, offset: int, size: int) -> None:
        """Guest RAM at ``address``: ``size`` bytes of ``memory`` from ``offset`` on.  The machine closes ``memory``."""
        if memory not in self._mappings:
            self._mappings.append(memory)
        anchor = ctypes.c_char.from_buffer(memory)
        where = ctypes.addressof(anchor) + offset
        del anchor  # it would keep the mapping from being closed
        self._ioctl(KVM_SET_USER_MEMORY_REGION, MEMORY_REGION.pack(slot, 0, address, size, where), self._vm)

    def set_state(self, entry: EntryState) -> None:
        """The registers and segments of ``entry``."""
        sregs = bytearray(SREGS_SIZE)
        fcntl.ioctl(self._vcpu, KVM_GET_SREGS, sregs)
        code, data = (CODE64, DATA64) if entry.long_mode else (CODE32, DATA32)
        segments = [_segment(0x08, code), *[_segment(0x10, data)] * 5]
        tss_base, tss_limit = entry.tss or (0, 0)
        segments.append(SEGMENT.pack(tss_base, tss_limit, 0x18 if entry.tss else 0, _BUSY_TSS_TYPE, 1, *bytes(8)))
        segments.append(SEGMENT.pack(0, 0, 0, _LDT_TYPE, 0, 0, 0, 0, 0, 0, 0, 1, 0))
        sregs[:SREGS_TABLES] = b"".join(segments)
        TABLE.pack_into(sregs, SREGS_TABLES, entry.gdt_base, entry.gdt_limit)
        old = CONTROL.unpack_from(sregs, SREGS_CONTROL)
        CONTROL.pack_into(sregs, SREGS_CONTROL, entry.cr0, 0, entry.cr3, entry.cr4, 0, entry.efer, old[6])
        self._ioctl(KVM_SET_SREGS, bytes(sregs))
        rax, rbx, rcx, rdx, rsi, rdi, rbp, *high = entry.general
        self._ioctl(
            KVM_SET_REGS, REGS.pack(rax, rbx, rcx, rdx, rsi, rdi, entry.rsp, rbp, *high, entry.rip, entry.rflags)
        )

    def _ioctl(self, request: int, argument: bytes, fd: int = -1) -> None:
        try:
            fcntl.ioctl(self._vcpu if fd < 0 else fd, request, argument)
        except OSError as error:
            raise HandoffError(f"KVM refuses the guest's state: {error.strerror}") from None

    def run(self) -> int:
        """Until the guest needs something: KVM's exit reason."""
        try:
            fcntl.ioctl(self._vcpu, KVM_RUN, 0)
        except InterruptedError:
            return 0
        except OSError as error:
            raise HandoffError(f"KVM cannot run the guest: {error.strerror}") from None
        (reason,) = struct.unpack_from("<I", self._run, RUN_EXIT_REASON)
        return int(reason)

    def io(self) -> tuple[bool, int, bytes]:
        """The port access that ended ``run``: whether it is output, the port, the bytes written."""
        direction, size, port, count, offset = IO.unpack_from(self._run, RUN_UNION)
        return direction == KVM_EXIT_IO_OUT, port, self._run[offset : offset + size * count]

    def answer_io(self, data: bytes) -> None:
        """What an input instruction reads: as many bytes as ``io`` returned."""
        offset = IO.unpack_from(self._run, RUN_UNION)[4]
        self._run[offset : offset + len(data)] = data

    def answer_mmio(self) -> None:
        """Nothing is there: all ones."""
        address, _, length, is_write = MMIO.unpack_from(self._run, RUN_UNION)
        MMIO.pack_into(self._run, RUN_UNION, address, b"\xff" * 8, length, is_write)


def _segment(selector: int, access: int) -> bytes:
    """A flat segment from vm_set_desc's access word."""
    return SEGMENT.pack(
        *(0, 0xFFFFFFFF, selector, access & 0xF, access >> 7 & 1, access >> 5 & 3),
        *(access >> 14 & 1, access >> 4 & 1, access >> 13 & 1, access >> 15 & 1, access >> 12 & 1, 0, 0),
    )


# mov ecx, LOOPS; dec ecx; jnz -3 | mov eax, cr4; or eax, OSFXSR|OSXMMEXCPT; mov cr4, eax; pxor xmm0, xmm0 |
# mov al, 'y'; out PROBE_PORT, al; hlt
_PROBE_LOOP = bytes.fromhex("49 75 fd")
_PROBE_SSE = bytes.fromhex("0f 20 e0 0d 00 06 00 00 0f 22 e0 66 0f ef c0")
_PROBE_DONE = bytes.fromhex("b0 79 e6 f4 f4")
_PROBE_LOOPS = 150_000
_PROBE_CODE = 0x1000
_CR0_PE, _CR0_MP, _CR0_NE = 0x1, 0x2, 0x20


def probe_guest_finishes(loops: int = _PROBE_LOOPS, sse: bool = True) -> bool:
    """Whether KVM gets through a small 32-bit ring-0 guest: a loop, an SSE instruction, a port.

    May take long, or never come back, where KVM is not what it seems: call it in a process that can be killed.
    """
    code = b"\xb9" + struct.pack("<I", loops) + _PROBE_LOOP + (_PROBE_SSE if sse else b"") + _PROBE_DONE
    try:
        machine = KvmMachine()
    except HandoffError:
        return False
    try:
        memory = mmap.mmap(-1, 4 * PAGE_SIZE)
        memory[_PROBE_CODE : _PROBE_CODE + len(code)] = code
        machine.add_memory(0, 0, memory, 0, len(memory))
        registers = {"cr0": _CR0_PE | _CR0_MP | _CR0_NE, "rip": _PROBE_CODE, "rsp": _PROBE_CODE}
        machine.set_state(EntryState(registers, (0, 0), None))
        return machine.run() == KVM_EXIT_IO and machine.io() == (True, PROBE_PORT, b"y")
    except HandoffError:
        return False
    finally:
        machine.close()
