"""What a machine's firmware does with guest memory before it enters the stub."""

from __future__ import annotations

from bhyveload.vm.memory import MB

ROM_END = 0x100000  # of every PC


class FirmwareMap:
    """``base_end``: where the firmware's own begins below 640 KiB, for good up to ROM_END; ``top``: bytes at the end of
    low memory that it keeps for good; ``scratch_size`` bytes, ending ``scratch_below_top`` below the end of low
    memory, are written to and free again."""

    __slots__ = ("base_end", "scratch_below_top", "scratch_size", "top")

    def __init__(self, base_end: int, top: int, scratch_below_top: int, scratch_size: int) -> None:
        self.base_end = base_end
        self.top = top
        self.scratch_below_top = scratch_below_top
        self.scratch_size = scratch_size

    def scratch(self, low: int) -> tuple[int, int]:
        """[first, last) of the scratch memory where low memory ends at ``low``."""
        end = low - self.scratch_below_top
        return end - self.scratch_size, end


# Measured with QEMU 7.2 and SeaBIOS 1.16 for 16 MiB to 5 GiB of RAM.  The page of the extended BIOS data area; 0x3c000
# was the most that was seen at the top; 0x121000 was the most of scratch memory.
SEABIOS = FirmwareMap(base_end=0x9F000, top=1 * MB, scratch_below_top=16 * MB, scratch_size=2 * MB)
