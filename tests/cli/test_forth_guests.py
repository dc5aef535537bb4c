"""Guests whose scripts are Forth, by the programs as people run them: nothing beside the package is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import stock_like_forth
from support.end_to_end import PROGRAMS, Finished, bhyveload, load, program
from support.images import make_ufs, standard_disk

ENDLESS = b": forever begin again ; forever\n"


def disk_of(folder: Path, files: dict[str, str | bytes] | None = None) -> Path:
    tree = stock_like_forth.write_tree(folder / "tree", files=files)
    return standard_disk(folder / "disk", make_ufs(tree, folder / "fs", 4 << 20))


@pytest.fixture(scope="module")
def forth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disk_of(tmp_path_factory.mktemp("forth"))


def at_prompt(disk: Path, lines: bytes, *words: str) -> Finished:
    """Out of the menu, and what is typed there; the loader is left with `quit`."""
    return bhyveload(*words, "-d", disk, "vm", keys=b"\x1b" + lines + b"quit\n")


# From one interpreter to another


@pytest.mark.parametrize("compat", ["13.2", "current"])
def test_the_marker_of_boot_loader(forth: Path, compat: str) -> None:
    done = at_prompt(forth, b"1 2 + .\n", "--compat", compat)
    assert b"OK 1 2 + .\r\n3 " in done.out
    assert done.status == 1


def test_a_loader_without_a_marker_is_forth(tmp_path: Path) -> None:
    """FreeBSD up to 11: its /boot/loader says nothing."""
    done = at_prompt(disk_of(tmp_path, {"boot/loader": b"\x7fELF nothing"}), b"1 2 + .\n")
    assert b"OK 1 2 + .\r\n3 " in done.out


def test_from_forth_to_lua(tmp_path: Path) -> None:
    lua = disk_of(tmp_path, {"boot/loader": b"$Interpreter:lua\0", "boot/lua/loader.lua": "print(6*7)\n"})
    done = bhyveload("-d", lua, "vm", keys=b" quit\n", timeout=20)
    assert b"42\r\n" in done.out


def test_reboot_starts_over(forth: Path) -> None:
    done = bhyveload("-d", forth, "vm", keys=b"\x1breboot\n\x1bquit\n")
    assert done.out.count(b"reading defaults") == 2


# --batch and its choices


def test_batch(forth: Path) -> None:
    report = load("-d", forth)
    assert report["interpreter"] == "4th"
    assert [file["name"] for file in report["files"]] == ["/boot/kernel/kernel", "/boot/first.img"]


def test_choices(forth: Path) -> None:
    words = ("--kernel", "kernel.old", "--single-user", "--verbose-boot", "--loader-command", "set from.command=1")
    report = load(*words, "-d", forth)
    assert report["files"][0]["name"] == "/boot/kernel.old/kernel"
    assert report["howto"] & 0x802 == 0x802
    assert report["environment"]["from.command"] == "1"


def test_a_batch_without_its_scripts_says_why(tmp_path: Path) -> None:
    broken = disk_of(tmp_path, {"boot/loader.rc": "no-such-word\n"})
    done = bhyveload("--batch", "-d", broken, "vm")
    assert done.status == 1
    assert "no-such-word not found" in done.messages and "Traceback" not in done.messages


def test_dry_run(forth: Path) -> None:
    done = bhyveload("--batch", "--dry-run", "--json", "-d", forth, "vm", check=0)
    assert done.json["interpreter"] == "4th"


def test_bhyvedisk_names_the_scripts(forth: Path) -> None:
    assert "scripts: 4th" in program("bhyvedisk", "info", forth, check=0).out.decode()


# Scripts without an end


def test_time_limit(forth: Path) -> None:
    done = bhyveload("--timeout", "2", "-d", forth, "vm", keys=b"\x1b" + ENDLESS, timeout=30)
    assert done.status == 70
    assert done.messages.startswith("bhyveload: the loader did not finish in 2 seconds")


def test_interrupt(forth: Path) -> None:
    command = ["env", "--default-signal=INT", str(PROGRAMS / "bhyveload"), "-d", str(forth), "vm"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b"\x1b" + ENDLESS)
        process.stdin.flush()
        seen = b""
        while b"OK " not in seen:
            seen += os.read(process.stdout.fileno(), 4096) or b"OK "
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"Traceback" not in errors
