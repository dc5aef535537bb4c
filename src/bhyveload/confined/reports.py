"""The shape of every report that a confined child sends: what its parent believes, and within which bounds.

What a report says is looked at by whoever asked for it only after it has been checked against one of these (run.py).
"""

from __future__ import annotations

from bhyveload.confined.shape import LEFT_OUT, Choice, Entries, Fields, Flag, Number, Optional, Sequence, Text
from bhyveload.vm.registers import DESCRIPTORS, GENERAL, SEGMENTS

_U32 = Number(0, (1 << 32) - 1)
_U64 = Number()
_U128 = Number(0, (1 << 128) - 1)  # what a partition table says, sectors of bytes
_SIGNED = Number(-(1 << 63))
_WORD = Text(64)

# What every child can say: that it lacks a module, or what went wrong.
NEED = Fields({"need": Text(200), "shown": Optional(Number(0, (1 << 31) - 1), 0)})
_LINE = Text(512)
_MOUNTED = Fields({"name": _WORD, "type": _WORD, "file_system": _WORD, "why": _LINE})
_LOOKED_AT = Fields(
    {
        "name": _WORD,
        "path": Text(),
        "size": Number(),
        "table": _WORD,
        "error": _LINE,
        "partitions": Sequence(_MOUNTED, 64),
    }
)
EXPLANATION = Fields(
    {
        "device": _LINE,
        "file_system": _WORD,
        "interpreter": _WORD,
        "disks": Sequence(_LOOKED_AT, 32),
        "pools": Sequence(Fields({"name": _LINE, "error": _LINE}), 32),
        "looked_for": Sequence(Fields({"path": _LINE, "found": Flag(), "why": _LINE}), 200),
        "near": Sequence(_LINE, 12),
        "elsewhere": Sequence(_LINE, 8),
    }
)
ERROR = Fields(
    {
        "error": _WORD,
        "message": Text(4096),
        "hint": Text(4096),
        "errno": Optional(Number(0, 255), 5),  # FreeBSD's; EIO
        "exit_status": Optional(Number(1, 255)),  # not 0: nothing was loaded
        "explanation": Optional(EXPLANATION),
    }
)

# The loader's: docs/state-json.md, "loaded" and "vcpus".
VCPU = Fields(
    {
        "registers": Entries(_U64, frozenset(GENERAL)),
        "selectors": Entries(Number(0, 0xFFFF), frozenset(SEGMENTS)),
        "descriptors": Entries(Fields({"base": _U64, "limit": _U32, "access": _U32}), frozenset(DESCRIPTORS)),
    }
)
_FILE = Fields(
    {
        "name": Text(),
        "type": Text(),
        "args": Optional(Text()),
        "address": _U64,
        "size": _U64,
        "modules": Sequence(Fields({"name": Text(), "version": _SIGNED})),
    }
)
_PARTITION = Fields({"disk": _WORD, "scheme": _WORD, "start": _U64, "size": _U64})
LOADED = Fields(
    {
        "interpreter": Text(),
        "compat": _WORD,
        "currdev": Text(),
        "loaddev": Text(),
        "partition": Optional(_PARTITION),
        "filesystem": _WORD,
        "howto": _SIGNED,
        "entry": _U64,
        "files": Sequence(_FILE),
        "environment": Entries(Text()),
        "calls": Sequence(Text()),
        "notes": Sequence(Text()),
        "kernel": Optional(_FILE),
        "modulep": Optional(_U64, 0),  # of a guest without a stack
        "kernend": Optional(_U64, 0),
        "timings": Entries(_U64),
        "vcpu": VCPU,
        "needed": Optional(Sequence(Text(200), 256), LEFT_OUT),  # need.used()
    }
)
LOADER = Choice(
    "end",
    {
        "exec": LOADED,
        "exit": Fields({"code": Number(-(1 << 63), (1 << 63) - 1)}),
        "swap": Fields({"interpreter": Text(256)}),
    },
)

# A disk image's: what is in its headers, or which other files it consists of.
MAX_DISK = (1 << 62) - 1  # bytes
IMAGE = Fields(
    {
        "size": Optional(Number(0, MAX_DISK), LEFT_OUT),
        "sector_size": Optional(Number(512, 4096), 512),
        "snapshot": Optional(Flag(), False),
        "want": Optional(_WORD, LEFT_OUT),
        "of": Optional(Text(), ""),
        "names": Optional(Sequence(Text()), []),
        "form": Optional(Text(), ""),
    }
)
IN_BLOCKS = Fields({"in_blocks": Flag(), "form": Optional(_WORD, "")})
BLOCKS = Fields({"blocks": Number(0, (1 << 40) - 1)})
UNPACKED = Fields({"size": Number(0, MAX_DISK)})

# bhyvedisk's reader's.
_PART = Fields({"kind": _WORD, "start": _U128, "size": _U128, "shown": _U64, "name": Text(2000), "boots": Flag()})
LAYOUT = Fields(
    {
        "notes": Sequence(Text(2000), 100),
        "strips": Sequence(Fields({"title": Text(8000), "parts": Sequence(_PART, 2000)}), 100),
    }
)
LOOKED = Fields(
    {
        "layout": Optional(LAYOUT),
        "no disk": Optional(Flag(), False),
        "output": Optional(Number(1, 4095)),  # the host's errno
        "mode": Optional(_U32),
        "damage": Optional(_U64, 0),
    }
)

# Where the symbols of a kernel are.
SYMBOLS = Fields({"debug": Text(2000), "crc": Optional(_U32), "whole": Flag(), "looked_for": Sequence(Text(2000), 8)})

# The ZFS boot environments on the guest's disks.
_BOOT_ENVIRONMENT = Fields(
    {
        "name": Text(),
        "created": _U64,
        "bootfs": Flag(),
        "boot_once": Flag(),
    }
)
POOLS = Fields(
    {
        "pools": Sequence(
            Fields(
                {
                    "name": Text(),
                    "boot_environments": Optional(Sequence(_BOOT_ENVIRONMENT), LEFT_OUT),
                    "error": Optional(Text(), LEFT_OUT),
                    "hint": Optional(Text(), LEFT_OUT),
                }
            )
        )
    }
)
