"""A /boot of the size of FreeBSD's, for measurements (tools/bench.py) and one test."""

from __future__ import annotations

from pathlib import Path

from support.kernel_objects import MDT_MODULE, Hints, Record, build_kernel, build_module, depend, version

KERNEL_VERSION = 1400097
DRIVERS = 700  # of GENERIC: each with a version, two dependencies and its bus
SYMBOLS = 50_000


def build_boot_tree(root: Path, modules: int = 40, padding: int = 26 << 20) -> list[str]:
    """``root``/boot/kernel with a kernel of about ``padding`` + 6 MiB, ``modules`` object modules of 200 KiB each and
    linker.hints of a whole release.  The names for `load`, in order."""
    records: list[Record] = []
    for number in range(DRIVERS):
        records += [version(f"driver{number}", 1), depend("kernel", 1, 2, 3), depend(f"pci{number % 10}", 1, 1, 1)]
        records.append((MDT_MODULE, f"pci/driver{number}", ()))
    records.append(version("kernel", KERNEL_VERSION))
    folder = root / "boot" / "kernel"
    build_kernel(folder / "kernel", records, padding=padding, symbols=SYMBOLS)
    needs = depend("kernel", 1, KERNEL_VERSION, 1499999)
    pattern = build_module(
        folder / "m000.ko", [version("m000", 1), needs], padding=145_000, relocations=2000
    ).read_bytes()
    names = [f"m{number:03}" for number in range(modules)]
    hints = Hints().module("kernel", "kernel").version("kernel", KERNEL_VERSION, "kernel")
    for name in names:
        (folder / f"{name}.ko").write_bytes(pattern.replace(b"m000", name.encode()))
        hints.module(name, f"{name}.ko").version(name, 1, f"{name}.ko")
    for number in range(900):
        file = f"if_drv{number}.ko"
        hints.module(f"pci/drv{number}", file).version(f"if_drv{number}", 1, file)
        hints.pnp(
            "pci", "I:vendor;I:device;D:#;", [(0x8086, 0x1000 + number * 8 + entry, "card") for entry in range(5)]
        )
    (folder / "linker.hints").write_bytes(hints.encode())
    return names
