"""bhyveload's command line: options, repeat rules, messages and exit statuses of bhyveload(8), and what we added.

Facts: usr.sbin/bhyveload/bhyveload.c, lib/libvmmapi/vmmapi.c.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pty
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.bhyve_lines import LOADS
from support.end_to_end import PROGRAMS, Finished, bhyveload, load, plain_environment, require_locked_memory
from support.places import ROOT

MIB = 1 << 20
GIB = 1 << 30


@pytest.fixture
def disk(probe_disk: Path) -> Path:
    return probe_disk


def vm_path(name: str = "vm") -> Path:
    return Path(os.environ["BHYVE_VMM_DIR"]) / name


def one_line(done: Finished, status: int, text: str) -> None:
    """The program ended with ``status`` and one line that starts with ``text`` behind its name."""
    assert done.status == status, (done.status, done.messages)
    assert done.messages.startswith(f"bhyveload: {in_ascii(text)}"), done.messages
    assert done.messages.count("\n") == 1 and "Traceback" not in done.messages


def in_ascii(text: object) -> str:
    """As messages have it: a temporary folder may be called anything."""
    return str(text).encode().decode("latin-1").encode("ascii", "backslashreplace").decode()


def usage(program: str) -> str:
    return (
        f"usage: {program} [-S] [-c <console-device>] [-d <disk-path>] [-e <name=value>]\n"
        f"       {' ' * len(program)} [-h <host-path>] [-m memsize[K|k|M|m|G|g|T|t]] <vmname>\n"
    )


# Usage, getopt


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], ""),
        (["-C"], ""),
        (["one", "two"], ""),
        (["vm", "-C"], ""),  # options end at the first operand
        (["--", "-C", "vm"], ""),
        (["-x", "vm"], "bhyveload: illegal option -- x\n"),
        (["-Cx", "vm"], "bhyveload: illegal option -- x\n"),
        (["vm", "-x"], ""),
        (["-m"], "bhyveload: option requires an argument -- m\n"),
        (["--bogus", "vm"], "bhyveload: illegal option -- bogus\n"),
        (["--batch=1", "vm"], "bhyveload: option doesn't take an argument -- batch\n"),
        (["--memory"], "bhyveload: option requires an argument -- memory\n"),
    ],
)
def test_usage(words: list[str], complaint: str) -> None:
    done = bhyveload(*words)
    assert (done.status, done.messages, done.out) == (1, complaint + usage("bhyveload"), b"")


def test_the_name_it_was_called_by(tmp_path: Path) -> None:
    link = tmp_path / "loader-of-guests"
    link.symlink_to(PROGRAMS / "bhyveload")
    done = subprocess.run([link], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, usage("loader-of-guests"))


def test_help_names_every_option() -> None:
    from bhyveload.cli.bhyveload_options import LONG_OPTIONS

    text = bhyveload("--help", check=0).out.decode()
    assert [name for name in LONG_OPTIONS if f"--{name}" not in text] == []


@pytest.mark.parametrize("name", ["bhyveload", "bhyverun", "bhyvectl"])
def test_the_manual_page_names_every_option(name: str) -> None:
    options = importlib.import_module(f"bhyveload.cli.{name if name == 'bhyvectl' else name + '_options'}").LONG_OPTIONS
    page = (ROOT / "man" / f"{name}.8").read_text()
    missing = [option for option in options if not re.search(rf"Fl -{re.escape(option)}\b", page)]
    assert [option for option in missing if not option.startswith("get-")] == []


def test_an_early_error_masks_later_ones() -> None:
    one_line(bhyveload("-m", "x", "-d", "/nonexistent", "-x"), 64, "Invalid memsize 'x'")
    one_line(bhyveload("-d", "/nonexistent", "-m", "x", "-x"), 64, "Could not open '/nonexistent'")


def test_bundled_options_and_attached_arguments(disk: Path) -> None:
    report = bhyveload("--batch", "--json", f"-Cd{disk}", "-m64M", "-eone=1", "--", "vm", check=0).json
    assert (report["memory"]["low"], report["environment"]["one"]) == (64 * MIB, "1")


def test_long_forms(disk: Path) -> None:
    words: list[str | Path] = [
        "--disk",
        disk,
        "--memory=64M",
        "--env",
        "one=1",
        "--host",
        disk.parent,
        "--console",
        "stdio",
        "--incore",
    ]
    report = bhyveload("--batch", "--json", *words, "vm", check=0).json
    assert (report["memory"]["low"], report["environment"]["one"]) == (64 * MIB, "1")


# -c


def test_console_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for name in (str(file), str(tmp_path / "absent"), str(tmp_path)):
        one_line(bhyveload("-c", name, "vm"), 64, f"Could not open '{name}'")


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: (our end, the name of the other)."""
    ours, theirs = pty.openpty()
    yield ours, os.ttyname(theirs)
    os.close(theirs)
    os.close(ours)


