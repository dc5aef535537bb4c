"""Our ctypes declarations against what a C compiler makes of the same structures."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from bhyveload.userboot.abi import (
    SIGNATURES,
    FreeBSDStat,
    LoaderCallbackTable,
    OldLoaderCallbackTable,
    callback_offset,
)
from support.userboot_testing import GUEST, compiler


def compiled(folder: Path, *flags: str) -> dict[tuple[str, str], tuple[int, int]]:
    program = folder / "offsets"
    subprocess.run([compiler(), "-Wall", "-Werror", *flags, "-o", program, GUEST / "offsets.c"], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {(name, member): (int(at), int(size)) for name, member, at, size in (line.split() for line in lines)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], tuple[int, int]]:
    return compiled(tmp_path_factory.mktemp("offsets"))


def test_layout_of_the_old_table(tmp_path: Path) -> None:
    expected = {member: at for (name, member), (at, _) in compiled(tmp_path, "-DOLD_TABLE").items() if name != "stat"}
    ours = {field[0]: callback_offset(field[0], OldLoaderCallbackTable) for field in OldLoaderCallbackTable._fields_}
    assert ours == {member: at for member, at in expected.items() if member != "-"}
    assert "diskwrite" not in ours


@pytest.mark.parametrize(("name", "structure"), [("callbacks", LoaderCallbackTable), ("stat", FreeBSDStat)])
def test_layout_is_that_of_c(
    table: dict[tuple[str, str], tuple[int, int]], name: str, structure: type[LoaderCallbackTable | FreeBSDStat]
) -> None:
    members = [field[0] for field in structure._fields_]
    ours = {(name, member): (getattr(structure, member).offset, getattr(structure, member).size) for member in members}
    ours[name, "-"] = 0, ctypes.sizeof(structure)
    assert ours == {key: value for key, value in table.items() if key[0] == name}


def test_sizes_and_offsets_of_the_specification() -> None:
    """stand/userboot/userboot.h, written down a third time, so that C and Python cannot be wrong together."""
    assert ctypes.sizeof(LoaderCallbackTable) == 0xD8
    assert LoaderCallbackTable.diskioctl.offset == 0xB0
    assert LoaderCallbackTable.swap_interpreter.offset == 0xD0
    assert ctypes.sizeof(FreeBSDStat) == 224
    assert (FreeBSDStat.st_mode.offset, FreeBSDStat.st_size.offset, FreeBSDStat.st_mtim.offset) == (24, 112, 64)
    assert len(SIGNATURES) == 27
