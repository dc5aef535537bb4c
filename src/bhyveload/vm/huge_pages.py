"""Pages of 2 MiB for a memory file, where the kernel has them: half of what small ones cost to take and to write, and
next to nothing to give back.

A tmpfs has them by itself only where whoever mounted it said so.  MADV_COLLAPSE (Linux 6.1) makes one of what a file
holds in a stretch of 2 MiB, holes included, unless all of them are denied.  Where it does not, small pages do as
before.  System calls: the C library has no number for the advice, and Python's mmap can neither choose an address nor
map without dup(2), which a confined child may not call.
"""

from __future__ import annotations

import mmap
import os
import sys
from time import thread_time_ns

from bhyveload.syscall import call

HUGE_PAGE = 2 << 20
MADV_COLLAPSE = 25  # include/uapi/asm-generic/mman-common.h
_MAP_FIXED, _MAP_NORESERVE = 0x10, 0x4000
_PROT_NONE = 0
_ORDER = 9  # a huge page is 1 << 9 small ones
_TOO_LONG = 1_000_000  # ns; five times what one takes that lies ready

# mmap, munmap, madvise
_CALLS = {"x86_64": (9, 11, 28), "aarch64": (222, 215, 233)}
_calls = _CALLS.get(os.uname().machine) if sys.platform == "linux" else None


def ready(path: str = "/proc/buddyinfo") -> int:
    """How many huge pages lie ready in the host's free memory; 0 where that is not to be known.

    More would be put together by moving what others have in memory, 5 ms each: ten times what one saves.
    """
    if _calls is None:
        return 0
    try:
        with open(path, "rb", buffering=0) as file:
            lines = file.read(1 << 16).splitlines()
        # Node 0, zone Normal, free stretches of 1, 2, 4, ... small pages
        zones = [line.split()[4 + _ORDER :] for line in lines if b"DMA " not in line]
        return sum(int(count) << larger for zone in zones for larger, count in enumerate(zone))
    except (OSError, ValueError):
        return 0


def gather(fd: int, start: int, end: int, most: int) -> int:
    """Have what lies wholly within [start, end) of the file ``fd`` in huge pages, ``most`` of them: how many are now.

    What the file holds stays as it is, but holes become zeros: only for what is about to be written.
    """
    first = -(-start // HUGE_PAGE) * HUGE_PAGE
    size = min(end // HUGE_PAGE * HUGE_PAGE - first, most * HUGE_PAGE)
    if _calls is None or size <= 0:
        return 0
    map_, unmap, advise = _calls
    # Room for it, and as much as it takes for address and offset to be alike below 2 MiB
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    room = call(map_, None, size + HUGE_PAGE, _PROT_NONE, flags, -1, 0)
    if room < 0:
        return 0
    address = -(-room // HUGE_PAGE) * HUGE_PAGE
    done = 0
    try:
        if call(map_, address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, fd, first) < 0:
            return 0
        for at in range(0, size, HUGE_PAGE):
            began = thread_time_ns()
            os.pwrite(fd, os.pread(fd, 1, first + at), first + at)  # a stretch without any page is passed over
            if call(advise, address + at, HUGE_PAGE, MADV_COLLAPSE) != 0:
                break
            done += 1
            if thread_time_ns() - began > _TOO_LONG:
                break  # none lay ready any more
    except OSError:
        pass  # no room: the write itself will say so
    finally:
        call(unmap, room, size + HUGE_PAGE)
    return done
