"""What the callbacks of a userboot object cost: tests/guest/testboot.c calls one of them many times.

    python tools/userboot_cost.py

``callback_costs()`` is for tools/bench.py.  Processor time of the child, without what starting it costs.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bhyveload.confined.child import Child, Leave
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import FOREVER
from bhyveload.host.callbacks import LoaderCallbacks, loader_environment
from bhyveload.host.console import FdConsole
from bhyveload.image.raw import RawImage
from bhyveload.userboot.report import run_userboot
from bhyveload.userboot.run import prepare
from bhyveload.vm.memory import GuestMemory

SOURCE = Path(__file__).resolve().parent.parent / "tests" / "guest" / "testboot.c"
MB = 1 << 20
# name -> what testboot.c is told: kind, how often, how many bytes
CALLS = {
    "putc": ("p", 100_000, 1),
    "diskread 512 B": ("r", 50_000, 512),
    "diskread 128 KiB": ("r", 4_000, 128 << 10),
    "copyin 4 KiB": ("c", 20_000, 4096),
    "copyin 128 KiB": ("c", 2_000, 128 << 10),
}


def missing() -> str:
    """Why this cannot run here, or an empty string."""
    if os.uname().machine not in ("x86_64", "amd64"):
        return "a userboot object is amd64 code"
    return "" if shutil.which("cc") else "no C compiler (cc)"


def callback_costs() -> dict[str, float]:
    """Seconds of processor time for one call of each of CALLS.  Raises RuntimeError where ``missing()`` says why."""
    reason = missing()
    if reason:
        raise RuntimeError(reason)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "testboot.so"
        flags = ["-shared", "-nostdlib", "-fPIC", "-ffreestanding", "-mno-red-zone", "-O2", "-Wl,-Bsymbolic", "-w"]
        subprocess.run(["cc", *flags, "-fno-stack-protector", "-o", target, SOURCE], check=True)
        loader = target.read_bytes()
        with (Path(folder) / "disk").open("wb+") as disk:
            disk.write(os.urandom(MB))
            disk.flush()
            image = RawImage(os.dup(disk.fileno()), "disk", read_only=True)
            nothing = _seconds(loader, image, "p:0:0")
            return {
                name: max(0.0, _seconds(loader, image, f"{kind}:{count}:{size}") - nothing) / count
                for name, (kind, count, size) in CALLS.items()
            }


def _seconds(loader: bytes, disk: RawImage, what: str) -> float:
    """Processor time of a child that does ``what``."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 64 * MB)
    silent = os.open(os.devnull, os.O_RDWR)

    def work(leave: Leave) -> dict[str, object]:
        memory = GuestMemory(fd, 64 * MB, 0)
        environment = loader_environment([f"do=bench:{what}".encode()])
        host = LoaderCallbacks(FdConsole(silent, silent), memory, [disk], None, environment)
        run_userboot(prepare(loader, host), host, leave, leave.failure)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    Child(work, Subject("the loader", None)).report(FOREVER)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    os.close(fd)
    os.close(silent)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    if missing():
        sys.stderr.write(f"{missing()}\n")
        return 1
    for name, seconds in callback_costs().items():
        sys.stdout.write(f"{name:18} {seconds * 1e6:8.2f} us\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
