"""make bench: figures, medians of rounds that alternate, beside a bare Python and a plain copy of the same bytes.

    python tools/bench.py [--rounds N] [SECTION...]

Figures are wall-clock milliseconds of whole programs, from exec to exit, on warm page caches.  Only the ratios of one
run say something: the machine may be busy.  A section that lacks a tool says so and is left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

from guest.build import build_probe  # noqa: E402
from instruments import MIB, Missing, Starter, beside_guest, copy_cpu, copy_into_memory, first_output  # noqa: E402
from load_stages import stages  # noqa: E402
from stock_like import write_tree  # noqa: E402
from stock_like_forth import long_conf  # noqa: E402
from support import images  # noqa: E402 - what the tests make guests with
from support.zfs_writer import Top, Writer  # noqa: E402

PROGRAMS = Path(sys.executable).parent
KERNEL_SIZE = 30 * MIB
TARGET = "bhyveload <= 2.2 x Python + 1.2 x copy"
RSS_LIMIT = 24  # MiB
MODULES = 40
SCALED_MODULES = (0, 50, 200)
DEFAULTS_LINES = 190  # of a stock /boot/defaults/loader.conf
STOPPED, FAILED = 1, 4  # bhyverun's and bhyve's exit status for a QEMU that ends by itself

Row = tuple[str, str]


class Bench:
    """Where things are made, how often things are measured, and what several sections need."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self._kernel: Path | None = None

    def need(self, *tools: str) -> None:
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing:
            raise Missing(f"{', '.join(missing)} not installed")

    @property
    def kernel(self) -> Path:
        """A kernel of 30 MiB, no two pages of it alike, and what the probe guest says from inside."""
        if self._kernel is None:
            self.need("gcc", "ld")
            self._kernel = build_probe(self.folder, padding=KERNEL_SIZE, name="kernel30")
        return self._kernel

    @property
    def userboot_copies(self) -> Path:
        """A program that does with a kernel what the least of FreeBSD's loader in a C host does."""
        self.need("gcc")
        program = self.folder / "userboot_copies"
        subprocess.run(["gcc", "-O2", "-o", program, ROOT / "tools" / "userboot_copies.c"], check=True)
        return program

    def tree(self, name: str) -> Path:
        """A folder with the kernel as /boot/kernel/kernel."""
        tree = self.folder / name
        (tree / "boot" / "kernel").mkdir(parents=True)
        os.link(self.kernel, tree / "boot" / "kernel" / "kernel")
        return tree

    def disk(self, tree: Path, size: int = 48 * MIB) -> Path:
        """A GPT disk with the tree on a UFS2 of 32 KiB blocks."""
        self.need("makefs", "sgdisk")
        part = images.make_ufs(tree, self.folder / f"{tree.name}.ufs", size)
        disk = images.standard_disk(self.folder / f"{tree.name}.img", part)
        part.unlink()
        return disk

    def pool(self, tree: Path, size: int = 96 * MIB) -> Path:
        """A disk with the tree on ZFS, lz4."""
        writer = Writer([Top(0, size=size)])
        writer.bootfs = b"ROOT/default"
        paths = sorted(tree.rglob("*"))
        files = {f"/{path.relative_to(tree)}".encode(): path.read_bytes() if path.is_file() else None for path in paths}
        for name in (b"", b"ROOT", b"ROOT/default"):
            writer.dataset(name, writer.file_system(files if name == writer.bootfs else {}))
        (image,) = writer.finish()
        disk = self.folder / f"{tree.name}.zfs"
        disk.write_bytes(image.read(0, image.size))
        return disk

    def disk_for_kernel(self, size: int) -> Path:
        """With a kernel of ``size`` MiB."""
        self.need("gcc", "ld")
        tree = self.folder / f"kernel-{size}"
        (tree / "boot" / "kernel").mkdir(parents=True)
        kernel = build_probe(self.folder, padding=size * MIB, name=f"kernel{size}-file")
        shutil.move(kernel, tree / "boot" / "kernel" / "kernel")
        return self.disk(tree, (size + 16) * MIB)

    def crowded(self, entries: int) -> Path:
        """With ``entries`` files beside the kernel, which is the last one."""
        tree = self.folder / f"entries-{entries}"
        (tree / "boot" / "kernel").mkdir(parents=True)
        for number in range(entries - 1):
            (tree / "boot" / "kernel" / f"a-file-of-no-use-{number:05}").touch()
        os.link(self.kernel, tree / "boot" / "kernel" / "kernel")
        return self.disk(tree, 64 * MIB)

    def module_disk(self, count: int) -> Path:
        """With modules bench000.ko and so on beside the kernel."""
        from support.kernel_objects import build_module, version

        tree = self.tree(f"modules-{count}")
        for number in range(count):
            name = f"bench{number:03}"
            build_module(tree / "boot" / "kernel" / f"{name}.ko", [version(name, 1)])
        return self.disk(tree, 64 * MIB)

    def medians(self, *works: Callable[[], float]) -> list[float]:
        """The median of each, measured in turn so that a busy machine is busy for all."""
        for work in works:
            work()  # warm
        rounds = [[work() for work in works] for _ in range(self.rounds)]
        return [statistics.median(column) for column in zip(*rounds, strict=True)]


