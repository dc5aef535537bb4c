"""bhyveload on vmm(4), the whole program, against a stand-in libvmmapi (tests/data/fake_vmmapi.c) of both ABIs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.end_to_end import bhyveload
from support.golden import Record, differences, records
from support.places import DATA
from support.ufs_images import decompress


class StandIn:
    """A folder that plays /dev/vmm: what was called, and what lies in a VM's memory."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.option = f"--vmm=libvmmapi:{library}"
        self.folder = folder

    def calls(self) -> list[str]:
        return (self.folder / "trace").read_text().splitlines()

    def functions(self) -> list[str]:
        return [line.split()[0] for line in self.calls()]

    def memory(self, name: str, length: int) -> bytes:
        with (self.folder / f"{name}.low").open("rb") as file:
            return file.read(length)

    def registers(self) -> dict[int, int]:
        """The last value of each register of vCPU 0, by libvmmapi's number."""
        found = (re.match(r"vm_set_register \S+ 0 (\d+) (\S+)", line) for line in self.calls())
        return {int(match[1]): int(match[2], 0) for match in found if match}


@pytest.fixture(scope="module", params=["13.2", "current"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    path = tmp_path_factory.mktemp("vmmapi") / "libvmmapi.so"
    flags = ["-DOLD"] if request.param == "13.2" else []
    source = DATA / "fake_vmmapi.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", *flags, "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture
def vmm(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "dev-vmm"
    folder.mkdir()
    monkeypatch.setenv("VMM_STANDIN", str(folder))
    return StandIn(library, folder)


@pytest.mark.parametrize(("version", "name"), records(interpreter="lua"))
def test_same_as_freebsd(version: str, name: str, vmm: StandIn, tmp_path: Path) -> None:
    record = Record(version, name)
    words: list[str | Path] = [vmm.option, "--compat", version, "-m", f"{record.memory_size >> 20}M"]
    for text in record.environment:
        words += ["-e", text.decode("latin-1")]
    for disk in record.names:
        (tmp_path / disk).write_bytes(decompress(record.folder / f"{disk}.zst"))
        words += ["-d", tmp_path / disk]
    done = bhyveload(*words, "vm", keys=record.keys, check=0)
    assert done.out == record.console
    recorded = record.memory()
    assert differences(vmm.memory("vm", len(recorded)), recorded, record.ignored) == []
    entry = next(line for line in record.calls if line.startswith("exec "))
    assert entry.split("rip=")[1].startswith(f"{vmm.registers()[20]:#x}")
