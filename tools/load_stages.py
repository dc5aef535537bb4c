"""Where a load's processor time goes: bhyveload with a clock at its seams.

    python -I tools/load_stages.py ARGUMENT...      bhyveload's; its last child, then it writes a line to standard error

Each line is JSON, [[stage, seconds], ...].  ``stages`` runs it and adds what the kernel has counted beyond that.
"""

from __future__ import annotations

import time

STARTED = time.process_time()

import gc  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from typing import Any  # noqa: E402

LOADER_STAGES = {"devices": "disks, partitions, pools", "scripts": "scripts", "boot": "hand-over"}
COPY = "kernel and files, into guest memory"
BARE, REST = "Python", "ends of processes, children without all modules"


class Stages:
    """The stages of one process so far, in seconds."""

    def __init__(self) -> None:
        self.done: dict[str, float] = {}
        self._last = time.process_time()

    def end(self, name: str) -> None:
        now = time.process_time()
        self.done[name] = self.done.get(name, 0.0) + now - self._last
        self._last = now

    def write(self) -> None:
        os.write(2, json.dumps(list(self.done.items())).encode() + b"\n")


def stages(arguments: list[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Seconds of each stage of one load, which together are the processor time of the whole."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-I", __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    child, program = (dict(json.loads(line)) for line in done.stderr.splitlines() if line.startswith("[["))
    whole -= program.pop("this measuring")
    found = {**program, **{name: seconds for name, seconds in child.items() if name not in program}}
    return {**found, REST: whole - sum(found.values())}


def main() -> None:
    program = Stages()
    program.done["this measuring"] = time.process_time() - STARTED
    program.done[BARE] = STARTED
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src"))
    gc.disable()  # as start.py does
    from bhyveload.cli import bundle

    bundle.use("bhyveload")
    from bhyveload.cli.bhyveload import main as bhyveload

    program.end("modules of every load")
    watch(program)
    status = bhyveload()
    program.end("state.json; memory of the guest before")
    program.write()
    os._exit(status)


def watch(program: Stages) -> None:
    """End stages where the program and its child come by."""
    from bhyveload import api, loading, need
    from bhyveload.confined.child import Child, Leave
    from bhyveload.confined.confinement import Subject
    from bhyveload.loader.state import Loader
    from bhyveload.vm.memory import GuestMemory

    child: Any = program

    def watched(owner: Any, name: str, stage: str, after: str) -> None:
        call = getattr(owner, name)

        def and_tell(*words: Any, **named: Any) -> Any:
            program.end(stage)
            result = call(*words, **named)
            program.end(after)
            return result

        setattr(owner, name, and_tell)

    watched(api, "run_until_loaded", "command line, VM, disks", "report")
    watched(loading, "_expect", "command line, VM, disks", "modules of this guest")
    watched(need, "load", "report", "modules of this guest")
    watched(Child, "report", "fork", "report")
    fork, confine, next_stage, leave = os.fork, Subject.confine, Loader.stage, Leave.__call__
    write, expect = GuestMemory.write_pieces, GuestMemory.expect

    def forked() -> int:
        nonlocal child
        pid = fork()
        if not pid:
            child = Stages()
        return pid

    def confined(self: Subject, report: int) -> None:
        child.end("start of the child")
        confine(self, report)
        child.end("confinement")

    def stage(self: Loader, name: str) -> None:
        if self._stage is not None:
            child.end(LOADER_STAGES[self._stage[0]])
        next_stage(self, name)

    def written(self: GuestMemory, gpa: int, pieces: Any, length: int) -> None:
        child.end("scripts")
        write(self, gpa, pieces, length)
        child.end(COPY)

    def expected(self: GuestMemory, gpa: int, length: int) -> None:
        child.end("scripts")
        expect(self, gpa, length)
        child.end(COPY)

    def left(self: Leave, report: dict[str, Any]) -> Any:
        child.end("hand-over")
        if "need" not in report:
            child.write()
        leave(self, report)

    os.fork = forked
    Subject.confine, Loader.stage = confined, stage  # type: ignore[method-assign]
    Leave.__call__ = left  # type: ignore[method-assign]
    GuestMemory.write_pieces, GuestMemory.expect = written, expected  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
