"""A VM in FreeBSD's own /dev/vmm, through libvmmapi: another Machine (vm/interface.py).

Source: lib/libvmmapi/vmmapi.h and vmmapi.c of 13, 14 and 2026, usr.sbin/bhyveload/bhyveload.c, sys/dev/vmm/vmm_dev.c.
14.0 gave every vCPU a handle of its own; before, functions took the VM and a number.
"""

from __future__ import annotations

import ctypes
import errno
import os

from bhyveload.errors import HostError, MemoryAccessError, VmBusy, VmError, VmMemoryError, VmNotFound
from bhyveload.vm.directory import check_name
from bhyveload.vm.freebsd_calls import GET_CAPABILITY, register_calls
from bhyveload.vm.memory import VM_HIGHMEM_BASE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.vm.memory import Buffer
    from bhyveload.vm.registers import Registers

VM_MEM_F_INCORE, VM_MEM_F_WIRED = 0x01, 0x02
VM_MMAP_ALL = 1
# The name without a number is part of the development packages; 13 has major 5, 14 has 6, SHLIB_MAJOR of 15 is 7.
LIBRARIES = ("libvmmapi.so", "libvmmapi.so.7", "libvmmapi.so.6", "libvmmapi.so.5")
_ZEROS = bytes(1 << 20)

_POINTER, _STRING, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_SIZE, _U64, _U32 = ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32
# name: (result, arguments); _VCPU stands for (ctx, number) before 14.0 and for a handle since
_VCPU = object()
_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "vm_create": (_INT, (_STRING,)),
    "vm_open": (_POINTER, (_STRING,)),
    "vm_destroy": (None, (_POINTER,)),
    "vm_reinit": (_INT, (_POINTER,)),
    "vm_set_memflags": (None, (_POINTER, _INT)),
    "vm_setup_memory": (_INT, (_POINTER, _SIZE, _INT)),
    "vm_map_gpa": (_POINTER, (_POINTER, _U64, _SIZE)),
    "vm_get_lowmem_size": (_SIZE, (_POINTER,)),
    "vm_get_highmem_size": (_SIZE, (_POINTER,)),
    "vm_set_register": (_INT, (_VCPU, _INT, _U64)),
    "vm_set_desc": (_INT, (_VCPU, _INT, _U64, _U32, _U32)),
    "vm_get_capability": (_INT, (_VCPU, _INT, ctypes.POINTER(_INT))),
    "vm_set_capability": (_INT, (_VCPU, _INT, _INT)),
}


class Vmmapi:
    """libvmmapi with its functions' types declared.  Raises HostError when it is not there or lacks a function."""

    __slots__ = ("_library", "has_close", "has_vcpu_handles")

    def __init__(self, path: str = "") -> None:
        """``path``: a library of that name instead of the system's."""
        try:
            self._library = ctypes.CDLL(path, use_errno=True) if path else _system_library()
            self.has_vcpu_handles = hasattr(self._library, "vm_vcpu_open")
            self.has_close = hasattr(self._library, "vm_close")  # 13 got it on the way
            for name, (result, arguments) in _FUNCTIONS.items():
                self._declare(name, result, arguments)
            if self.has_vcpu_handles:
                self._declare("vm_vcpu_open", _POINTER, (_POINTER, _INT))
                self._declare("vm_vcpu_close", None, (_POINTER,))
            if self.has_close:
                self._declare("vm_close", None, (_POINTER,))
        except (OSError, AttributeError) as error:
            raise HostError(
                f"{path or LIBRARIES[0]}: {error}", "FreeBSD's libvmmapi is needed for /dev/vmm; elsewhere --vmm=store"
            ) from None

    def _declare(self, name: str, result: object, arguments: tuple[object, ...]) -> None:
        function: Any = getattr(self._library, name)
        vcpu = (_POINTER,) if self.has_vcpu_handles else (_POINTER, _INT)
        types: list[object] = []
        for argument in arguments:
            types.extend(vcpu if argument is _VCPU else (argument,))
        function.restype, function.argtypes = result, types

    def call(self, name: str, *arguments: object) -> Any:
        """What the C function returns; errno is kept for ``failure``."""
        ctypes.set_errno(0)
        return getattr(self._library, name)(*arguments)


def _system_library() -> ctypes.CDLL:
    """The first of LIBRARIES that is there.  Raises OSError about the first."""
    failures = []
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name, use_errno=True)
        except OSError as error:
            failures.append(error)
    raise failures[0]