@contextlib.contextmanager
def killed_at_the_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A failing assertion must not wait for a program that waits."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(fd: int, text: bytes, limit: float = 20) -> bytes:
    """What comes from ``fd`` until ``text`` is in it."""
    seen = b""
    deadline = time.monotonic() + limit
    while text not in seen:
        assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], seen
        more = os.read(fd, 4096)
        assert more, (seen, "and no more")
        seen += more
    return seen


def test_console_device(disk: Path, terminal: tuple[int, str]) -> None:
    """In and out go through the device, standard output stays empty; the last -c wins; stdio does not undo it."""
    ours, name = terminal
    words = [str(PROGRAMS / "bhyveload"), "-c", "/dev/null", "-c", name, "-c", "stdio", "-d", str(disk), "vm"]
    with killed_at_the_end(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)) as process:
        read_until(ours, b"OK ")
        os.write(ours, b"load /boot/kernel/kernel\rboot\r")
        assert process.wait(20) == 0
        assert process.stdout is not None and process.stdout.read() == b""
    assert (vm_path() / "state.json").exists()


# -d


@pytest.mark.parametrize("name", ["absent", ".", "fifo", "/dev/null"])
def test_disk_that_is_none(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = str(tmp_path / name)
    one_line(bhyveload("-d", path, "vm", timeout=10), 64, f"Could not open '{path}'")
    assert not vm_path().exists()


def test_more_disks_than_freebsd_takes(disk: Path, tmp_path: Path) -> None:
    others = [tmp_path / str(number) for number in range(39)]
    words: list[str | Path] = ["-d", disk]
    for other in others:
        other.write_bytes(bytes(1 << 16))
        words += ["-d", other]
    report = load(*words, keys=b" lsdev\rload /boot/kernel/kernel\rboot\r", batch=False)
    assert [entry["path"] for entry in report["disks"]] == [str(disk), *map(str, others)]
    done = bhyveload("-e", "LINES=100", *words, "vm", keys=b"lsdev\rquit\r")
    assert b"    disk39:   Guest drive image" in done.out


def as_plain_user(*words: str | Path) -> Finished:
    """Run without root's privileges, if we are root: files' permissions count, and the limit on locked memory."""
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv is not installed")
        prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-ipc_lock")
    command = [*prefix, *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def without_note(done: Finished) -> list[str]:
    """What was said, but for the note on Debian's makefs, whose superblock FreeBSD's own loader does not find."""
    return [line for line in done.messages.splitlines() if "makefs" not in line]


def test_read_only_disk(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "disk.img"
    shutil.copy(disk, copy)
    copy.chmod(0o444)
    done = as_plain_user(PROGRAMS / "bhyveload", "--batch", "-d", copy, "vm")
    assert done.status == 0, done.messages
    (line,) = without_note(done)
    assert line.startswith(f"bhyveload: {in_ascii(copy)}: opened read-only: ")


def test_a_disk_behind_a_link_and_up(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bhyverun will use is the disk that was read, not another one of that name."""
    (tmp_path / "far" / "folder").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "link").symlink_to("../far/folder")
    for place in ("far", "near"):
        shutil.copy(disk, tmp_path / place / "disk.img")
    monkeypatch.chdir(tmp_path / "near")
    (used,) = load("-d", "link/../disk.img", "-m", "64M")["disks"]
    assert os.path.samefile(used["path"], tmp_path / "far" / "disk.img")


def test_disk_that_may_not_be_read(disk: Path, tmp_path: Path) -> None:
    copy = tmp_path / "disk.img"
    shutil.copy(disk, copy)
    copy.chmod(0o200)
    one_line(as_plain_user(PROGRAMS / "bhyveload", "--batch", "-d", copy, "vm"), 64, f"Could not open '{copy}'")


# -e


def environment_of(disk: Path, *words: str) -> dict[str, Any]:
    variables: dict[str, Any] = load("-d", disk, *words)["environment"]
    return variables


def test_environment(disk: Path) -> None:
    """The first of a name wins, bhyveload's own two can be overridden; no = means a variable without a value."""
    given = ["a=first", "a=second", "boot_serial=NO", "smbios.bios.vendor=Us", "bare", "e=x=y", "empty=", "u=\u00e9"]
    seen = environment_of(disk, *plain_environment(given))
    wanted = {"a": "first", "boot_serial": "NO", "smbios.bios.vendor": "Us", "bare": "", "e": "x=y", "empty": ""}
    assert {name: seen.get(name) for name in wanted} == wanted
    assert seen["u"].encode("latin-1") == "\u00e9".encode()
    defaults = environment_of(disk)
    assert (defaults["boot_serial"], defaults["smbios.bios.vendor"]) == ("1", "BHYVE")


# -h


def test_host_directory_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("absent", "file"):
        one_line(bhyveload("-h", tmp_path / name, "vm"), 71, f"open {tmp_path / name}: ")


def test_booting_from_the_last_host_directory(probe_kernel: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "boot" / "kernel").mkdir(parents=True)
    shutil.copy(probe_kernel, tmp_path / "second" / "boot" / "kernel" / "kernel")
    report = load("-h", tmp_path / "first", "-h", tmp_path / "second")
    assert (report["currdev"], report["partition"], report["disks"]) == ("host0:", None, [])


# -l


def test_loader_objects(tmp_path: Path) -> None:
    one_line(bhyveload("-l", tmp_path / "absent", "vm"), 71, f"{tmp_path / 'absent'}: No such file or directory")
    file = tmp_path / "file"
    file.write_bytes(b"")
    one_line(bhyveload("-l", file, "-l", tmp_path / "absent", "vm"), 64, "-l can only be given once")


# -m


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *((text, 64 * MIB) for text in ("64", "0x40", "0100", "67108864", "64m", "65536K", "64MB", " 64M")),
        *(("1g", GIB), ("3G", 3 * GIB), ("5G", 5 * GIB), ("1T", 1 << 40)),
    ],
)
def test_memory_sizes(disk: Path, text: str, size: int) -> None:
    report = bhyveload("--batch", "--dry-run", "--json", "-d", disk, "-m", "1", "-m", text, check=0).json
    assert report["memory"] == {"low": min(size, 3 * GIB), "high": max(0, size - 3 * GIB)}


def test_memory_is_256_mib_by_default(disk: Path) -> None:
    assert load("-d", disk)["memory"] == {"low": 256 * MIB, "high": 0}
    assert (vm_path() / "memory").stat().st_size == 256 * MIB
    assert (vm_path() / "memory").stat().st_blocks * 512 < 4 * MIB  # sparse


@pytest.mark.parametrize("text", ["", "x", "64X", "-1", "-1M", "64MBx", "17179869184G", "M"])
def test_memory_sizes_that_are_none(text: str) -> None:
    if text == "-1":  # strtoul takes it: a size that cannot be
        one_line(bhyveload("-m", text, "vm"), 1, "vm_setup_memory: ")
    else:
        one_line(bhyveload("-m", text, "vm"), 64, f"Invalid memsize '{text}'")


@pytest.mark.parametrize("text", ["0", "1b", "1000000000001", "99999999999999999999"])
def test_memory_sizes_that_no_vm_can_have(disk: Path, text: str) -> None:
    one_line(bhyveload("-d", disk, "-m", text, "vm"), 1, "vm_setup_memory: ")


def test_memory_sizes_of_13_2(disk: Path) -> None:
    words: list[str | Path] = ["--batch", "--dry-run", "--json", "--compat", "13.2", "-d", disk, "-m", "64Mxyz"]
    assert bhyveload(*words, check=0).json["memory"]["low"] == 64 * MIB


# -S, -C


class AtPrompt:
    """bhyveload waiting at its prompt, its standard input in our hand."""

    def __init__(self, *words: str | Path) -> None:
        # tests may run in the background, where a shell makes programs ignore SIGINT
        heard = ("env", "--default-signal=INT")
        command = [*heard, *map(str, (PROGRAMS / "bhyveload", "-e", "autoboot_delay=NO", *words, "vm"))]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.process.stdout is not None
        read_until(self.process.stdout.fileno(), b"OK ")

    def __enter__(self) -> AtPrompt:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def type(self, keys: bytes) -> int:
        """Type, close standard input and wait for the end."""
        _, self.errors = self.process.communicate(keys, 20)
        return self.process.returncode

    def memory_flags(self) -> set[str]:
        """VmFlags of the mappings of guest memory (proc(5))."""
        flags: set[str] = set()
        guest = False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                guest = str(vm_path()) in line
            elif guest and line.startswith("VmFlags:"):
                flags.update(line.split()[1:])
        return flags

    def status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def test_wired_and_incore(disk: Path) -> None:
    with AtPrompt("-d", disk, "-m", "32M") as plain:
        assert plain.memory_flags() == set()  # not mapped: not in a core dump
        assert plain.status("VmLck") == 0
    with AtPrompt("-C", "-d", disk, "-m", "32M") as incore:
        assert incore.memory_flags() and "dd" not in incore.memory_flags()
        assert int(Path(f"/proc/{incore.process.pid}/coredump_filter").read_text(), 16) & 8
    most = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if os.geteuid() and 0 <= most < 64 * MIB:
        return  # test_memory_that_may_not_be_locked
    with AtPrompt("-S", "-d", disk, "-m", "32M") as wired:
        assert {"lo", "dd"} <= wired.memory_flags()
        assert wired.status("VmLck") >= 32 << 10
        assert wired.type(b"load /boot/kernel/kernel\rboot\r") == 0


def test_memory_that_may_not_be_locked(disk: Path) -> None:
    command = ("prlimit", "--memlock=65536:65536", PROGRAMS / "bhyveload")
    done = as_plain_user(*command, "-S", "--batch", "-d", disk, "vm")
    assert done.status == 1
    (line,) = without_note(done)
    assert line.startswith("bhyveload: vm_setup_memory: Cannot allocate memory") and "ulimit -l" in line


def test_flags_are_kept_for_the_run(disk: Path) -> None:
    import json

    load("-C", "-d", disk)
    flags = json.loads((vm_path() / "state.json").read_text())["flags"]
    assert flags == {"wired": False, "incore": True}


# vmname


@pytest.mark.parametrize(
    ("name", "why"), [("a/b", "Invalid argument"), ("", "Invalid argument"), ("x" * 230, "File name too long")]
)
def test_names_that_no_vm_can_have(disk: Path, name: str, why: str) -> None:
    one_line(bhyveload("--batch", "-d", disk, name), 1, f"vm_create: {why}")


def test_a_vm_in_use(disk: Path) -> None:
    load("-d", disk)
    with AtPrompt("-d", disk):
        done = bhyveload("--batch", "-d", disk, "vm")
        one_line(done, 1, "VM 'vm' is in use by process ")


# Beyond FreeBSD


def test_batch_never_asks(disk: Path) -> None:
    begin = time.monotonic()
    done = bhyveload("--batch", "-d", disk, "vm", keys=b" these keys are nobody's\r", check=0)
    assert time.monotonic() - begin < 8
    assert b"seconds..." not in done.out and b"OK" not in done.out
    assert without_note(done) == []


def test_end_of_input_is_the_end(disk: Path) -> None:
    """Without a terminal the prompt does not wait for ever, nor does it spin."""
    before = os.times()
    done = bhyveload("-e", "autoboot_delay=NO", "-d", disk, "vm", keys=b"")
    after = os.times()
    one_line(done, 1, "end of input at the loader's prompt: nothing was booted")
    assert after.children_user - before.children_user < 5
    assert not vm_path().exists()


def test_a_closed_standard_input(disk: Path) -> None:
    command = f"exec '{PROGRAMS}/bhyveload' -e autoboot_delay=NO -d '{disk}' vm <&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode in (1, 71) and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize(("keys", "status"), [(b" quit\r", 1)])
def test_leaving_the_loader(disk: Path, keys: bytes, status: int) -> None:
    one_line(bhyveload("-d", disk, "vm", keys=keys), status, "the loader ended without starting a guest")
    assert not vm_path().exists()


def test_reboot_starts_the_loader_again(disk: Path) -> None:
    keys = b" set a=b\rreboot\r load /boot/kernel/kernel\rboot\r"
    done = bhyveload("--json", "-d", disk, "vm", keys=keys, check=0)
    assert done.err.count(b"Consoles: userboot") == 2
    assert "a" not in done.json["environment"]
    assert bhyveload("--compat", "13.2", "-d", disk, "vm", keys=keys).status == 2


def test_choices_without_a_menu(disk: Path) -> None:
    report = load(
        "-d", disk, "--single-user", "--verbose-boot", "--loader-command", "set x=1", "--loader-command", "set y=2"
    )
    assert report["howto"] & 0x802 == 0x802
    assert (report["environment"]["x"], report["environment"]["y"]) == ("1", "2")
    done = bhyveload("--batch", "--kernel", "other", "-d", disk, "other")
    assert done.status == 1 and "/boot/other" in done.messages
    done = bhyveload("--batch", "--loader-command", "nonsense", "-d", disk, "other")
    assert done.status == 1 and "nonsense" in done.messages and done.messages.count("\n") == 1


def test_dry_run_makes_nothing(disk: Path) -> None:
    before = disk.read_bytes()
    done = bhyveload("--batch", "--dry-run", "-e", "a=b", "-d", disk, check=0)
    text = done.out.decode()
    assert text.startswith("from disk0p2: (ufs), scripts: ")
    assert "0x200000 +0x" in text and "/boot/kernel/kernel (elf kernel)" in text and "\na=b\n" in text
    assert not Path(os.environ["BHYVE_VMM_DIR"]).exists() or not list(Path(os.environ["BHYVE_VMM_DIR"]).iterdir())
    assert disk.read_bytes() == before


def test_list_variables(disk: Path) -> None:
    done = bhyveload("--batch", "--list-variables", "-e", "a=\x1b[31m", "-d", disk, "vm", check=0)
    lines = done.out.decode().splitlines()
    assert lines == sorted(lines) and "a=\\x1b[31m" in lines and "kernelname=/boot/kernel/kernel" in lines


@pytest.mark.parametrize("text", ["0", "-1", "x", "inf", "nan", "1e10"])
def test_time_limits_that_are_none(text: str) -> None:
    one_line(bhyveload("--timeout", text, "vm"), 64, f"--timeout wants a number of seconds, not '{text}'")


def test_time_limit(disk: Path) -> None:
    words = [str(PROGRAMS / "bhyveload"), "--timeout", "0.5", "-e", "autoboot_delay=NO", "-d", str(disk), "vm"]
    pipe = subprocess.PIPE
    with killed_at_the_end(subprocess.Popen(words, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe)) as process:
        assert process.stderr is not None
        assert process.wait(20) == 70
        assert process.stderr.read().startswith(b"bhyveload: the loader did not finish in 0.5 seconds")
    assert not vm_path().exists()


def test_unknown_compat() -> None:
    one_line(bhyveload("--compat", "9", "vm"), 64, "--compat knows 13.2 and current, not '9'")


def test_the_report_is_what_state_json_keeps(disk: Path) -> None:
    import json

    report = load("-d", disk)
    state = json.loads((vm_path() / "state.json").read_text())
    kept = {**state["loaded"], "vcpu": state["vcpus"][0], "memory": state["memory"]}
    assert kept == report
    assert report["schema"] == 1
    assert report["partition"] == {"disk": "disk0", "scheme": "gpt", "start": MIB, "size": 8 * MIB}
    assert {"devices", "scripts", "boot", "loader", "total"} <= set(report["timings"])
    assert sum(report["timings"][stage] for stage in ("devices", "scripts", "boot")) <= report["timings"]["loader"]


def test_documented_members_of_the_report(disk: Path) -> None:
    """docs/report-json.md and the report name the same members."""
    text = (ROOT / "docs" / "report-json.md").read_text()
    documented = set()
    for line in text.splitlines():
        if line.startswith("| `"):
            documented |= set(re.findall(r"`(\w+)`", line.split("|")[1]))
    assert documented == set(load("-d", disk))


# Signals


@pytest.mark.parametrize(("number", "status"), [(number, 128 + number) for number in (1, 2, 3, 10, 12, 14, 15)])
def test_signals(disk: Path, number: int, status: int) -> None:
    load("-d", disk)
    state = (vm_path() / "state.json").read_bytes()
    with AtPrompt("-d", disk) as loader:
        loader.process.send_signal(number)
        assert loader.process.wait(20) == status
    assert (vm_path() / "state.json").read_bytes() == state


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_no_process_is_left(disk: Path) -> None:
    with AtPrompt("-d", disk) as loader:
        (child,) = children_of(loader.process.pid)
        loader.process.terminate()
        loader.process.wait(20)
        assert not Path(f"/proc/{child}").exists()


def test_a_loader_that_is_killed(disk: Path) -> None:
    load("-d", disk)
    with AtPrompt("-d", disk) as loader:
        (child,) = children_of(loader.process.pid)
        os.kill(child, signal.SIGKILL)
        assert loader.type(b"") == 70
        assert loader.errors.startswith(b"bhyveload: the loader died by SIGKILL")
    assert (vm_path() / "state.json").exists()


@pytest.mark.parametrize("option", ["--dry-run", "--list-boot-envs", "--cross-check", ""])
@pytest.mark.parametrize("first", [True, False])
def test_who_only_looks_opens_disks_for_reading(
    option: str, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Wherever the option stands.  What a load would do to a disk that can be written is seen all the same."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    modes = []
    real = os.open

    def watched(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if path == str(disk):
            modes.append(flags & os.O_ACCMODE)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    words = [option] if option else []
    words = [*words, "-d", str(disk), "--batch"] if first else ["-d", str(disk), "--batch", *words]
    monkeypatch.setattr(sys, "argv", ["bhyveload", *words, "vm"])
    importlib.import_module("bhyveload.cli.bhyveload").main()
    assert modes and set(modes) == {os.O_RDONLY if option else os.O_RDWR}
    assert "opened read-only" not in capfd.readouterr().err


# Command lines as people and programs write them


@pytest.fixture
def null_modems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    place = tmp_path / "nmdm"
    monkeypatch.setenv("BHYVE_NMDM_DIR", str(place))
    yield
    for lock in place.glob("*.lock"):
        os.kill(int(lock.read_text()), signal.SIGTERM)


MEMORY = {"1G": GIB, "256MB": 256 * MIB, "512M": 512 * MIB, "214": 214 * MIB, "256M": 256 * MIB, "4096m": 4 * GIB}
MEMORY |= {"600M": 600 * MIB, "512": 512 * MIB}


@pytest.mark.usefixtures("null_modems")
@pytest.mark.parametrize("name", LOADS)
def test_real_lines(name: str, disk: Path, probe_kernel: Path, tmp_path: Path) -> None:
    """Each loads the guest, once its disks and folders are there."""
    kernel = tmp_path / "folder/boot/kernel/kernel"
    kernel.parent.mkdir(parents=True)
    shutil.copy(probe_kernel, kernel)
    words = LOADS[name].words
    if "-S" in words:
        require_locked_memory(MEMORY[words[words.index("-m") + 1]])
    empty = tmp_path / "second"
    empty.write_bytes(bytes(1 << 20))
    here = {"-d": [disk, empty], "-h": [tmp_path / "folder"]}
    changed = [
        str(here[before].pop(0)) if before in here else word for before, word in zip(["", *words], words, strict=False)
    ]
    done = bhyveload("--batch", "--json", *changed, check=0)
    assert done.json["files"][0]["name"] == "/boot/kernel/kernel"
    memory = done.json["memory"]
    assert memory["low"] + memory["high"] == MEMORY[words[words.index("-m") + 1]]
    assert (vm_path(words[-1]) / "state.json").exists()