_starter: Starter


def timed(*words: str | Path) -> Callable[[], float]:
    command = [str(word) for word in words]
    return lambda: _starter.run(command)[0]


def load_words(disk: Path, *more: str | Path) -> list[str]:
    """The command line of a load."""
    return [str(word) for word in (PROGRAMS / "bhyveload", "--batch", "-d", disk, *more, "bench")]


def cpu(command: Sequence[str | Path], expected: int = 0) -> Callable[[], float]:
    """The processor time of a program that ends with the exit status ``expected``."""
    words = [str(word) for word in command]
    return lambda: _starter.run(words, expected)[1]


def stock_tree(bench: Bench, generation: str) -> Path:
    """A folder with scripts in the style of FreeBSD's, and the kernel."""
    tree = bench.folder / f"scripts-{generation}"
    if not tree.exists():
        write_tree(tree, generation)
        defaults = tree / "boot" / "defaults" / "loader.conf"
        own = defaults.read_text()
        defaults.write_text(own + long_conf(DEFAULTS_LINES - own.count("\n")))
        kernel = tree / "boot" / "kernel" / "kernel"
        kernel.unlink()
        os.link(bench.kernel, kernel)
    return tree


def load(*words: str | Path) -> Callable[[], float]:
    return timed(PROGRAMS / "bhyveload", "--batch", *words, "bench")


def bare_python() -> Callable[[], float]:
    return timed(sys.executable, "-I", "-c", "pass")


def ms(seconds: float) -> str:
    return f"{seconds * 1000:8.1f} ms"


def main_section(bench: Bench) -> Iterator[Row]:
    """A 30 MiB kernel on UFS2"""
    disk = bench.disk(bench.tree("plain"))
    a, b, c, large = bench.medians(
        load("-d", disk), bare_python(), copy_into_memory(bench.kernel), load("-m", "4G", "-d", disk)
    )
    yield "(a) bhyveload --batch, exec to exit", ms(a)
    yield "(b) python -I -c pass", ms(b)
    yield "(c) copy of the same 30 MiB", ms(c)
    yield f"target: {TARGET}", f"{ms(2.2 * b + 1.2 * c)}  {verdict(a, b, c)}"
    yield "(a) with a guest of 4 GiB", f"{ms(large)}  {large / a:.2f} a"
    unboxed, a = bench.medians(load("--no-sandbox", "-d", disk), load("-d", disk))
    yield "(a) without the sandbox", f"{ms(unboxed)}  {unboxed / a:.2f} a"
    command = [str(PROGRAMS / "bhyveload"), "--batch", "-d", str(disk), "bench"]
    python = [sys.executable, "-I", "-c", "pass"]
    copies: list[str | Path] = [bench.userboot_copies, bench.kernel, os.environ["BHYVE_VMM_DIR"]]
    a, b, c, d = bench.medians(cpu(command), cpu(python), copy_cpu(bench.kernel), cpu(copies))
    yield "the same in processor time: (a), (b), (c)", f"{ms(a)} {ms(b)} {ms(c)}  target {verdict(a, b, c)}"
    yield "(d) a C loader's copies alone, exec to exit", f"{ms(d)}  (a) = {a / d:.2f} d"
    resident = max(beside_guest(command) for _ in range(bench.rounds)) / MIB
    within = "within" if resident <= RSS_LIMIT else "ABOVE"
    yield "resident besides the guest, largest process", f"{resident:8.1f} MiB  ({within} {RSS_LIMIT})"


