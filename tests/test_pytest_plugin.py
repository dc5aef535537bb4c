"""bhyveload.pytest: a session of pytest with the plugin and a guest that understands a few commands (guest/login.c)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from guest.build import build_probe
from support.end_to_end import make_disk, needs_gcc, needs_qemu

TESTS = """
import pytest


def test_a_guest(freebsd):
    assert freebsd.run("echo one").text == "one\\n"
    freebsd.put(b"text", "/tmp/x")
    assert freebsd.get("/tmp/x") == b"text"
    assert freebsd.run("exit 3", check=False).status == 3


@pytest.mark.freebsd(memory="48M")
def test_it_is_as_new(freebsd):
    assert freebsd.get("/tmp/x") == b""
    freebsd.run("exit 4")


@pytest.mark.freebsd(image="KERNELLESS")
def test_a_kernel_of_ones_own(freebsd):
    pass


def test_another_kernel(freebsd):
    assert freebsd.kernel("KERNEL").run("echo two").text == "two\\n"
"""


SNAPSHOTS = """
def test_one(freebsd):
    freebsd.put(b"text", "/tmp/x")
    assert freebsd.get("/tmp/x") == b"text"


def test_two(freebsd, tmp_path):
    assert freebsd.get("/tmp/x") == b""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("x")
    freebsd.put_tree(tmp_path / "in", "/x")
    assert freebsd.get_tree("/x", tmp_path / "out") == []
    assert (tmp_path / "out" / "file").read_text() == "x"


def test_three(freebsd):
    freebsd.run("exit 5")
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "bhyveload.pytest", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # installed, the plugin would be registered twice
    command += ["--rootdir", str(folder), "-c", str(folder / "pytest.ini"), *words, str(folder / "test_guest.py")]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment
    )


def test_without_an_image(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_guest.py").write_text("def test(freebsd):\n    assert False\n")
    done = run(tmp_path, "-rs")
    assert done.returncode == 0 and "no FreeBSD image: --freebsd-image" in done.stdout, done.stdout


@needs_qemu
@needs_gcc
def test_guests(tmp_path: Path, vmm_directory: Path) -> None:
    kernel = build_probe(tmp_path, source="login.c", name="login")
    make_disk(tmp_path, kernel)
    tests = TESTS.replace("KERNELLESS", str(tmp_path / "absent.img")).replace("KERNEL", str(kernel))
    (tmp_path / "test_guest.py").write_text(tests)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfreebsd_image = disk.img\nfreebsd_memory = 64M\n")
    done = run(tmp_path, "--strict-markers", "--freebsd-accel", "tcg", "--freebsd-timeout", "60")
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and "1 failed, 2 passed, 1 error" in last, done.stdout
    assert "exit status 4 of 'exit 4'" in done.stdout
    assert "FreeBSD's console" in done.stdout and "Welcome to FreeBSD!" in done.stdout
    assert "absent.img" in done.stdout
    assert list(vmm_directory.iterdir()) == []


@needs_qemu
@needs_gcc
def test_snapshots(tmp_path: Path, vmm_directory: Path) -> None:
    """One boot for all: only the first test's log has a login; each test finds the guest as it was saved."""
    make_disk(tmp_path, build_probe(tmp_path, source="login.c", name="login"))
    (tmp_path / "test_guest.py").write_text(SNAPSHOTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfreebsd_image = disk.img\nfreebsd_memory = 64M\n")
    done = run(tmp_path, "--freebsd-accel", "tcg", "--freebsd-timeout", "60", "--freebsd-snapshot")
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and "1 failed, 2 passed" in last, done.stdout
    assert "exit status 5 of 'exit 5'" in done.stdout and "Welcome to FreeBSD!" not in done.stdout
    assert list(vmm_directory.iterdir()) == []
