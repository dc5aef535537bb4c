"""A machine that is being loaded, and its memory.  For type checkers only: nothing imports this at run time.

``vm.store.VirtualMachine`` (Linux), ``vm.scratch.ScratchMachine`` (nothing is kept) and
``vm.freebsd.FreebsdVirtualMachine`` (vmm(4)) are Machines; nobody who loads asks which one it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from bhyveload.vm.registers import Registers

Buffer = bytes | bytearray | memoryview


class Memory(Protocol):
    """Guest RAM: ``low`` bytes from address 0, ``high`` bytes from 4 GiB.  Every method takes guest physical addresses
    and raises MemoryAccessError for a range that is not wholly in one of the two."""

    @property
    def low(self) -> int: ...
    @property
    def high(self) -> int: ...

    def check(self, gpa: int, length: int) -> object:
        """Nothing, if [gpa, gpa + length) is guest memory."""
        ...

    def write(self, gpa: int, data: Buffer) -> None:
        """Raises VmStorageError as well: the host has no room for it."""
        ...

    def expect(self, gpa: int, length: int) -> None:
        """[gpa, gpa + length) is about to be written."""
        ...

    def write_pieces(self, gpa: int, pieces: Sequence[Buffer], length: int) -> None:
        """Consecutive ``pieces``, ``length`` bytes in all."""
        ...

    def zero(self, gpa: int, length: int) -> None: ...

    def read(self, gpa: int, length: int) -> bytes: ...

    def descriptors(self) -> Sequence[int]:
        """What it reads and writes through: a confined process may keep these.  None for mapped memory."""
        ...


class Machine(Protocol):
    """One machine, ours until ``close`` or ``abandon``.

    ``keeps``: what is loaded stays when this process ends; the disks of a machine that does not keep it are not
    written either.
    ``starts_over``: a load can be begun anew, unseen, with memory that no earlier turn has touched.
    """

    @property
    def name(self) -> str: ...
    @property
    def starts_over(self) -> bool: ...
    @property
    def keeps(self) -> bool: ...
    @property
    def memory(self) -> Memory | None: ...
    @property
    def memory_size(self) -> int: ...

    def recall(self) -> Sequence[str] | None:
        """What the load before this one needed (vm/recall.py); None: not known."""
        ...

    def loading(self) -> Memory:
        """The memory to load into.  Raises VmError: this machine was opened for something else, or is loaded."""
        ...

    def restart(self) -> Memory:
        """As ``loading``, for a loader that starts over."""
        ...

    def commit(
        self, vcpus: Sequence[Registers], loaded: dict[str, object], extra: dict[str, object] | None = None
    ) -> None:
        """The guest is loaded: keep its registers and the report.  Raises VmError."""
        ...

    def abandon(self) -> None:
        """Close it without what was being loaded."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """``close``, or ``abandon`` where nothing was committed."""
        ...