def verdict(a: float, b: float, c: float) -> str:
    met = "met" if a <= 2.2 * b + 1.2 * c else "MISSED"
    return f"{met}: a = {a / b:.2f} b, (a - b) / c = {(a - b) / c:.2f}"


def handoff_section(bench: Bench) -> Iterator[Row]:
    """From a loaded VM to the guest's first word (QEMU's TCG)"""
    bench.need("qemu-system-x86_64")
    tree = bench.folder / "small"
    (tree / "boot" / "kernel").mkdir(parents=True)
    shutil.copy(build_probe(bench.folder, name="small-kernel"), tree / "boot" / "kernel" / "kernel")
    disk = bench.disk(tree, 8 * MIB)
    load("-d", disk)()
    bhyverun = [str(PROGRAMS / "bhyverun"), "--accel", "tcg"]
    stub = bench.folder / "stub"
    printed = subprocess.run(
        [*bhyverun, "--dry-run", "--stub", str(stub), "bench"], check=True, capture_output=True, text=True
    )
    bare = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-nodefaults", "-display", "none"]
    bare += ["-S", "-qmp", "stdio"]
    run, direct, qemu = bench.medians(
        lambda: first_output([*bhyverun, "bench"], b"probe="),
        lambda: first_output(["sh", "-c", f"exec {printed.stdout}"], b"probe="),
        lambda: first_output(bare, b"QMP"),
    )
    yield "bhyverun to the guest's first word", ms(run)
    yield "QEMU alone with the stub, the same", f"{ms(direct)}  bhyverun adds {(run - direct) * 1000:.1f} ms"
    rest = (direct - qemu) * 1000
    yield "QEMU's own bare start (to its QMP greeting)", f"{ms(qemu)}  firmware and stub take {rest:.1f} ms"


def programs_section(bench: Bench) -> Iterator[Row]:
    """The other programs' own processor time; a QEMU that ends at once stands in for one that runs a guest"""
    tree = bench.tree("programs")
    disk = bench.disk(tree)
    load("-d", disk)()
    stand_in = bench.folder / "stand-in"
    stand_in.mkdir()
    bench.folder.chmod(0o755)  # root's QEMU is another user
    shutil.copy("/bin/true", stand_in / "qemu-system-x86_64")
    bhyve = ["-m", "256M", "-s", "0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio", "-s", f"3,virtio-blk,{disk}"]
    with_stand_in = ["/usr/bin/env", f"PATH={stand_in}:{os.environ['PATH']}"]
    works = {
        "bhyverun": cpu([*with_stand_in, PROGRAMS / "bhyverun", "--accel", "tcg", "bench"], STOPPED),
        "bhyve": cpu([*with_stand_in, PROGRAMS / "bhyve", "--accel", "tcg", *bhyve, "bench"], FAILED),
        "bhyvectl --list": cpu([PROGRAMS / "bhyvectl", "--list"]),
        "bhyvectl --get-all": cpu([PROGRAMS / "bhyvectl", "--vm=bench", "--get-all"]),
        "bhyvedisk ls": cpu([PROGRAMS / "bhyvedisk", "ls", disk, "/boot"]),
    }
    python, *times = bench.medians(cpu([sys.executable, "-I", "-c", "pass"]), *works.values())
    yield "python -I -c pass", ms(python)
    for name, seconds in zip(works, times, strict=True):
        yield name, f"{ms(seconds)}  {seconds / python:.2f} Python"


def scripts_section(bench: Bench) -> Iterator[Row]:
    """Stock-like Lua scripts: 13 files of 100 KiB, defaults/loader.conf of 190 lines; in processor time"""
    plain = bench.tree("without-scripts")
    disks = {"UFS2": bench.disk(plain), "ZFS": bench.pool(plain)}
    beside = cpu([sys.executable, "-I", "-c", "pass"]), copy_cpu(bench.kernel)
    for generation in ("old", "new"):
        tree = stock_tree(bench, generation)
        for (kind, without), disk in zip(disks.items(), (bench.disk(tree), bench.pool(tree)), strict=True):
            words = load_words(disk)
            with_scripts, none, python, copy = bench.medians(cpu(words), cpu(load_words(without)), *beside)
            added = (with_scripts - none) * 1000
            within = "within" if added <= 40 else "ABOVE"
            yield (
                f"{kind}, {generation} scripts, none",
                f"{ms(with_scripts)} {ms(none)}  add {added:.1f} ms ({within} 40)",
            )
            yield f"  target {verdict(with_scripts, python, copy)}", ""
            resident = max(beside_guest(words) for _ in range(bench.rounds)) / MIB
            within = "within" if resident <= RSS_LIMIT else "ABOVE"
            yield "  resident besides the guest", f"{resident:8.1f} MiB  ({within} {RSS_LIMIT})"


