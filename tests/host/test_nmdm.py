"""Null modems: two real pseudo-terminals and the process between them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bhyveload.errors import HostError
from bhyveload.host import nmdm, nmdm_helper

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "nmdm"
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(directory))
    yield directory
    for lock in directory.glob("*.lock"):
        end_helper(lock)


def end_helper(lock: Path) -> None:
    pid = int(lock.read_text() or 0)
    if pid:
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        wait_for(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: object) -> None:
    assert callable(condition)
    for _ in range(200):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def opened(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_NOCTTY)


def read(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and select.select((fd,), (), (), 10)[0]:
        data += os.read(fd, 65536)
    return data


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/dev/nmdm0A", True),
        ("/dev/nmdm-guest.1B", True),
        ("nmdmA", True),
        ("/dev/nmdm0", False),
        ("/dev/nmdm", False),
        ("/dev/ttyS0", False),
        ("/dev/xnmdm0A", False),
        ("/tmp/nmdm0A", False),
        ("/dev/nmdm0A/x", False),
    ],
)
def test_names(path: str, answer: bool) -> None:
    assert nmdm.is_nmdm(path) is answer
    assert answer or nmdm.device_of(path) == path


def test_both_ends_are_wired_to_each_other(place: Path) -> None:
    a, b = opened(nmdm.terminal_of("/dev/nmdm0A")), opened(nmdm.terminal_of("/dev/nmdm0B"))
    assert os.readlink(place / "nmdm0A") == os.ttyname(a)
    assert nmdm.other_end("/dev/nmdm0A") == str(place / "nmdm0B")
    everything = bytes(range(256)) * 4
    os.write(a, everything)
    assert read(b, len(everything)) == everything  # raw: no byte means anything, nothing is echoed
    os.write(b, b"x\r\n\x03\x11")
    assert read(a, 5) == b"x\r\n\x03\x11"
    assert not select.select((a, b), (), (), 0.05)[0]


def test_it_lives_on_when_the_guest_goes(place: Path) -> None:
    b = opened(nmdm.terminal_of("/dev/nmdm0B"))
    for turn in (b"loader", b"guest", b"after the reboot"):
        program = subprocess.run(
            [sys.executable, "-c", f"import os,sys; os.write(os.open(sys.argv[1], 1), {turn!r})", place / "nmdm0A"],
            check=True,
        )
        assert program.returncode == 0
        assert nmdm.terminal_of("/dev/nmdm0A") == os.readlink(place / "nmdm0A")
        assert read(b, len(turn)) == turn


def test_modes_that_a_user_sets_stay_his(place: Path) -> None:
    b = opened(nmdm.terminal_of("/dev/nmdm0B"))
    modes = termios.tcgetattr(b)
    modes[4] = modes[5] = termios.B9600
    termios.tcsetattr(b, termios.TCSANOW, modes)
    os.close(b)
    b = opened(nmdm.terminal_of("/dev/nmdm0B"))
    assert termios.tcgetattr(b)[4] == termios.B9600


def test_a_guest_is_not_held_up_by_nobody(place: Path) -> None:
    """The other end is not read: the last 64 KiB wait, the writer does not."""
    a = opened(nmdm.terminal_of("/dev/nmdm0A"))
    text = b"".join(b"line %07d\r\n" % number for number in range(20000))
    wrote = threading.Thread(target=_write_all, args=(a, text))
    wrote.start()
    wrote.join(30)
    assert not wrote.is_alive()
    b = opened(nmdm.terminal_of("/dev/nmdm0B"))
    seen = b""
    while not seen.endswith(text[-14:]):
        seen += read(b, 1)
    assert len(seen) < len(text)
    assert seen[-60000:] == text[-60000:]


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def test_pairs_are_apart_and_each_has_one_process(place: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda end=end: found.append(nmdm.terminal_of(f"/dev/{end}")))
        for end in ("nmdm1A", "nmdm1B", "nmdm1A", "nmdm-x.1A")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 3
    assert sorted(lock.name for lock in place.glob("*.lock")) == ["nmdm-x.1.lock", "nmdm1.lock"]
    pid = int((place / "nmdm1.lock").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "nmdm1\n"
    assert os.getsid(pid) == pid  # no terminal's signals reach it


def test_a_dead_helper_is_replaced(place: Path) -> None:
    before = nmdm.terminal_of("/dev/nmdm0A")
    pid = int((place / "nmdm0.lock").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(pid))
    a = opened(nmdm.terminal_of("/dev/nmdm0A"))
    b = opened(nmdm.terminal_of("/dev/nmdm0B"))
    os.write(a, b"again")
    assert read(b, 5) == b"again"
    assert before


def test_sigterm_takes_the_links_away(place: Path) -> None:
    nmdm.terminal_of("/dev/nmdm0A")
    end_helper(place / "nmdm0.lock")
    assert sorted(path.name for path in place.iterdir()) == ["nmdm0.lock"]


def test_refusals(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostError, match="not a name for a null modem"):
        nmdm.terminal_of("/dev/nmdm" + "x" * 200 + "A")
    place.mkdir()
    (place / "nmdm0A").write_text("something of the user's")
    with pytest.raises(HostError, match="something else has that name"):
        nmdm.terminal_of("/dev/nmdm0A")
    assert (place / "nmdm0A").read_text() == "something of the user's"
    for mode in (0o777, 0o770):
        place.chmod(mode)
        with pytest.raises(HostError, match="others could write to it"):
            nmdm.terminal_of("/dev/nmdm1A")
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(tmp_path / "file" / "dir"))
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="Not a directory"):
        nmdm.terminal_of("/dev/nmdm1A")


def test_it_ends_when_nobody_needs_it(tmp_path: Path) -> None:
    """In this process: the loop returns by itself, with the links gone, or both ends closed for long enough."""
    sides = nmdm_helper.Side(), nmdm_helper.Side()
    links = nmdm_helper.links_of("nmdm0", [str(tmp_path)], sides)
    nmdm_helper.make_links(links)
    user = opened(sides[1].path)
    tty.setraw(user)
    assert not sides[1].alone()
    assert sides[0].alone()
    os.close(user)
    nmdm_helper.copy(sides, links, tick=0.01, idle_ticks=3)
    os.unlink(tmp_path / "nmdm0A")
    nmdm_helper.copy(sides, links, tick=0.01, idle_ticks=1 << 30)
    nmdm_helper.remove_links(links)
    assert list(tmp_path.iterdir()) == []
    for side in sides:
        os.close(side.master)
        os.close(side.slave)


def test_bhyveload_talks_over_it(place: Path, probe_disk: Path) -> None:
    """The console that a user would attach with cu, before any guest runs."""
    from support.end_to_end import bhyveload

    done = bhyveload("--batch", "-c", "/dev/nmdm-vm.1A", "-d", probe_disk, "vm", check=0)
    assert done.out == b""
    b = opened(nmdm.terminal_of("/dev/nmdm-vm.1B"))
    assert b"userboot" in read(b, 30)
