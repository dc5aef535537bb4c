"""A file for a guest's devices, as each version of QEMU takes it.

That real ones do is in tests/saved, with the QEMU of the machine: seen with 7.2, 10.0 and 11.1."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bhyveload.handoff.qemu.files import RunFiles
from bhyveload.handoff.qemu.migration import Restoring, Saving, incoming

OLD, NEW = ["7.2.0", "8.2.2", "9.0.4", "", "9", "x.y", "9.1e3"], ["9.1.0", "10.0.2", "11.1.2"]
SET = "/dev/fdset/1048576"


class Wire:
    """Takes down what QMP is told, and with which flags a descriptor is open."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        self.flags = -1

    def send(self, command: str, **arguments: Any) -> None:
        self.sent.append((command, arguments))

    def send_descriptor(self, fd: int, command: str, **arguments: Any) -> None:
        self.flags = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
        self.sent.append((command, arguments))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.sent]


def saving(version: str, path: Path) -> tuple[Wire, list[str]]:
    wire: Any = Wire()
    told: list[str] = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    before = len(os.listdir("/proc/self/fd"))
    one = Saving(wire, fd, told.append, version=version)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)
    one.hear({"event": "MIGRATION", "data": {"status": "completed"}})
    assert one.over and told == [""]
    return wire, told


@pytest.mark.parametrize("version", OLD)
def test_saving_by_a_descriptor(version: str, tmp_path: Path) -> None:
    wire, _ = saving(version, tmp_path / "devices")
    assert wire.names == ["stop", "migrate-set-capabilities", "getfd", "migrate"]
    assert wire.sent[2][1] == {"fdname": "saved"} and wire.sent[3][1] == {"uri": "fd:saved"}


@pytest.mark.parametrize("version", NEW)
def test_saving_by_a_file(version: str, tmp_path: Path) -> None:
    """QEMU looks in a set for a descriptor that is open for writing alone; the set is empty again for the next time."""
    wire, _ = saving(version, tmp_path / "devices")
    assert wire.names == ["stop", "migrate-set-capabilities", "add-fd", "migrate", "remove-fd"]
    assert wire.sent[3][1] == {"uri": f"file:{SET}"}
    assert wire.sent[2][1] == wire.sent[4][1] == {"fdset-id": 1048576}
    assert wire.flags == os.O_WRONLY


def test_a_file_that_cannot_be_opened_again(tmp_path: Path) -> None:
    """Before the guest has been stopped."""
    wire: Any = Wire()
    with pytest.raises(OSError):
        Saving(wire, 9999, lambda reason: None, version="11.1.2")
    assert wire.sent == []


@pytest.mark.parametrize("version", [*OLD, *NEW])
def test_restoring(version: str, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "devices", os.O_RDWR | os.O_CREAT)
    wire: Any = Wire()
    with ExitStack() as opened:
        files = RunFiles(opened)
        uri = incoming(version, fd, files)
        (given,) = files.given
        assert given != fd and os.path.sameopenfile(given, fd)
        if version in NEW:
            assert uri == "file:/dev/fdset/1" and files.arguments == ["-add-fd", f"fd={given},set=1"]
            assert fcntl.fcntl(given, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        else:
            assert uri == f"fd:{given}" and files.arguments == []
        Restoring(wire, uri, lambda: None)
    os.close(fd)
    assert wire.sent[-1] == ("migrate-incoming", {"uri": uri})