def stages_section(bench: Bench) -> Iterator[Row]:
    """Where the processor time goes, stage by stage, the VM loaded before: together they are the whole"""
    tree = stock_tree(bench, "new")
    for kind, disk in (("UFS2", bench.disk(tree)), ("ZFS, lz4", bench.pool(tree))):
        arguments = load_words(disk)[1:]
        runs = [stages(arguments, os.environ) for _ in range(bench.rounds + 1)][1:]
        means = {name: statistics.fmean(run.get(name, 0.0) for run in runs) for name in runs[0]}
        yield f"{kind}, new scripts", f"{ms(sum(means.values()))}  (means of {len(runs)})"
        for name, seconds in means.items():
            yield f"  {name}", f"{ms(seconds)}"


def scaling_section(bench: Bench) -> Iterator[Row]:
    """What grows with what, in processor time, as ratios to the first of each row"""

    def row(what: str, *commands: Sequence[str]) -> Row:
        """Each command has a VM of its own: what its last load left there is freed by itself."""
        works = [cpu([*command[:-1], f"bench{number}"]) for number, command in enumerate(commands)]
        times = bench.medians(*works)
        return what, f"{ms(times[0])}  " + "  ".join(f"{seconds / times[0]:.2f}" for seconds in times[1:])

    tree = bench.tree("scaling")
    disk = bench.disk(tree)
    sizes = ("256M", "4G", "64G")
    yield row(f"guest of {', '.join(sizes)}", *(load_words(disk, "-m", size) for size in sizes))
    others = [bench.disk_for_kernel(size) for size in (8, 30, 120)]
    yield row("kernel of 8, 30, 120 MiB", *(load_words(path, "-m", "512M") for path in others))
    empty = [bench.folder / f"empty{number}.img" for number in range(63)]
    for path in empty:
        with path.open("wb") as file:
            file.truncate(MIB)
    more = [word for path in empty for word in ("-d", path)]
    yield row("1, 8, 64 disks", *(load_words(disk, *more[: 2 * count]) for count in (0, 7, 63)))
    crowded = [bench.crowded(count) for count in (10, 1000, 10_000)]
    yield row("/boot/kernel of 10, 1000, 10000 entries", *(load_words(path) for path in crowded))
    modules = bench.module_disk(max(SCALED_MODULES))
    commands = [[f"load /boot/kernel/bench{number:03}.ko" for number in range(count)] for count in SCALED_MODULES]
    words = [["load /boot/kernel/kernel", *lines] for lines in commands]
    options = [[part for line in lines for part in ("--loader-command", line)] for lines in words]
    yield row(f"{', '.join(map(str, SCALED_MODULES))} modules", *(load_words(modules, *more) for more in options))


def forth_section(bench: Bench) -> Iterator[Row]:
    """Stock-like Forth scripts: 1500 lines, a loader.conf of 120"""
    from stock_like_forth import SCRIPT_LINES
    from stock_like_forth import write_tree as write_forth_tree

    def disk_of(name: str, files: Mapping[str, str | bytes]) -> Path:
        tree = write_forth_tree(bench.folder / name, conf=long_conf(), lines=SCRIPT_LINES, files=files)
        kernel = tree / "boot" / "kernel" / "kernel"
        kernel.unlink()
        os.link(bench.kernel, kernel)
        return bench.disk(tree)

    forth = disk_of("forth-scripts", {})
    simple = disk_of("simple-scripts", {"boot/loader": "$Interpreter:simp\0", "boot/loader.rc": ""})
    with_scripts, without = bench.medians(load("-d", forth), load("-d", simple))
    added = (with_scripts - without) * 1000
    verdict = "within" if added <= 60 else "ABOVE"
    yield "Forth, simple", f"{ms(with_scripts)} {ms(without)}  adds {added:.1f} ms ({verdict} 60)"
    with_scripts, without = bench.medians(cpu(load_words(forth)), cpu(load_words(simple)))
    added = (with_scripts - without) * 1000
    yield "the same in processor time", f"{ms(with_scripts)} {ms(without)}  adds {added:.1f} ms"


