"""Good reports of every kind that a confined child sends, and what a child in a guest's hands makes of them."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

VCPU: dict[str, Any] = {
    "registers": {"rip": 0x80000000, "rsp": 0x1000, "cr3": 0x2000, "efer": 0x500},
    "selectors": {"cs": 8, "ds": 16},
    "descriptors": {"cs": {"base": 0, "limit": 0, "access": 0x209B}, "gdtr": {"base": 0, "limit": 23, "access": 0}},
}
LOADED: dict[str, Any] = {
    "end": "exec",
    "interpreter": "lua",
    "compat": "current",
    "currdev": "disk0p2:",
    "loaddev": "disk0p2:",
    "partition": {"disk": "disk0", "scheme": "gpt", "start": 0, "size": 1},
    "filesystem": "ufs",
    "howto": 0,
    "entry": 1,
    "files": [
        {"name": "k", "type": "t", "args": None, "address": 1, "size": 1, "modules": [{"name": "m", "version": 1}]}
    ],
    "environment": {"a": "b"},
    "calls": ["vm_set_register"],
    "notes": ["something was odd"],
    "kernel": None,
    "modulep": 1,
    "kernend": 2,
    "timings": {"loader": 1},
    "vcpu": VCPU,
}
NEED = {"need": "bhyveload.fs.iso9660", "shown": 0}
ERROR = {"error": "LoaderError", "message": "no kernel", "hint": "name one", "exit_status": 1}
EVERYBODY = (NEED, ERROR, {"error": "FileSystemError", "message": "no", "hint": "", "errno": 2})
LOADER = (LOADED, {"end": "exit", "code": 1}, {"end": "exit", "code": 256}, {"end": "swap", "interpreter": "lua"})
IMAGE: tuple[dict[str, Any], ...] = (
    {"size": 1 << 20, "sector_size": 512, "snapshot": False},
    {"want": "extent", "of": "IMAGE", "names": ["neighbour"], "form": ""},
    {"want": "backing", "of": "IMAGE", "names": ["neighbour"], "form": "raw"},
)
PACKED = ({"in_blocks": True, "form": "raw"}, {"in_blocks": False}, {"blocks": 1}, {"size": 1 << 20})
LOOKED: tuple[dict[str, Any], ...] = ({}, {"no disk": True}, {"output": 28}, {"mode": 0o644, "damage": 1})
POOLS: tuple[dict[str, Any], ...] = (
    {
        "pools": [
            {
                "name": "zroot",
                "boot_environments": [
                    {"name": "zroot/ROOT/default", "created": 1700000000, "bootfs": True, "boot_once": False}
                ],
            },
            {"name": "other", "error": "cannot be used", "hint": "import it"},
        ]
    },
)

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 70), 1 << 70),
        st.sampled_from([0, 1, -1, 255, 256, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, 1 << 298]),
        st.text(max_size=20),
        st.sampled_from(["x" * 70000, "\0", "\x1b[2J", "\udc80", "../../etc/passwd", "*", "bhyveload.api"]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def forged(draw: st.DrawFn, good: tuple[dict[str, Any], ...]) -> Any:
    """One of ``good``, or of what every child can say, with up to three places changed; or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(values)
    report = copy.deepcopy(draw(st.sampled_from([*good, *EVERYBODY])))
    for _ in range(draw(st.integers(0, 3))):
        _change(draw, report)
    return report


def _change(draw: st.DrawFn, report: Any) -> None:
    place = report
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], (dict, list)) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        what = draw(st.integers(0, 4))
        if what == 0:
            del place[key]
        elif what == 1 and isinstance(place, dict):
            place[draw(st.text(max_size=8))] = draw(values)
        else:
            place[key] = draw(values)
        return
