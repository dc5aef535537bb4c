"""Fuzz every parser, guided by coverage where atheris is installed: ``python tools/fuzz.py [--seconds N] [TARGET...]``.

Each target runs in a process of its own for N seconds (60).  What breaks the invariant of tests/fuzzing (an error
that is not this package's, more than 2 s of processor time or 256 MiB beyond what the target began with, a crash) is
written to --finds, by default build/fuzz; what is kept goes to tests/data/fuzz/TARGET, where `make test` replays it.
At the end a table of executions, coverage and finds is printed; --record adds it to docs/fuzzing.md, which counts over
all runs.

Instrumented for coverage, Python takes about four times as long: there the limit is 8 s, and `--replay FILE...` tells
whether an input is beyond 2 s without.  Without atheris, or with `--engine own`, the project's own mutation engine is
used: it is blind to coverage, and what it did is counted in a column of its own.  Run with the --corpus that atheris
has filled, it changes inputs of which each reached something new, and at full speed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "data" / "zfs"), str(ROOT / "tools")]
MEMORY_MB = 256
COUNTS = ROOT / "docs" / "fuzzing.md"
SLOWER = 4  # instrumented
_ROW = re.compile(r"^\| ([a-z0-9-]+) \| ([\d ]+) \| ([\d ]+) \| ([\d ]+) \| ([\d ]+) \|$", re.M)
_AGAIN = 0.05  # seconds after which the own engine gives an input the whole time again
_LOOK_AT_MEMORY = 64  # executions of the own engine between two looks at what the process takes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--finds", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--corpus", type=Path, help="keep what covers new code here, and begin with it")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("atheris", "own"), default="atheris" if _has_atheris() else "own")
    parser.add_argument("--record", action="store_true", help="add what was done to docs/fuzzing.md")
    parser.add_argument("--replay", type=Path, nargs="+", help="run these inputs with the one TARGET named before")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*")
    options = parser.parse_args()
    if options.one:
        return (_with_atheris if options.engine == "atheris" else _with_own_engine)(options)
    return _replay(options) if options.replay else _all(options)


def _replay(options: argparse.Namespace) -> int:
    from fuzzing import check_in_time, targets

    (name,) = options.targets
    run = targets()[name].prepare()
    for path in options.replay:
        began = time.process_time()
        try:
            check_in_time(run, path.read_bytes())
            outcome = "is all right"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:200]
        print(f"{path}: {time.process_time() - began:.2f} s, {outcome}")
    return 0


def _has_atheris() -> bool:
    try:
        import atheris  # noqa: F401
    except ImportError:
        return False
    return True


def _all(options: argparse.Namespace) -> int:
    from fuzzing import targets

    names = options.targets or list(targets())
    unknown = [name for name in names if name not in targets()]
    if unknown:
        sys.exit(f"fuzz.py: no target {', '.join(unknown)}; there are: {', '.join(targets())}")
    if options.engine == "own":
        print("the own engine is blind to coverage; atheris is not (pip install atheris)", file=sys.stderr)
    waiting, rows = list(names), {}
    running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name = waiting.pop(0)
            running[name] = _start(name, options)
        for name, (process, log) in list(running.items()):
            if process.poll() is not None:
                del running[name]
                text = Path(log).read_text(errors="replace")
                os.unlink(log)
                rows[name] = _row(name, text, process.returncode)
                print(rows[name], flush=True)
        time.sleep(0.2)
    print(f"\nengine: {options.engine}, {options.seconds} s a target, seed {options.seed}\n")
    print("| target | executions | a second | edges covered | slowest (s) | finds |")
    print("| --- | --: | --: | --: | --: | --: |")
    for name in names:
        print(rows[name])
    if options.record:
        blind = options.engine == "own"
        record({name: _counts(rows[name], options.seconds, blind) for name in names})
    return 1 if any(not row.endswith("| 0 |") for row in rows.values()) else 0


Counts = tuple[int, int, int, int]  # executions, those of them that were blind to coverage, seconds, finds


def _counts(row: str, seconds: int, blind: bool) -> Counts:
    columns = row.split(" | ")
    executions = int(columns[1])
    return executions, executions if blind else 0, seconds, int(columns[-1].rstrip(" |"))


def record(done: dict[str, Counts], path: Path = COUNTS) -> None:
    """Add what was done for each target to the table in docs/fuzzing.md."""
    text = path.read_text()
    counts = {name: tuple(int(cell.replace(" ", "")) for cell in cells) for name, *cells in _ROW.findall(text)}
    counts.pop("all", None)
    for name, more in done.items():
        counts[name] = tuple(old + new for old, new in zip(counts.get(name, (0, 0, 0, 0)), more, strict=True))
    rows = {**counts, "all": tuple(sum(column) for column in zip(*counts.values(), strict=True))}
    shown = [
        f"| {name} | " + " | ".join(f"{cell:,}".replace(",", " ") for cell in cells) + " |"
        for name, cells in rows.items()
    ]
    start, end = text.index("| --- |"), text.rindex("|")
    head = text[: text.index("\n", start) + 1]
    path.write_text(head + "\n".join(shown) + text[end + 1 :])


def _start(name: str, options: argparse.Namespace) -> tuple[subprocess.Popen[bytes], str]:
    fd, log = tempfile.mkstemp(prefix=f"fuzz-{name}-", suffix=".log")
    words = [sys.executable, __file__, "--one", name, "--seconds", str(options.seconds), "--seed", str(options.seed)]
    words += ["--engine", options.engine, "--finds", str(options.finds)]
    if options.corpus:
        words += ["--corpus", str(options.corpus)]
    with os.fdopen(fd, "wb") as file:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file), log


def _row(name: str, log: str, status: int) -> str:
    """The table's line out of what libFuzzer, or our engine, wrote."""
    executions = [int(number) for number in re.findall(r"^#(\d+)\s", log, re.M)]
    done = re.findall(r"^Done (\d+) runs|stat::number_of_executed_units: (\d+)", log, re.M)
    executions += [int(number) for pair in done for number in pair if number]
    coverage = re.findall(r" cov: (\d+) ", log)
    slow = re.findall(r"stat::slowest_unit_time_sec:\s+(\S+)", log)
    speed = re.findall(r"stat::average_exec_per_sec:\s+(\d+)", log)
    finds = len(set(re.findall(r"Test unit written to (\S+)", log)))
    if status and not finds:
        print(f"--- {name} ended with {status}:\n{log[-2000:]}", file=sys.stderr)
        finds = 1
    columns = (max(executions, default=0), speed[-1:] or ["?"], coverage[-1:] or ["-"], slow[-1:] or ["?"], finds)
    shown = [str(column[0] if isinstance(column, list) else column) for column in columns]
    return f"| {name} | " + " | ".join(shown) + " |"