class VmmMemory:
    """Guest RAM mapped by vm_setup_memory: a Memory (vm/interface.py).  It may hold an earlier guest's bytes."""

    __slots__ = ("_highmem", "_lowmem", "high", "low")

    def __init__(self, api: Vmmapi, ctx: int) -> None:
        self.low: int = api.call("vm_get_lowmem_size", ctx)
        self.high: int = api.call("vm_get_highmem_size", ctx)
        self._lowmem = _mapped(api, ctx, 0, self.low)
        self._highmem = _mapped(api, ctx, VM_HIGHMEM_BASE, self.high)

    def _place(self, gpa: int, length: int) -> tuple[memoryview, int]:
        if length >= 0:
            if gpa >= 0 and gpa + length <= self.low:
                return self._lowmem, gpa
            if gpa >= VM_HIGHMEM_BASE and gpa + length <= VM_HIGHMEM_BASE + self.high:
                return self._highmem, gpa - VM_HIGHMEM_BASE
        raise MemoryAccessError(f"guest address {gpa:#x}+{length:#x} is outside guest memory")

    def check(self, gpa: int, length: int) -> None:
        """Raises MemoryAccessError unless [gpa, gpa + length) is guest memory."""
        self._place(gpa, length)

    def descriptors(self) -> tuple[int, ...]:
        """None: a mapping needs none."""
        return ()

    def write(self, gpa: int, data: Buffer) -> None:
        """Copy ``data`` to guest address ``gpa``.  Raises MemoryAccessError."""
        self.write_pieces(gpa, (data,), len(data))

    def expect(self, gpa: int, length: int) -> None:
        """It is all there.  Raises MemoryAccessError."""
        self._place(gpa, length)

    def write_pieces(self, gpa: int, pieces: Sequence[Buffer], length: int) -> None:
        """Copy consecutive ``pieces`` (``length`` bytes in all) to ``gpa``.  Raises MemoryAccessError."""
        memory, at = self._place(gpa, length)
        for piece in pieces:
            memory[at : at + len(piece)] = piece
            at += len(piece)

    def zero(self, gpa: int, length: int) -> None:
        """Make [gpa, gpa + length) zero.  Raises MemoryAccessError."""
        memory, at = self._place(gpa, length)
        for start in range(at, at + length, len(_ZEROS)):
            step = min(at + length - start, len(_ZEROS))
            memory[start : start + step] = _ZEROS[:step]

    def read(self, gpa: int, length: int) -> bytes:
        """The bytes at [gpa, gpa + length).  Raises MemoryAccessError."""
        memory, at = self._place(gpa, length)
        return bytes(memory[at : at + length])


def _mapped(api: Vmmapi, ctx: int, gpa: int, length: int) -> memoryview:
    if length == 0:
        return memoryview(b"")
    address = api.call("vm_map_gpa", ctx, gpa, length)
    if not address:
        raise VmMemoryError(f"vm_map_gpa: {gpa:#x}+{length:#x} is not mapped")
    return memoryview((ctypes.c_ubyte * length).from_address(address)).cast("B")


