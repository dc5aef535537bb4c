"""Faults at scale (docs/security.md, "Faults"): ``python tools/faults.py [--runs N] [--seed N] [--kills N] [--calls]``.

Without options a loaded VM is loaded again and again; each time the program, its confined child or both get a signal
within the time a load takes.  Whatever the moment, the store must hold the old VM, the new one, or none that counts as
loaded; no process may be left; the next load must succeed.  Prints how often which happened.

--kills N: N times kill -9 for the program, its child, QEMU, during loads, unpacking, copies, runs of QEMU, commands in
guests, and guests that are saved and restored.  --kinds: of these only.
--calls: every call of the C library that a load makes fails once, with each of EIO, ENOSPC, EDQUOT, ENOMEM, EMFILE and
EINTR; only our own errors may come out of it.
"""

from __future__ import annotations

import argparse
import errno
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "data" / "zfs"), str(ROOT / "tools")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=0, help="kill so many things instead")
    parser.add_argument("--kinds", nargs="+", help="kill these only: exec save")
    parser.add_argument("--calls", action="store_true", help="let every call fail instead")
    parser.add_argument("--errors", nargs="+", help="with these errors only: EMFILE EINTR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.kills:
            return _kills(Path(folder), options.kills, random.Random(options.seed), options.kinds)
        disk, store = Path(folder, "the-disk.img"), Path(folder, "vmm")
        _write_disk(disk)
        if options.calls:
            return _calls(Path(folder), disk, store, options.errors)
        _signals(disk, store, options.runs, random.Random(options.seed))
    return 0


def _write_disk(disk: Path) -> None:
    from support.golden import Record

    image = Record("current", "modules").disks()[0]
    disk.write_bytes(image.read(0, image.size))


def _signals(disk: Path, store: Path, runs: int, generator: random.Random) -> None:
    from support.killing import kill_at_random, load

    began = time.monotonic()
    for _ in range(5):
        load(disk, store)
    span = (time.monotonic() - began) / 5 * 1.1
    for whom, name in (
        ("parent", "SIGKILL"),
        ("child", "SIGKILL"),
        ("parent", "SIGTERM"),
        ("group", "SIGINT"),
        ("group", "SIGHUP"),
    ):
        counts: Counter[str] = Counter()
        for _ in range(runs):
            outcome = kill_at_random(disk, store, generator, whom, span, signal.Signals[name])
            counts[outcome] += 1
            if outcome == "not loaded":
                load(disk, store)
        load(disk, store)
        shown = ", ".join(f"{kind} {counts[kind]}" for kind in ("old", "new", "not loaded"))
        print(f"{name} to {whom}, {runs} times within {span * 1000:.0f} ms: {shown}", flush=True)


def _kills(folder: Path, number: int, generator: random.Random, kinds: list[str] | None) -> int:
    from support.kill_kinds import KINDS, VICTIMS, Kills

    kills = Kills(folder)
    counts: dict[tuple[str, str], Counter[str]] = {
        (kind, victim): Counter() for kind in kinds or KINDS for victim in VICTIMS
    }
    for turn in range(number):
        kind, victim = list(counts)[turn % len(counts)]
        counts[kind, victim][kills.kill(kind, victim, generator)] += 1
    kills.finish()
    for (kind, victim), outcomes in counts.items():
        shown = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
        print(f"| {kind} | {victim} | {sum(outcomes.values())} | {shown} |")
    return 0


def _calls(folder: Path, disk: Path, store: Path, errors: list[str] | None) -> int:
    from support.failing import ERRORS, Failing

    failing, wrong = Failing(folder, disk, store), 0
    for name in errors or ERRORS:
        statuses: Counter[int] = Counter()
        for number in range(failing.calls):
            try:
                statuses[failing.check(number, getattr(errno, name))] += 1
            except AssertionError as error:
                wrong += 1
                print(error)
        shown = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
        print(f"| {name} | {failing.calls} | {shown} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
