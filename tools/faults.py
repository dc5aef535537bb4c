"""Kill loads at random moments, hundreds of times: ``python tools/faults.py [--runs N] [--seed N]``.

A loaded VM is loaded again and again; each time the program, its confined child or both get a signal within the time
a load takes.  Whatever the moment, the store must hold the old VM, the new one, or none that counts as loaded; no
process may be left; the next load must succeed.  Prints how often which happened (docs/security.md).
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from support.golden import Record
    from support.killing import kill_at_random, load

    with tempfile.TemporaryDirectory() as folder:
        disk, store = Path(folder, "disk.img"), Path(folder, "vmm")
        image = Record("current", "modules").disks()[0]
        disk.write_bytes(image.read(0, image.size))
        began = time.monotonic()
        for _ in range(5):
            load(disk, store)
        span = (time.monotonic() - began) / 5 * 1.1
        generator = random.Random(options.seed)
        for whom, name in (
            ("parent", "SIGKILL"),
            ("child", "SIGKILL"),
            ("parent", "SIGTERM"),
            ("group", "SIGINT"),
            ("group", "SIGHUP"),
        ):
            counts: Counter[str] = Counter()
            for _ in range(options.runs):
                outcome = kill_at_random(disk, store, generator, whom, span, signal.Signals[name])
                counts[outcome] += 1
                if outcome == "not loaded":
                    load(disk, store)
            load(disk, store)
            shown = ", ".join(f"{kind} {counts[kind]}" for kind in ("old", "new", "not loaded"))
            print(f"{name} to {whom}, {options.runs} times within {span * 1000:.0f} ms: {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
