"""A stand-in for FreeBSD's libvmmapi, built from tests/data/fake_vmmapi.c in the ABI of 13.2 or of 14 and later."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from bhyveload.vm.registers import DESCRIPTORS, VM_REG_NAMES
from support.places import DATA

ABIS = ["13.2", "current"]


def build(folder: Path, abi: str) -> Path:
    """The library; skips the test where nothing can compile it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (install gcc)")
    path = folder / "libvmmapi.so"
    flags = ["-DOLD"] if abi == "13.2" else []
    source = DATA / "fake_vmmapi.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", *flags, "-o", path, source], check=True)
    return path


class StandIn:
    """A folder that plays /dev/vmm for whole programs (VMM_STANDIN): what was called, what a VM holds."""

    def __init__(self, library: Path, abi: str, folder: Path) -> None:
        self.option = f"--vmm=libvmmapi:{library}"
        self.abi = abi
        self._library = library
        self.folder = folder

    def calls(self) -> list[str]:
        """Every call with its arguments."""
        trace = self.folder / "trace"
        return trace.read_text().splitlines() if trace.exists() else []

    def functions(self) -> list[str]:
        """Every call, but for the vCPU handles that 13.2 does not have."""
        names = [line.split()[0] for line in self.calls()]
        return [name for name in names if name not in ("vm_vcpu_open", "vm_vcpu_close", "vm_close")]

    def forget(self) -> None:
        (self.folder / "trace").unlink()

    def machines(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.vm"))

    def make(self, name: str) -> None:
        """A VM that somebody else has made."""
        (self.folder / f"{name}.vm").touch()

    def memory(self, name: str, length: int) -> bytes:
        with (self.folder / f"{name}.low").open("rb") as file:
            return file.read(length)

    def sizes(self, name: str) -> tuple[int, int]:
        high = self.folder / f"{name}.high"
        return (self.folder / f"{name}.low").stat().st_size, high.stat().st_size if high.exists() else 0

    def processor(self, name: str) -> dict[str, int | tuple[int, ...]]:
        """vCPU 0 as the library tells it: registers and selectors ("cs"), descriptors ("cs descriptor")."""
        library = ctypes.CDLL(str(self._library))
        library.vm_open.restype = ctypes.c_void_p
        vcpu = [ctypes.c_void_p(library.vm_open(name.encode()))]
        if self.abi == "13.2":
            vcpu.append(ctypes.c_int(0))  # type: ignore[arg-type]
        else:
            library.vm_vcpu_open.restype = ctypes.c_void_p
            vcpu = [ctypes.c_void_p(library.vm_vcpu_open(vcpu[0], 0))]
        found: dict[str, int | tuple[int, ...]] = {}
        for number, register in enumerate(VM_REG_NAMES):
            value = ctypes.c_uint64()
            if library.vm_get_register(*vcpu, number, ctypes.byref(value)) == 0:
                found[register] = value.value
            if register in DESCRIPTORS:
                parts = ctypes.c_uint64(), ctypes.c_uint32(), ctypes.c_uint32()
                if library.vm_get_desc(*vcpu, number, *map(ctypes.byref, parts)) == 0:
                    found[f"{register} descriptor"] = tuple(part.value for part in parts)
        return found
