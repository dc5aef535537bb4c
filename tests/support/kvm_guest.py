"""Run a loaded VM on KVM without QEMU: a processor, memory, COM1 and a power switch, for tiny test kernels.

There is no firmware, no interrupt controller and no disk.  The memory file is mapped privately, the vCPU starts in
exactly the state of state.json: what the guest sees is what the loader wrote, with nothing in between.
"""

from __future__ import annotations

import mmap
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

from bhyveload.errors import HandoffError
from bhyveload.handoff.kvm import KvmMachine
from bhyveload.handoff.kvm_format import KVM_EXIT_HLT, KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN
from bhyveload.handoff.machine import loaded
from bhyveload.handoff.outcome import HALTED, POWERED_OFF, REBOOTED, TIMED_OUT, TRIPLE_FAULT
from bhyveload.handoff.pvh.entry_state import entry_state
from bhyveload.vm.memory import VM_HIGHMEM_BASE

if TYPE_CHECKING:
    from bhyveload.handoff.machine import LoadedMachine

COM1 = 0x3F8
LINE_STATUS, TRANSMITTER_EMPTY = 5, 0x60
PM1_CONTROL, SLP_EN = 0x604, 0x2000  # where QEMU's pc has it: the guests power off the same way under both
RESET_CONTROL, RESET_CPU = 0xCF9, 0x04
KEYBOARD_COMMAND, KEYBOARD_RESET = 0x64, 0xFE
_CONSOLE_MAX = 1 << 20


class KvmResult:
    """``outcome`` as in a RunResult, ``console``: what the guest wrote to COM1 (at most 1 MiB), ``seconds``."""

    __slots__ = ("console", "outcome", "seconds")

    def __init__(self, outcome: str, console: bytes, seconds: float) -> None:
        self.outcome = outcome
        self.console = console
        self.seconds = seconds


class _TimeUp(Exception):
    """The alarm, on its way out of KVM_RUN."""


def run_kvm(vm: LoadedMachine, timeout: float) -> KvmResult:
    """Run the guest loaded in ``vm`` for at most ``timeout`` seconds.  Only from the main thread (it sets an alarm).

    Raises HandoffError (no KVM here, a state that KVM refuses, an instruction that it cannot execute), VmNotLoaded.
    """
    guest, state = loaded(vm)
    entry = entry_state(state)
    begin = time.monotonic()
    console = bytearray()
    machine = KvmMachine()
    outcome = TIMED_OUT
    old = signal.signal(signal.SIGALRM, _time_up)
    try:
        memory = mmap.mmap(guest.fd, guest.low + guest.high, flags=mmap.MAP_PRIVATE)
        machine.add_memory(0, 0, memory, 0, guest.low)
        if guest.high:
            machine.add_memory(1, VM_HIGHMEM_BASE, memory, guest.low, guest.high)
        machine.set_state(entry)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        outcome = _serve(machine, console)
    except _TimeUp:
        pass
    except (OSError, ValueError) as error:
        raise HandoffError(f"guest memory: {error}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        machine.close()
    return KvmResult(outcome, bytes(console), time.monotonic() - begin)


def _time_up(_signal: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _serve(machine: KvmMachine, console: bytearray) -> str:
    """COM1 and the ways to end; every other port and address reads as ones."""
    while True:
        reason = machine.run()
        if reason == KVM_EXIT_IO:
            out, port, data = machine.io()
            if not out:
                value = TRANSMITTER_EMPTY if port == COM1 + LINE_STATUS else 0xFF
                machine.answer_io(bytes([value]) * len(data))
            elif port == COM1 and len(console) < _CONSOLE_MAX:
                console += data
            elif port == PM1_CONTROL and int.from_bytes(data[:2], "little") & SLP_EN:
                return POWERED_OFF
            elif (port == RESET_CONTROL and data[0] & RESET_CPU) or (
                port == KEYBOARD_COMMAND and data[0] == KEYBOARD_RESET
            ):
                return REBOOTED
        elif reason == KVM_EXIT_MMIO:
            machine.answer_mmio()
        elif reason == KVM_EXIT_HLT:  # there is nothing that could interrupt it
            return HALTED
        elif reason == KVM_EXIT_SHUTDOWN:
            return TRIPLE_FAULT
        elif reason:
            raise HandoffError(f"KVM cannot go on with the guest (exit reason {reason})")
