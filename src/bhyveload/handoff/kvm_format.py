"""KVM's ioctl numbers and structures for x86-64 (include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h)."""

from __future__ import annotations

import struct

KVM_API_VERSION = 12
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_CPUID2 = 0x4008AE90

KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_IO_OUT = 1

CPUID_ENTRIES = 256
CPUID_HEADER = struct.Struct("<II")
CPUID_ENTRY_SIZE = 40

MEMORY_REGION = struct.Struct("<IIQQQ")  # slot, flags, guest_phys_addr, memory_size, userspace_addr
SEGMENT = struct.Struct("<QIH10B")  # base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable, padding
TABLE = struct.Struct("<QH6x")  # base, limit
# cs ds es fs gs ss tr ldt | gdt idt | cr0 cr2 cr3 cr4 cr8 efer apic_base | interrupt_bitmap
SREGS_SIZE = 312
SREGS_TABLES = 8 * SEGMENT.size
SREGS_CONTROL = SREGS_TABLES + 2 * TABLE.size
CONTROL = struct.Struct("<7Q")
REGS = struct.Struct("<18Q")  # rax rbx rcx rdx rsi rdi rsp rbp r8-r15 rip rflags

RUN_EXIT_REASON = 8
RUN_UNION = 32
IO = struct.Struct("<BBHIQ")  # direction, size, port, count, data_offset
MMIO = struct.Struct("<Q8sIB")  # phys_addr, data, len, is_write
