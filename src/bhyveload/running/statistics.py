"""What bhyvectl --get-stats tells of a running guest, by the hypervisor's process."""

from __future__ import annotations

_RESIDENT, _LOCKED = "VmRSS:", "VmLck:"


def statistics(pid: int) -> dict[str, int]:
    """``resident`` and ``wired`` memory of the process ``pid`` in bytes; 0 where nobody says."""
    found = {"resident": 0, "wired": 0}
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) == 3 and words[1].isdecimal() and words[0] in (_RESIDENT, _LOCKED):
                    found["resident" if words[0] == _RESIDENT else "wired"] = int(words[1]) << 10
    except OSError:
        pass
    return found


def lines(answer: dict[str, object], cpu: int) -> list[str]:
    """As bhyvectl(8) prints them (usr.sbin/bhyvectl/bhyvectl.c, vm_get_stats)."""
    rows = (
        ("Resident memory", answer.get("resident", 0)),
        ("Wired memory", answer.get("wired", 0)),
        ("total number of vm exits", 0),
    )
    return [f"vcpu{cpu} stats:\n", *(f"{name:<40}\t{value}\n" for name, value in rows)]