def modules_section(bench: Bench) -> Iterator[Row]:
    """40 modules beside the kernel"""
    disk = bench.module_disk(MODULES)
    names = [f"bench{number:03}" for number in range(MODULES)]
    kernel = ["--loader-command", "load /boot/kernel/kernel"]
    words = [part for name in names for part in ("--loader-command", f"load /boot/kernel/{name}.ko")]
    many, none = bench.medians(load(*kernel, *words, "-d", disk), load(*kernel, "-d", disk))
    yield "with, without", f"{ms(many)} {ms(none)}  {(many - none) * 1000 / MODULES:.2f} ms a module"


def images_section(bench: Bench) -> Iterator[Row]:
    """The same disk in other formats"""
    bench.need("qemu-img")
    raw = bench.disk(bench.tree("formats"))
    kinds = {"qcow2": ["-O", "qcow2"], "qcow2, compressed": ["-c", "-O", "qcow2"], "vmdk": ["-O", "vmdk"]}
    kinds |= {"vhd": ["-O", "vpc"], "vhdx": ["-O", "vhdx"]}
    paths = [raw]
    for number, options in enumerate(kinds.values()):
        paths.append(bench.folder / f"disk{number}.{options[-1]}")
        subprocess.run(["qemu-img", "convert", "-f", "raw", *options, raw, paths[-1]], check=True, capture_output=True)
    times = bench.medians(*(load("-d", path) for path in paths))
    for name, seconds in zip(["raw", *kinds], times, strict=True):
        yield name, f"{ms(seconds)}  {seconds / times[0]:.2f} raw"


ZFS_TARGET = 2.5


def zfs_section(bench: Bench) -> Iterator[Row]:
    """The same kernel on ZFS, one disk, lz4"""
    tree = bench.tree("zfs")
    ufs, zfs = bench.disk(tree), bench.pool(tree)
    on_zfs, on_ufs = bench.medians(load("-d", zfs), load("-d", ufs))
    yield "ZFS, UFS2", f"{ms(on_zfs)} {ms(on_ufs)}  {on_zfs / on_ufs:.2f} (target {ZFS_TARGET})"
    commands = [[str(PROGRAMS / "bhyveload"), "--batch", "-d", str(path), "bench"] for path in (zfs, ufs)]
    on_zfs, on_ufs = bench.medians(*(lambda command=command: _starter.run(command)[1] for command in commands))
    yield "the same in processor time", f"{ms(on_zfs)} {ms(on_ufs)}  {on_zfs / on_ufs:.2f}"


def callbacks_section(bench: Bench) -> Iterator[Row]:
    """The callbacks of a userboot object, one call of each"""
    from userboot_cost import callback_costs, missing

    if missing():
        raise Missing(missing())
    for name, seconds in callback_costs().items():
        yield name, f"{seconds * 1e6:8.2f} us"


def further_section(bench: Bench) -> Iterator[Row]:
    """What tools/bench_*.py measure, each a program of its own"""
    for tool in sorted((ROOT / "tools").glob("bench_*.py")):
        yield tool.name, ""
        done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, check=False)
        if done.returncode:
            yield "", f"failed: {done.stderr.strip().splitlines()[-1:]}"
        for line in done.stdout.splitlines():
            yield f"  {line}", ""


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "main": main_section,
    "handoff": handoff_section,
    "programs": programs_section,
    "scripts": scripts_section,
    "stages": stages_section,
    "scaling": scaling_section,
    "forth": forth_section,
    "modules": modules_section,
    "images": images_section,
    "zfs": zfs_section,
    "callbacks": callbacks_section,
    "further": further_section,
}


def main() -> int:
    global _starter
    parser = argparse.ArgumentParser(description="Figures, beside a bare Python and a plain copy.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=memory) as vms:
        os.environ["BHYVE_VMM_DIR"] = vms
        _starter = Starter()
        bench = Bench(Path(folder), arguments.rounds)
        for name in arguments.sections or SECTIONS:
            section = SECTIONS[name]
            print(f"\n{name}: {section.__doc__}", flush=True)
            try:
                for what, figure in section(bench):
                    print(f"  {what:44} {figure}".rstrip(), flush=True)
            except Missing as reason:
                print(f"  left out: {reason}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
