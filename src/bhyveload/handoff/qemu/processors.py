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
    """Where each processor stands, if every one that was ever started waits with interrupts off; else None.

    Where none was, the machine has yet to begin: on a busy host that may take longer than we wait between questions.
    """
    processors = _PROCESSOR.findall(registers) if isinstance(registers, str) else []
    started = [
        hlt == "1" and not int(flags, 16) & _INTERRUPTS_ON
        for ip, flags, hlt, cs in processors
        if (int(ip, 16), int(cs, 16)) != _RESET_VECTOR
    ]
    return processors if started and all(started) else None