class FreebsdVirtualMachine:
    """One VM of the host's vmm(4).  ``create`` re-initialises one that exists, as bhyveload(8) does.

    There is no commit point in /dev/vmm: memory is written in place, ``commit`` only sets the registers.
    """

    __slots__ = ("_api", "_ctx", "_fresh_vm", "_memflags", "_vcpu", "memory", "memory_size", "name", "state")

    keeps = True
    starts_over = False

    def __init__(self, name: str, api: Vmmapi) -> None:
        """Use ``create`` or ``open``."""
        self.name = name
        self.memory: VmmMemory | None = None
        self.memory_size = 0
        self.state: dict[str, object] | None = None
        self._api = api
        self._ctx: int | None = None
        self._vcpu: int | None = None
        self._memflags = 0
        self._fresh_vm = False

    @classmethod
    def create(cls, name: str, memory_size: int, api: Vmmapi, memflags: int = 0) -> FreebsdVirtualMachine:
        """bhyveload's steps: vm_create, vm_open, vm_reinit when it existed, vm_setup_memory.

        Raises VmNameError, VmBusy (a running VM), VmMemoryError, VmError with the failing function's name.
        """
        check_name(name)
        vm = cls(name, api)
        vm._memflags = memflags
        vm.memory_size = memory_size
        vm._fresh_vm = api.call("vm_create", os.fsencode(name)) == 0
        if not vm._fresh_vm and ctypes.get_errno() != errno.EEXIST:
            raise _failure("vm_create", name)
        try:
            vm._open()
            if not vm._fresh_vm:
                vm._reinit()
            vm._setup_memory()
        except BaseException:
            vm.abandon()
            raise
        return vm

    @classmethod
    def open(cls, name: str, api: Vmmapi) -> FreebsdVirtualMachine:
        """A VM that exists, without its memory: to destroy it.  Raises VmNameError, VmNotFound, VmError."""
        check_name(name)
        vm = cls(name, api)
        vm._open()
        return vm

    def recall(self) -> None:
        """Nothing of a load is kept but the guest."""

    def loading(self) -> VmmMemory:
        """The memory to load into.  Raises VmError: the VM was opened without it, or is loaded."""
        if self.memory is None or self.state is not None:
            raise VmError(f"VM '{self.name}' is not being loaded: it was opened, or holds a guest already")
        return self.memory

    def restart(self) -> VmmMemory:
        """vm_reinit and the memory anew, for a loader that starts over.  Contents stay (vmm keeps them)."""
        self._reinit()
        return self._setup_memory()

    def commit(
        self, vcpus: Sequence[Registers], loaded: dict[str, object], extra: dict[str, object] | None = None
    ) -> None:
        """Set vCPU 0's registers.  Raises VmError with bhyveload.c's name for what vmm refused."""
        for what, function, arguments in register_calls(vcpus[0]):
            self._on_vcpu(what, function, *arguments)
        self.state = {**(extra or {}), "loaded": loaded}

    def abandon(self) -> None:
        """Give up loading: a VM that ``create`` made disappears, one that existed before stays."""
        if self._fresh_vm and self._ctx is not None:
            self.destroy()
        else:
            self.close()

    def destroy(self) -> None:
        """Remove the VM from the host."""
        ctx, self._ctx, self.memory = self._ctx, None, None
        self._close_vcpu()
        if ctx is not None:
            self._api.call("vm_destroy", ctx)

    def close(self) -> None:
        """Let go of the VM; it stays in /dev/vmm for bhyve(8)."""
        ctx, self._ctx, self.memory = self._ctx, None, None
        self._close_vcpu()
        if ctx is not None and self._api.has_close:  # else the process's end does it
            self._api.call("vm_close", ctx)

    def __enter__(self) -> FreebsdVirtualMachine:
        return self

    def __exit__(self, *_: object) -> None:
        """``close``; ``abandon`` where a load was begun and nothing committed."""
        if self.memory is not None and self.state is None:
            self.abandon()
        else:
            self.close()

    def _open(self) -> None:
        self._ctx = self._api.call("vm_open", os.fsencode(self.name))
        if self._ctx is None:
            error = _failure("vm_open", self.name)
            if self._fresh_vm:  # without a handle it cannot be destroyed here
                error.hint = f"it was made just now: bhyvectl --destroy --vm={self.name}"
            raise error
        if self._api.has_vcpu_handles:
            self._vcpu = self._api.call("vm_vcpu_open", self._ctx, 0)
            if self._vcpu is None:
                raise _failure("vm_vcpu_open", self.name)

    def _reinit(self) -> None:
        if self._api.call("vm_reinit", self._ctx) != 0:
            raise _failure("vm_reinit", self.name)

    def _setup_memory(self) -> VmmMemory:
        if self._ctx is None:
            raise VmError(f"VM '{self.name}' is closed")
        self._api.call("vm_set_memflags", self._ctx, self._memflags)
        if self._api.call("vm_setup_memory", self._ctx, self.memory_size, VM_MMAP_ALL) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise VmMemoryError(f"vm_setup_memory: {reason}", "give another memory size with -m")
        self.memory = VmmMemory(self._api, self._ctx)
        self.memory_size = self.memory.low + self.memory.high  # since 2024 a VM that has memory keeps its size
        return self.memory

    def _on_vcpu(self, what: str, function: str, *arguments: object) -> None:
        vcpu = (self._vcpu,) if self._api.has_vcpu_handles else (self._ctx, 0)
        more = (ctypes.byref(ctypes.c_int()),) if function == GET_CAPABILITY else ()
        if self._api.call(function, *vcpu, *arguments, *more) != 0:
            reason = os.strerror(ctypes.get_errno())
            hint = "this processor, or vmm(4), runs no 32-bit guest" if "capability" in function else ""
            raise VmError(f"{what}: {reason}", hint)

    def _close_vcpu(self) -> None:
        if self._vcpu is not None:
            self._api.call("vm_vcpu_close", self._vcpu)
            self._vcpu = None


def _failure(function: str, name: str) -> VmError:
    number = ctypes.get_errno()
    message = f"{function}: {os.strerror(number)}"
    if number == errno.ENOENT:
        missing = "is vmm(4) loaded? kldload vmm" if function == "vm_create" else f"there is no VM '{name}' in /dev/vmm"
        return VmNotFound(message, missing)
    if number == errno.EBUSY:
        return VmBusy(message, f"VM '{name}' is running: end it, or bhyvectl --destroy --vm={name}")
    if number == errno.ENXIO and function == "vm_create":  # vmm_initialized is false (sys/amd64/vmm/vmm.c, vm_create)
        return VmError(message, "vmm(4) found no VT-x or AMD-V that it can use: is it switched on in the firmware?")
    if number in (errno.EPERM, errno.EACCES):
        return VmError(message, "vmm(4) wants root; since 2026 the group vmm may make VMs, each for its own user")
    return VmError(message)
