"""Boot against restore: seconds to a command's output, and memory per clone, under QEMU's translator.

    python tools/bench_clones.py [ROUNDS]

The guest is the tests' (guest/login.c), which boots at once: what a restored guest saves of a real boot is more.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from guest.build import build_probe  # noqa: E402
from support.end_to_end import make_disk  # noqa: E402

PROGRAMS = Path(sys.executable).parent
MEMORY = 256
CLONES = (1, 2, 4, 8, 16)
LIMIT = "120"


def started(*words: str | Path) -> subprocess.Popen[bytes]:
    command = [str(PROGRAMS / "bhyverun"), "--timeout", LIMIT, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def ended(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        _, said = process.communicate(timeout=2 * int(LIMIT))
        if process.returncode:
            raise SystemExit(f"bhyverun ended with {process.returncode}: {said.decode()}")


def seconds(clones: int, *words: str | Path) -> float:
    begin = time.monotonic()
    ended(*(started(*words, f"clone{number}" if clones else "base") for number in range(max(1, clones))))
    return time.monotonic() - begin


def own_memory(folder: Path, clones: int) -> tuple[float, float]:
    """MiB of the hypervisors' proportional and private memory, per clone, with ``clones`` of them at once."""
    running = [started("--console", "none", "--restore", folder, f"clone{number}") for number in range(clones)]
    kilobytes = {"Pss": 0, "Private_Dirty": 0}
    try:
        for number, process in enumerate(running):
            control = Path(os.environ["BHYVE_VMM_DIR"]) / f"clone{number}" / "control"
            while not control.exists():
                if process.poll() is not None:
                    ended(process)
                time.sleep(0.05)
        time.sleep(1)
        for process in running:
            (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for line in Path(f"/proc/{child}/smaps_rollup").read_text().splitlines():
                name = line.partition(":")[0]
                if name in kilobytes:
                    kilobytes[name] += int(line.split()[1])
    finally:
        for process in running:
            process.send_signal(signal.SIGQUIT)  # no button: the plug
            process.communicate()
    return kilobytes["Pss"] / clones / 1024, kilobytes["Private_Dirty"] / clones / 1024


def main() -> int:
    rounds = int(sys.argv[1]) if sys.argv[1:] else 5
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory(dir=memory) as vms:
        os.environ["BHYVE_VMM_DIR"] = f"{vms}/vms"
        folder, at_login = Path(vms) / "saved", Path(vms) / "at-login"
        disk = make_disk(Path(name), build_probe(Path(name), source="login.c"))
        bhyveload = [str(PROGRAMS / "bhyveload"), "--batch", "-m", f"{MEMORY}M", "-d", str(disk), "base"]
        subprocess.run(bhyveload, check=True, capture_output=True)
        begin = time.monotonic()
        ended(started("--accel", "tcg", "--save", folder, "--exec", "echo done", "base"))
        size = sum(path.stat().st_blocks for path in folder.iterdir()) * 512
        print(f"boot, a command, save: {time.monotonic() - begin:.2f} s, {size / 2**20:.1f} MiB of {MEMORY} MiB")
        ended(started("--accel", "tcg", "--save", at_login, "--save-at", "^login: ", "base"))
        boot, restore, login = [], [], []
        for _ in range(rounds):
            boot.append(seconds(0, "--accel", "tcg", "--exec", "echo done"))
            restore.append(seconds(1, "--restore", folder, "--exec", "echo done"))
            login.append(seconds(1, "--restore", at_login, "--exec", "echo done"))
        print(f"boot, log in, a command:     {statistics.median(boot):.2f} s")
        print(f"restore, log in, a command:  {statistics.median(login):.2f} s")
        print(f"restore at a shell, command: {statistics.median(restore):.2f} s")
        for clones in CLONES:
            took = seconds(clones, "--restore", folder, "--exec", "echo done")
            pss, private = own_memory(folder, clones)
            print(f"{clones:2} clones at once: {took:.2f} s; a clone has {pss:.1f} MiB (PSS), {private:.1f} its own")
    return 0


if __name__ == "__main__":
    sys.exit(main())
