"""What a loader may touch of the host: bhyveload(8)'s 27 loader callbacks as one Python class.

The built-in loader calls these methods directly; FreeBSD's userboot.so reaches the same methods through ctypes
(userboot/).  Values, errno numbers and the guest-address mask are those of usr.sbin/bhyveload/bhyveload.c
(cb_*) and stand/userboot/userboot.h.  Where C returns an errno, these raise FileSystemError with it.
"""

from __future__ import annotations

import time

from bhyveload.errors import FileSystemError, HostError, MemoryAccessError
from bhyveload.freebsd_errno import EBADF, EFAULT, EINVAL, EIO, ENOENT, ENOTTY
from bhyveload.vm.registers import (
    MSR_EFER,
    VM_REG_NAMES,
    Registers,
    setup_freebsd_registers,
    setup_freebsd_registers_i386,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from bhyveload.device import Buffer, Device
    from bhyveload.host.interface import Console, HostDirectory, HostFile
    from bhyveload.vm.interface import Memory

USERBOOT_VERSION = 5
USERBOOT_EXIT_QUIT = 1
USERBOOT_EXIT_REBOOT = 2
DIOCGSECTORSIZE = 0x40046480
DIOCGMEDIASIZE = 0x40086481
GUEST_ADDRESS_MASK = 0x7FFFFFFF  # bhyveload.c: copyin/copyout take addresses modulo 2 GiB
RSP_REGISTER = 4  # the loader's register numbering (x86 encoding), not VM_REG_*


class LoaderEnd(BaseException):
    """How a loader leaves.  Not an Exception: no handler of errors may swallow it."""


class InputEnded(LoaderEnd):
    """The loader waits for a key and none can come any more (end of input): it would ask for ever."""


class GuestReady(LoaderEnd):
    """exec was called: registers are set, the guest can run."""


class LoaderExit(LoaderEnd):
    """exit(code) was called: 0 normal, USERBOOT_EXIT_QUIT, USERBOOT_EXIT_REBOOT or another status."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class SwapInterpreter(LoaderEnd):
    """swap_interpreter(name) was called: the guest's scripts want another interpreter."""

    def __init__(self, name: bytes) -> None:
        super().__init__(name)
        self.name = name


def loader_environment(variables: Sequence[bytes]) -> list[bytes]:
    """The list that getenv walks: ``variables`` as given with -e (command-line order), newest first, with
    bhyveload's own two in front (main and cb_getenv of bhyveload.c)."""
    return [b"boot_serial=1", b"smbios.bios.vendor=BHYVE", *reversed(variables)]


class LoaderCallbacks:
    """One VM seen by one loader run.

    ``disks`` in ``-d`` order, ``environment`` as loader_environment() makes it, ``vcpu`` receives the registers.
    ``virtual_exit`` callers see exec, exit and swap_interpreter as LoaderEnd exceptions: they never return.
    """

    def __init__(
        self,
        console: Console,
        memory: Memory,
        disks: Sequence[Device] = (),
        host_directory: HostDirectory | None = None,
        environment: Sequence[bytes] = (),
    ) -> None:
        self.console = console
        self.memory = memory
        self.disks = disks
        self.host_directory = host_directory
        self.environment = environment
        self.vcpu = Registers()
        self.calls: list[str] = []  # register callbacks in order, for reports and tests
        self._rsp = 0
        self._cr3 = 0
        self._gdtbase = 0

    # Console

    def putc(self, ch: int) -> None:
        self.console.write(bytes((ch & 0xFF,)))

    def getc(self) -> int:
        return self.console.getc()

    def poll(self) -> int:
        return 1 if self.console.poll() else 0

    # Host directory

    def open(self, name: bytes) -> HostFile:
        """Raises FileSystemError: ENOENT (also without -h), EINVAL (neither file nor folder), ENOTCAPABLE."""
        if self.host_directory is None:
            raise FileSystemError(ENOENT, "host0: no host directory was given", "name one with -h")
        return self.host_directory.open(name)

    def close(self, handle: HostFile) -> None:
        handle.close()

    def isdir(self, handle: HostFile) -> int:
        return 1 if handle.is_directory else 0

    def read(self, handle: HostFile, size: int) -> bytes:
        """Up to ``size`` bytes, fewer at the end.  Raises FileSystemError(EINVAL) for folders and any error."""
        if handle.is_directory:
            raise FileSystemError(EINVAL, "host0: cannot read a directory")
        return handle.read(size)

    def readdir(self, handle: HostFile) -> tuple[int, int, bytes]:
        """(fileno, d_type, name).  Raises FileSystemError: ENOENT at the end, EINVAL if not a folder."""
        if not handle.is_directory:
            raise FileSystemError(EINVAL, "host0: not a directory")
        entry = handle.readdir()
        if entry is None:
            raise FileSystemError(ENOENT, "host0: end of directory")
        return entry

    def seek(self, handle: HostFile, offset: int, whence: int) -> int:
        if handle.is_directory:
            raise FileSystemError(EINVAL, "host0: cannot seek in a directory")
        return handle.seek(offset, whence)

    # Disks

    def diskread(self, unit: int, offset: int, size: int) -> Buffer:
        """Up to ``size`` bytes at byte ``offset``: fewer at the end of the media.  Raises FileSystemError(EIO)."""
        disk = self._disk(unit, EIO)
        if offset < 0 or size < 0:
            raise FileSystemError(EINVAL, f"disk{unit}: read of {size} bytes at {offset}")
        length = min(size, disk.size - offset)
        return disk.read(offset, length) if length > 0 else b""

    def diskwrite(self, unit: int, offset: int, data: Buffer) -> int:
        """Overwrite bytes in place; returns how many fitted.  Raises FileSystemError: EIO, EROFS."""
        disk = self._disk(unit, EIO)
        if offset < 0:
            raise FileSystemError(EINVAL, f"disk{unit}: write at {offset}")
        size = max(0, min(len(data), disk.size - offset))
        if size:
            disk.write(offset, data[:size])
        return size

    def diskioctl(self, unit: int, cmd: int) -> int:
        """DIOCGSECTORSIZE -> 512, DIOCGMEDIASIZE -> bytes.  Raises FileSystemError: EBADF (unit), ENOTTY (cmd)."""
        disk = self._disk(unit, EBADF)
        if cmd == DIOCGSECTORSIZE:
            return disk.sector_size
        if cmd == DIOCGMEDIASIZE:
            return disk.size
        raise FileSystemError(ENOTTY, f"disk{unit}: ioctl {cmd:#x} is not supported")

    def _disk(self, unit: int, number: int) -> Device:
        if not 0 <= unit < len(self.disks):
            raise FileSystemError(number, f"disk{unit}: there is no such disk")
        return self.disks[unit]

    # Guest memory

    def expect(self, gpa: int, size: int) -> None:
        """The next copyins are going to fill [gpa, gpa + size).  Raises FileSystemError(EFAULT) outside low memory."""
        try:
            self.memory.expect(gpa & GUEST_ADDRESS_MASK, size)
        except MemoryAccessError as error:
            raise FileSystemError(EFAULT, error.message) from None

    def copyin(self, data: Buffer, gpa: int) -> None:
        """Host -> guest, address modulo 2 GiB.  Raises FileSystemError(EFAULT) outside low memory."""
        self.copyin_pieces((data,), len(data), gpa)

    def copyin_pieces(self, pieces: Sequence[Buffer], size: int, gpa: int) -> None:
        """copyin of several consecutive pieces: what the built-in loader uses to copy whole files at once."""
        try:
            self.memory.write_pieces(gpa & GUEST_ADDRESS_MASK, pieces, size)
        except MemoryAccessError as error:
            raise FileSystemError(EFAULT, error.message) from None

    def zero(self, gpa: int, size: int) -> None:
        """copyin of ``size`` zero bytes."""
        try:
            self.memory.zero(gpa & GUEST_ADDRESS_MASK, size)
        except MemoryAccessError as error:
            raise FileSystemError(EFAULT, error.message) from None

    def copyout(self, gpa: int, size: int) -> bytes:
        """Guest -> host.  Raises FileSystemError(EFAULT)."""
        try:
            return self.memory.read(gpa & GUEST_ADDRESS_MASK, size)
        except MemoryAccessError as error:
            raise FileSystemError(EFAULT, error.message) from None

    def getmem(self) -> tuple[int, int]:
        """(low, high) bytes of guest memory."""
        return self.memory.low, self.memory.high

    # Registers

    def setreg(self, register: int, value: int) -> None:
        if register != RSP_REGISTER:
            self._unsupported("test_setreg", register)
        self.calls.append(f"setreg {register} = {value:#x}")
        self._rsp = value
        self.vcpu.registers["rsp"] = value

    def setmsr(self, msr: int, value: int) -> None:
        if msr & 0xFFFFFFFF != MSR_EFER:
            self._unsupported("test_setmsr", msr)
        self.calls.append(f"setmsr {msr & 0xFFFFFFFF:#x} = {value:#x}")
        self.vcpu.registers["efer"] = value

    def setcr(self, cr: int, value: int) -> None:
        if cr not in (0, 3, 4):
            self._unsupported("test_setcr", cr)
        self.calls.append(f"setcr {cr} = {value:#x}")
        if cr == 3:
            self._cr3 = value
        self.vcpu.registers[f"cr{cr}"] = value

    def setgdt(self, base: int, size: int) -> None:
        self.calls.append(f"setgdt base={base:#x} size={size} (limit {size - 1})")
        self._gdtbase = base
        self.vcpu.descriptors["gdtr"] = (base, size - 1, 0)

    def _unsupported(self, what: str, number: int) -> NoReturn:
        self.console.write(f"{what}({number}): not implemented\n".encode())
        raise LoaderExit(1)

    def exec(self, rip: int) -> NoReturn:
        """Set the final registers and leave: GuestReady."""
        self.calls.append(f"exec rip={rip:#x}")
        try:
            if self._cr3 == 0:
                setup_freebsd_registers_i386(self.vcpu, self.memory, rip, self._gdtbase, self._rsp & 0xFFFFFFFF)
            else:
                setup_freebsd_registers(self.vcpu, rip, self._cr3, self._gdtbase, self._rsp)
        except MemoryAccessError as error:
            raise HostError(f"vm_setup_freebsd_registers: {error.message}") from None
        raise GuestReady

    def vm_set_register(self, vcpu: int, reg: int, value: int) -> int:
        """0, or -1 where the vmm ioctl would fail."""
        if vcpu != 0 or not 0 <= reg < len(VM_REG_NAMES):
            return -1
        name = VM_REG_NAMES[reg]
        if name in ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"):
            self.vcpu.selectors[name] = value
        else:
            self.vcpu.registers[name] = value
        return 0

    def vm_set_desc(self, vcpu: int, reg: int, base: int, limit: int, access: int) -> int:
        """0, or -1 where the vmm ioctl would fail."""
        if vcpu != 0 or not 22 <= reg <= 31:  # VM_REG_GUEST_ES .. VM_REG_GUEST_GDTR
            return -1
        self.vcpu.descriptors[VM_REG_NAMES[reg]] = (base, limit, access)
        return 0

    # The rest

    def delay(self, usec: int) -> None:
        self.console.flush()
        time.sleep(max(0, usec) / 1_000_000)

    def exit(self, code: int) -> NoReturn:
        raise LoaderExit(code)

    def getenv(self, number: int) -> bytes | None:
        """The number-th ``name=value``, None behind the last."""
        return self.environment[number] if 0 <= number < len(self.environment) else None

    def swap_interpreter(self, name: bytes) -> NoReturn:
        raise SwapInterpreter(name)
