"""What QEMU's monitor tells of its processors ("info registers -a"): whether all of them have halted."""

from __future__ import annotations

import re

# Bounds everywhere: who answers may be a guest that has broken out, and would keep us searching
_PROCESSOR = re.compile(
    r"[ER]IP=([0-9a-f]{1,16}) [ER]FL=([0-9a-f]{1,16})[^\n]{0,100}HLT=(\d).{0,200}?CS =([0-9a-f]{1,16})", re.DOTALL
)
_INTERRUPTS_ON = 0x200
_RESET_VECTOR = (0xFFF0, 0xF000)  # IP, CS of a processor that was never started


def halted_at(registers: object) -> list[tuple[str, ...]] | None:
    """Where each processor stands, if every one waits with interrupts off or was never started; else None."""
    processors = _PROCESSOR.findall(registers) if isinstance(registers, str) else []
    if not processors:
        return None
    halted = all(
        (int(ip, 16), int(cs, 16)) == _RESET_VECTOR or (hlt == "1" and not int(flags, 16) & _INTERRUPTS_ON)
        for ip, flags, hlt, cs in processors
    )
    return processors if halted else None
