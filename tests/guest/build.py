"""Build the probe guest with the host's gcc and ld: a small kernel in FreeBSD's boot format."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
LOAD_ADDRESS = {"amd64": 0xFFFFFFFF80200000, "i386": 0x00800000}
_CFLAGS = [
    *("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-array-bounds"),
    *("-ffreestanding", "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing"),
    *("-fcf-protection=none", "-mgeneral-regs-only"),
]
_ARCH_FLAGS = {"amd64": ["-m64", "-mno-red-zone", "-mcmodel=kernel"], "i386": ["-m32", "-march=i686"]}
_EMULATION = {"amd64": "elf_x86_64", "i386": "elf_i386"}


def missing_tools() -> str:
    """The tools that are needed and not installed, or an empty string."""
    return ", ".join(tool for tool in ("gcc", "ld") if shutil.which(tool) is None)


@cache
def quiet_about_rwx() -> tuple[str, ...]:
    """A kernel's segments need no lecture; before binutils 2.39 ld gives none."""
    known = subprocess.run(["ld", "--help"], check=True, capture_output=True, text=True).stdout
    return tuple(option for option in ("--no-warn-rwx-segments",) if option in known)


def build_probe(
    folder: Path,
    arch: str = "amd64",
    extra_cflags: Sequence[str] = (),
    *,
    padding: int = 0,
    sections: int = 0,
    ctors: int = 0,
    zeros: int = 0,
    name: str = "kernel",
    source: str = "probe.c",
) -> Path:
    """Compile and link the probe guest into ``folder``/``name``.

    ``padding``: bytes of further initialised data; ``sections``: that many small sections; ``ctors``: words in .ctors;
    ``zeros``: bytes of initialised data that are all zero; ``source``: another guest beside probe.c.
    """
    work = folder / f"{name}.build"
    work.mkdir(parents=True, exist_ok=True)
    sources = [SOURCE / source, SOURCE / f"start_{arch}.S"]
    flags = [*_CFLAGS, *_ARCH_FLAGS[arch], *extra_cflags]
    if padding:
        flags.append(f"-DPAD_BYTES={padding}")
    if padding or sections or ctors or zeros:
        extra = work / "extra.S"
        extra.write_text(_extra(arch, padding, sections, ctors, zeros))
        sources.append(extra)
    objects = []
    for path in sources:
        target = work / (path.name + ".o")
        subprocess.run(["gcc", *flags, "-c", "-o", str(target), str(path)], check=True)
        objects.append(str(target))
    kernel = folder / name
    link = ["ld", "-m", _EMULATION[arch], "-nostdlib", "-static", "-z", "max-page-size=0x1000", "--build-id=none"]
    link += ["-z", "noexecstack", *quiet_about_rwx(), "--orphan-handling=place"]
    link += [f"--defsym=LOAD_ADDRESS={LOAD_ADDRESS[arch]:#x}", "-T", str(SOURCE / "probe.ld"), "-o", str(kernel)]
    subprocess.run([*link, *objects], check=True)
    return kernel


def _extra(arch: str, padding: int, sections: int, ctors: int, zeros: int = 0) -> str:
    """Assembly for the extra content: the padding is a counter, so that no page repeats another."""
    lines = []
    if padding:
        lines += ["\t.data", "\t.balign 4096", "\t.globl padding", "padding:", "\t.set i, 0"]
        lines += [
            f"\t.rept {padding // 4096}",
            "\t.long i, i ^ 0x5aa5c33c",
            "\t.fill 511, 8, 0xa5a5a5a5",
            "\t.set i, i + 1",
            "\t.endr",
        ]
        lines += [f"\t.fill {padding % 4096}, 1, 0x77"]
    if zeros:
        lines += ["\t.data", "\t.balign 4096", f"\t.fill {zeros // 8}, 8, 0"]
    for number in range(sections):
        lines += [f'\t.section .many{number}, "a", @progbits', f"\t.long {number}"]
    if ctors:
        lines += ['\t.section .ctors, "aw", @progbits']
        lines += [("\t.quad " if arch == "amd64" else "\t.long ") + "btext"] * ctors
    lines += ['\t.section .note.GNU-stack, "", @progbits', ""]
    return "\n".join(lines)


def parse_report(console: str | bytes) -> dict[str, str]:
    """The probe's key=value lines; what is not one (the firmware's output, say) is left out."""
    text = console.decode("latin-1") if isinstance(console, bytes) else console
    report: dict[str, str] = {}
    for line in text.replace("\r", "").split("\n"):
        key, equals, value = line.partition("=")
        if equals and key and " " not in key:
            report[key] = value
    return report
