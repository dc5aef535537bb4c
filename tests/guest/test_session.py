"""``Guest`` against a scripted console with a real line discipline and the host's sh (support/scripted_guest.py)."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bhyveload.errors import GuestEnded, GuestError, GuestTimedOut
from bhyveload.guest.session import Guest
from support.scripted_guest import ScriptedSession


def guest_of(*words: str, **more: str) -> Guest:
    return Guest(ScriptedSession(*words), patience=20.0, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with guest_of("login") as guest:
        yield guest


@pytest.mark.parametrize("words", [["csh"], ["single"], ["password"], ["pushed"], ["csh", "password"]], ids="-".join)
def test_ways_to_a_shell(words: list[str]) -> None:
    with guest_of(*words, password="secret") as guest:
        done = guest.run("printf 'a\\tb\\r\\n\\377'; exit 7", timeout=30)
        assert (done.status, done.output) == (7, b"a\tb\r\n\xff")


def test_a_wrong_password() -> None:
    with guest_of("password", password="wrong") as guest, pytest.raises(GuestError, match="refuses the login of root"):
        guest.run("true")


def test_a_kernel_without_a_root() -> None:
    with guest_of("mountroot") as guest, pytest.raises(GuestEnded, match="no root file system") as caught:
        guest.run("true")
    assert caught.value.lines[-1].startswith("mountroot>")


def test_a_terminal_that_stays_as_it_is(tmp_path: Path) -> None:
    """No stty there: echo and CR LF; od brings files over."""
    for name in ("wc", "cksum", "od", "printf", "cat", "chmod", "mv"):
        path = next(Path(folder) / name for folder in ("/usr/bin", "/bin") if (Path(folder) / name).exists())
        (tmp_path / name).symlink_to(path)
    with guest_of(str(tmp_path), "opost") as guest:
        assert guest.run("printf 'a\\nb\\n'; exit 3", timeout=30).output == b"a\nb\n"
        data = bytes(range(256)) * 3
        guest.put(data, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == data
        assert guest.get(tmp_path / "file") == data


def test_commands_are_bytes(guest: Guest) -> None:
    assert guest.run("echo \"it's $((1 + 1)) ä\"; echo 'x\ny'").text == "it's 2 ä\nx\ny\n"
    assert guest.run(b"printf %s '\xff\x01\x03\x04\x1b\t\\n'").output == b"\xff\x01\x03\x04\x1b\t\\n"
    assert guest.run("echo out; echo err >&2; exit 255").status == 255


def test_each_command_has_a_shell_of_its_own(guest: Guest) -> None:
    guest.run("cd /; x=1; set -e; false")
    assert guest.run('echo "[$x]"; false; read y; echo "[$y]"; \'').status == 2
    assert guest.run('echo "[$x]"; false; read y; echo "[$y]"').output == b"[]\n[]\n"


def test_a_long_command(guest: Guest) -> None:
    assert guest.run("exit 9; #" + "ä" * 5000).status == 9


def test_much_output_streams(guest: Guest) -> None:
    """A hundred megabytes, byte for byte, and none of it kept."""
    seen = hashlib.sha256()
    done = guest.run("seq 13200000; printf end", out=seen.update)
    expected = subprocess.run(["seq", "13200000"], check=True, capture_output=True).stdout + b"end"
    assert len(expected) > 100 << 20
    assert (done.output, seen.digest()) == (b"", hashlib.sha256(expected).digest())


def test_output_comes_as_it_is_written(guest: Guest) -> None:
    times: list[float] = []
    guest.run("printf begin; sleep 2; echo end", out=lambda text: times.append(time.monotonic()))
    assert times[-1] - times[0] > 1


def test_a_time_out_interrupts_the_command_and_the_guest_stays(guest: Guest) -> None:
    with pytest.raises(GuestTimedOut) as caught:
        guest.run("sleep 60", timeout=0.5)
    assert caught.value.exit_status == 124
    assert guest.run("echo there").output == b"there\n"


def test_files_in_and_out(guest: Guest, tmp_path: Path) -> None:
    data = bytes(range(256)) * 20
    target = tmp_path / "it's a file"
    guest.put(data, target, mode=0o600)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (data, 0o600)
    assert guest.get(target) == data
    guest.put(b"", target)
    assert guest.get(target) == b""
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_files_that_cannot_be(guest: Guest, tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"cannot be read in the guest: .*[Nn]o such file"):
        guest.get(tmp_path / "absent")
    with pytest.raises(GuestError, match="cannot be written in the guest"):
        guest.put(b"x", tmp_path / "no" / "folder")
    assert guest.run("true").status == 0


def test_the_guest_ends() -> None:
    with guest_of("login") as guest, pytest.raises(GuestEnded) as caught:
        guest.run("kill -9 $PPID; sleep 10")
    assert caught.value.exit_status == 126


def test_a_guest_that_cannot_be_saved() -> None:
    """With a reason, and when it takes too long; it is there as before."""
    for answers, error in ((["no room"], GuestError), ([], GuestTimedOut)):

        def save(answer: Callable[[str], None], answers: list[str] = answers) -> None:
            for reason in answers:
                answer(reason)

        session = ScriptedSession("login")
        with Guest(session, patience=20.0, save=save) as guest:  # type: ignore[arg-type]
            with pytest.raises(error, match=f"is not saved: {answers[0] if answers else 'it takes too long'}"):
                guest.save(5.0)
            assert guest.run("echo on", timeout=20).text == "on\n"
