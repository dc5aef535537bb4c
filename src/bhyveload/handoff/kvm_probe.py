"""Does this machine's KVM run kernels?  /dev/kvm alone does not say so.

Nested set-ups exist whose KVM emulates every ring-0 instruction (half a million a second, no SSE, no POPCNT): a kernel
would seem to hang there.  So run a few hundred thousand ring-0 instructions, some of them of the sort that emulation
lacks, in a child process with a time limit.
"""

from __future__ import annotations

import _signal
import os
import select
import time

_ALONE = 2  # seconds
_LIMIT = 0.1  # seconds; real hardware needs about 5 ms, nearly all of it for making the VM


def kvm_runs_kernels() -> bool:
    """Whether KVM executes a guest's kernel at a processor's speed.  Takes 0.1 s at most, never raises."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    from bhyveload.handoff.kvm import probe_guest_finishes

    try:
        read, write = os.pipe()
    except OSError:
        return False
    try:
        child = os.fork()
    except OSError:  # too many processes: whoever starts QEMU will say so
        os.close(read)
        os.close(write)
        return False
    if child == 0:
        try:
            _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
            _signal.alarm(_ALONE)  # if we are killed meanwhile, nobody else ends it
            os.close(read)
            if probe_guest_finishes():
                os.write(write, b"y")
        finally:
            os._exit(0)
    os.close(write)
    try:
        deadline = time.monotonic() + _LIMIT
        ready, _, _ = select.select([read], [], [], max(0.0, deadline - time.monotonic()))
        return bool(ready) and os.read(read, 1) == b"y"
    finally:
        os.close(read)
        os.kill(child, _signal.SIGKILL)
        os.waitpid(child, 0)
