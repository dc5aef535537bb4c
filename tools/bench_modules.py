"""What kernels, modules and compressed kernels cost the loader, beside pwrite(2) and the bare decompressors.

    python tools/bench_modules.py [MODULES]

A /boot of FreeBSD's size (tests/support/kernel_tree.py; a kernel of 32 MiB with 2800 module records and 50,000 symbols,
40 modules of 200 KiB, a release's linker.hints) on UFS2; the loader alone, in this process, with warm page cache, the
fastest of several rounds.  Needs gcc, ld, makefs and sgdisk.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from bhyveload.host.callbacks import GuestReady, LoaderCallbacks, loader_environment
from bhyveload.image.raw import open_raw
from bhyveload.loader.main import loader_main
from bhyveload.loader.state import Loader, Options
from bhyveload.need import load_all
from bhyveload.vm.memory import GuestMemory
from support import harness, images
from support.kernel_tree import build_boot_tree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROUNDS = 9
MIB = 1 << 20
MEMORY = 256 * MIB
LIMIT_MODULES = 60  # ms that 40 modules may add
COMPRESSORS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (gzip.compress, gzip.decompress),
    ".bz2": (bz2.compress, bz2.decompress),
    ".zst": (zstd.compress, zstd.decompress),
    ".xz": (lambda data: lzma.compress(data, preset=1), lzma.decompress),
}


def load(disk: Path, commands: Sequence[str]) -> float:
    """Milliseconds from an empty VM to a guest that is ready."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MEMORY)
    host = LoaderCallbacks(
        harness.KeyConsole(), GuestMemory(fd, MEMORY, 0), [open_raw(str(disk))], None, loader_environment([])
    )
    loader = Loader(host, "current", Options(batch=True, commands=tuple(commands)))
    started = time.perf_counter()
    try:
        loader_main(loader)
    except GuestReady:
        return (time.perf_counter() - started) * 1000
    finally:
        os.close(fd)
    raise AssertionError("the loader came back")


def plain_copy(data: bytes) -> float:
    fd = os.memfd_create("copy")
    os.ftruncate(fd, MEMORY)
    started = time.perf_counter()
    os.pwrite(fd, data, 2 * MIB)
    ended = time.perf_counter()
    os.close(fd)
    return (ended - started) * 1000


def fastest(*works: Callable[[], float]) -> list[float]:
    """The best of each, taken in turns."""
    return [min(times) for times in zip(*([work() for work in works] for _ in range(ROUNDS)), strict=True)]


def make_disk(folder: Path, tree: Path, size: int) -> Path:
    folder.mkdir(exist_ok=True)
    return images.standard_disk(folder / "disk.img", images.make_ufs(tree, folder / "ufs", size))


def decompression(unpack: Callable[[bytes], bytes], data: bytes) -> float:
    started = time.perf_counter()
    unpack(data)
    return (time.perf_counter() - started) * 1000


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    load_all()
    with tempfile.TemporaryDirectory() as work:
        base = Path(work)
        names = build_boot_tree(base / "tree", count)
        kernel = base / "tree/boot/kernel/kernel"
        data = kernel.read_bytes()
        disk = make_disk(base / "plain", base / "tree", 64 * MIB)
        modules = [f"load {name}" for name in names]
        alone, with_modules, copy = fastest(
            lambda: load(disk, ["load kernel"]),
            lambda: load(disk, ["load kernel", *modules]),
            lambda: plain_copy(data),
        )
        print(f"kernel of {len(data) // MIB} MiB: {alone:.1f} ms   pwrite of the same: {copy:.1f} ms")
        print(f"{count} modules: +{with_modules - alone:.1f} ms   (limit {LIMIT_MODULES} for 40)")
        for suffix, (pack, unpack) in COMPRESSORS.items():
            packed = pack(data)
            kernel.with_name("kernel" + suffix).write_bytes(packed)
            kernel.unlink(missing_ok=True)
            disk = make_disk(base / "packed", base / "tree", 64 * MIB)
            took, bare = fastest(
                lambda disk=disk: load(disk, ["load kernel"]),  # type: ignore[misc]
                lambda unpack=unpack, packed=packed: decompression(unpack, packed),  # type: ignore[misc]
            )
            print(f"kernel{suffix} of {len(packed) / MIB:.1f} MiB: {took:.1f} ms   decompression alone: {bare:.1f} ms")
            kernel.with_name("kernel" + suffix).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