def _find(options: argparse.Namespace, data: bytes) -> None:
    folder = options.finds / options.one
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    print(f"Test unit written to {path}", flush=True)


def _with_atheris(options: argparse.Namespace) -> int:
    import atheris

    with atheris.instrument_imports(include=["bhyveload"]):
        from fuzzing import LIMIT_SECONDS, check, targets, watch

        target = targets()[options.one]
        run = target.prepare()
        begin_with = list(target.seeds())
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + MEMORY_MB
    watch()

    def one(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_SECONDS * SLOWER)
        try:
            check(run, data)
        except BaseException:
            traceback.print_exc()
            _find(options, data)
            os._exit(77)  # at once: what Lua and lupa do when an interpreter ends is not what is tested

    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(options.corpus, options.one) if options.corpus else Path(scratch, "corpus")
        seeds = Path(scratch, "seeds")
        for folder in (corpus, seeds, options.finds):
            folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(begin_with):
            (seeds / str(number)).write_bytes(seed[: target.size])
        words = [
            sys.argv[0],
            f"-max_total_time={options.seconds}",
            f"-max_len={target.size}",
            f"-rss_limit_mb={limit}",
            f"-seed={options.seed}",
            "-timeout=100",  # of the clock, which runs on while others have the processor
            "-report_slow_units=1000",
            "-print_final_stats=1",
            f"-artifact_prefix={options.finds}/{options.one}-",
            str(corpus),
            str(seeds),
        ]
        atheris.Setup(words, one)
        atheris.Fuzz()
    return 0


def _with_own_engine(options: argparse.Namespace) -> int:
    from fuzzing import LIMIT_SECONDS, check, targets, watch
    from fuzzing.mutate import inputs

    target = targets()[options.one]
    run = target.prepare()
    seeds = [*target.seeds(), *_kept(options)]
    limit = _peak() + (MEMORY_MB << 20)
    until = time.monotonic() + options.seconds
    count, slowest, found = 0, 0.0, 0
    watch()
    armed, began = 0.0, time.monotonic()
    for data in inputs(seeds, random.Random(options.seed), target.size):
        if began > until:
            break
        try:
            if began > armed + _AGAIN:
                signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_SECONDS)
                armed = began
            check(run, data)
            if not count % _LOOK_AT_MEMORY and _peak() > limit:
                limit = _peak()
                raise MemoryError(f"{limit >> 20} MiB")
        except BaseException:
            traceback.print_exc()
            _find(options, data)
            found += 1
            if found >= 20:
                break
        ended = time.monotonic()
        slowest = max(slowest, ended - began)
        began = ended
        count += 1
    print(f"Done {count} runs\nstat::average_exec_per_sec: {count // max(options.seconds, 1)}")
    print(f"stat::slowest_unit_time_sec: {slowest:.2f}", flush=True)
    os._exit(1 if found else 0)


def _kept(options: argparse.Namespace) -> list[bytes]:
    """What runs of atheris have found to reach something new."""
    folder = Path(options.corpus, options.one) if options.corpus else None
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder and folder.is_dir() else []


def _peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
