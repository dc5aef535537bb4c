"""bhyveload -l and --loader-dir as people run them: the program, its console, its messages, the VM it leaves."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.userboot_testing import build

ENTRY = 0xFFFFFFFF80200120


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of loaders: userboot.so does what do= says, userboot_4th.so boots, userboot_lua.so swaps to 4th."""
    folder = tmp_path_factory.mktemp("loaders")
    (folder / "userboot.so").write_bytes(build(folder, "-Wl,-Bsymbolic", name="a.o"))
    (folder / "userboot_4th.so").write_bytes(build(folder, '-DDO="boot"', name="b.o"))
    (folder / "userboot_lua.so").write_bytes(build(folder, '-DDO="swap:4th"', name="c.o"))
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def bhyveload(*words: object, keys: bytes = b"", seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "bhyveload.cli.bhyveload", *map(str, words)]
    return subprocess.run(command, input=keys, capture_output=True, timeout=seconds, check=False)


def state(vmm_directory: Path, name: str = "vm") -> dict[str, object]:
    loaded: dict[str, object] = json.loads((vmm_directory / name / "state.json").read_text())
    return loaded


def test_a_load_is_kept(loaders: Path, vmm_directory: Path) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=boot", "-m", "64M", "vm")
    assert result.returncode == 0
    kept = state(vmm_directory)
    assert kept["vcpus"][0]["registers"]["rip"] == ENTRY  # type: ignore[index]
    assert kept["vcpus"][0]["descriptors"]["gdtr"] == {"base": 0x5000, "limit": 23, "access": 0}  # type: ignore[index]
    assert kept["loaded"]["loader"] == str(loaders / "userboot.so")  # type: ignore[index]
    assert kept["loaded"]["calls"][-1] == f"exec rip={ENTRY:#x}"  # type: ignore[index]


def test_the_console_is_the_loaders(loaders: Path, vmm_directory: Path) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=chat", "vm", keys=b"hello\x80\n")
    assert result.returncode == 0
    assert result.stdout == b"OK hello\x80\r\n"


def test_a_write_does_not_start_the_loader_again(loaders: Path, vmm_directory: Path, disk: Path) -> None:
    """What was typed is typed once: a run at a prompt has what a write may need from the start."""
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=chat", "-d", disk, "vm", keys=b"hello\n")
    assert result.stderr == b""
    assert (result.returncode, result.stdout) == (0, b"OK hello\r\n")
    assert disk.read_bytes()[:2] == b"k\0"


def test_a_console_on_a_device(loaders: Path, vmm_directory: Path) -> None:
    """-c: keys that come late, silence that is not the end of input, and a device whose other side goes away."""
    words = [sys.executable, "-m", "bhyveload.cli.bhyveload", "-l", str(loaders / "userboot.so"), "-e", "do=chat"]
    for hang_up in (False, True):
        master, slave = pty.openpty()
        command = [*words, "-c", os.ttyname(slave), "vm"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = b""
        while len(said) < 3:
            said += os.read(master, 10)
        assert said == b"OK "
        time.sleep(0.2)
        assert process.poll() is None
        os.close(slave)
        if hang_up:
            os.close(master)
        else:
            os.write(master, b"late\r")
        message = process.communicate(timeout=30)[1]
        assert process.returncode == (1 if hang_up else 0)
        assert (b"end of input" in message) == hang_up
        if not hang_up:
            assert os.read(master, 10).startswith(b"late")
            os.close(master)


@pytest.mark.parametrize("options", [("--json",), ("--dry-run",), ("--json", "--dry-run"), ("--list-variables",)])
def test_reports(loaders: Path, vmm_directory: Path, options: tuple[str, ...]) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=chat", *options, "vm", keys=b"\n")
    assert result.returncode == 0
    assert result.stderr.startswith(b"OK \r\n"), "standard output is the report's"
    if "--json" in options:
        report = json.loads(result.stdout)
        assert (report["loader"], report["entry"]) == (str(loaders / "userboot.so"), ENTRY)
    elif "--dry-run" in options:
        assert f"entry {ENTRY:#x}".encode() in result.stdout
    assert (vmm_directory / "vm").exists() == ("--dry-run" not in options)


@pytest.mark.parametrize(
    ("do", "status", "message"),
    [
        ("quit", 1, "the loader ended without starting a guest"),
        ("return", 1, "the loader ended without starting a guest"),
        ("exit7", 7, "the loader ended without starting a guest"),
        ("segv", 70, "the loader died by SIGSEGV (nothing was loaded)"),
        ("illegal", 70, "the loader died by SIGILL (nothing was loaded)"),
        ("swap:4th", 1, "requested loader interpreter does not match guest userboot"),
        ("swap:\x1b[2J", 1, "requested loader interpreter does not match guest userboot"),
        ("swapnull", 1, "guest failed to request an interpreter"),
        ("reboot", 1, "the guest restarted its loader 50 times"),
        ("getc", 1, "end of input at the loader's prompt: nothing was booted"),
    ],
)
def test_one_line_and_the_right_status(loaders: Path, vmm_directory: Path, do: str, status: int, message: str) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", f"do={do}", "vm")
    assert result.returncode == status
    lines = result.stderr.decode("ascii").splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"bhyveload.py: {message}")
    assert lines[0].isprintable()
    assert not (vmm_directory / "vm" / "state.json").exists()


@pytest.mark.parametrize("do", ["open-passwd", "new-program", "kill-parent"])
def test_an_object_runs_confined(loaders: Path, vmm_directory: Path, do: str) -> None:
    """Mapped first, then shut in: system calls of its own fail (50), or end it."""
    words = ("-l", loaders / "userboot.so", "-e", f"do={do}", "vm")
    if bhyveload("--require-sandbox", *words[:-3], "-e", "do=return", "vm").returncode == 77:
        pytest.skip("this host cannot confine a loader wholly")
    result = bhyveload(*words)
    assert result.returncode in (50, 70)
    if result.returncode == 70:
        assert result.stderr.startswith(b"bhyveload.py: the loader died by SIGSYS: ")
    if do != "kill-parent":
        assert bhyveload("--no-sandbox", *words).returncode == 51, "it could do it otherwise"


@pytest.mark.parametrize("do", ["loop", "spin", "partial"])
def test_time_is_limited(loaders: Path, vmm_directory: Path, do: str) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", f"do={do}", "--timeout", "0.5", "vm")
    assert result.returncode == 70
    assert b"the loader did not finish in 0.5 seconds" in result.stderr
    assert result.stdout == (b"no newline" if do == "partial" else b""), "what was said before is heard"
    assert not (vmm_directory / "vm" / "state.json").exists()


def test_time_is_limited_for_all_restarts_together(loaders: Path, vmm_directory: Path) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=wait-and-reboot", "--timeout", "0.7", "vm", seconds=20)
    assert result.returncode == 70
    assert b"the loader did not finish in 0.7 seconds" in result.stderr
    assert 2 <= result.stdout.count(b"again") <= 7


def test_an_object_that_closes_everything_is_ended(loaders: Path, vmm_directory: Path) -> None:
    """It cannot make the parent wait for ever by closing the pipe of its report."""
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=close-all", "vm", seconds=20)
    assert result.returncode == 70
    assert b"the loader died by SIGKILL" in result.stderr


def test_what_was_said_before_a_crash_is_heard(loaders: Path, vmm_directory: Path) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=say-and-crash", "vm")
    assert (result.stdout, result.returncode) == (b"about to crash\n", 70)


def test_reboot_starts_the_loader_again(loaders: Path, vmm_directory: Path, disk: Path) -> None:
    result = bhyveload("-l", loaders / "userboot.so", "-e", "do=reboot-once", "-d", disk, "vm")
    assert (result.stdout, result.returncode) == (b"again\nnow\n", 0)
    assert disk.read_bytes()[0] == 1


def test_reboot_was_an_exit_status_before_2024(loaders: Path, vmm_directory: Path, disk: Path) -> None:
    words = ("-l", loaders / "userboot.so", "-e", "do=reboot-once", "-d", disk, "--compat", "13.2", "vm")
    assert bhyveload(*words).returncode == 2


@pytest.mark.parametrize("do", ["swap:4th", "swap:lua"])
def test_a_swap_finds_its_loader(loaders: Path, vmm_directory: Path, do: str) -> None:
    """lua's asks for 4th's in its turn."""
    result = bhyveload("--loader-dir", loaders, "-e", f"do={do}", "vm")
    assert result.returncode == 0, result.stderr
    assert state(vmm_directory)["loaded"]["loader"] == str(loaders / "userboot_4th.so")  # type: ignore[index]


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("swap:nix", "the guest's boot scripts are for the 'nix' loader, which is not built in"),
        ("swap:../userboot_4th", "the guest asks for a loader interpreter with an impossible name: '../userboot_4th'"),
        ("swap:" + 70 * "x", "the guest asks for a loader interpreter with an impossible name"),
        ("swapnull", "guest failed to request an interpreter"),
    ],
)
def test_names_of_the_guest_stay_in_the_directory(loaders: Path, vmm_directory: Path, do: str, message: str) -> None:
    result = bhyveload("--loader-dir", loaders, "-e", f"do={do}", "vm")
    assert result.returncode == 1
    assert result.stderr.decode("ascii").startswith(f"bhyveload.py: {message}")


def test_a_forth_guest_gets_freebsds_loader(loaders: Path, vmm_directory: Path, tmp_path: Path) -> None:
    """The built-in loader sees a /boot/loader without the mark of another interpreter: 4th's."""
    (tmp_path / "host" / "boot").mkdir(parents=True)
    (tmp_path / "host" / "boot" / "loader").write_bytes(b"a loader of old")
    folder = tmp_path / "only 4th"
    folder.mkdir()
    (folder / "userboot_4th.so").write_bytes((loaders / "userboot_4th.so").read_bytes())
    result = bhyveload("--loader-dir", folder, "-h", tmp_path / "host", "-e", "do=", "vm")
    assert result.returncode == 0, result.stderr
    assert b"BSD/amd64 User boot lua" in result.stdout, "the built-in loader began"
    assert state(vmm_directory)["loaded"]["loader"] == str(folder / "userboot_4th.so")  # type: ignore[index]


def test_a_directory_without_userboot_begins_with_the_built_in(tmp_path: Path, vmm_directory: Path) -> None:
    result = bhyveload("--loader-dir", tmp_path, "vm", keys=b"quit\n")
    assert b"User boot lua" in result.stdout
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("-l", "{}/absent.so", "vm"), 71, "{}/absent.so: No such file or directory"),
        (("-l", "{}", "vm"), 66, "{}: not a regular file"),
        (("-l", "{}/fifo", "vm"), 66, "{}/fifo: not a regular file"),
        (("-l", "{}/text", "vm"), 71, "{}/text: loader object: not an ELF file (give FreeBSD's own"),
        (("-l", "{}/text", "-l", "{}/text", "vm"), 64, "-l can only be given once"),
        (("--loader-dir", "{}/absent", "vm"), 71, "{}/absent: No such file or directory"),
        (("--loader-dir", "{}/text", "vm"), 71, "{}/text: Not a directory"),
        (("-l", "{}/text", "--kernel", "x", "vm"), 64, "--kernel works with the built-in loader only"),
        (("-l", "{}/text", "--boot-env", "x", "vm"), 64, "--boot-env works with the built-in loader only"),
        (("-l", "{}/text", "--loader-command", "x", "vm"), 64, "--loader-command works with the built-in loader only"),
    ],
)
def test_refusals(vmm_directory: Path, tmp_path: Path, words: tuple[str, ...], status: int, message: str) -> None:
    (tmp_path / "text").write_text("no ELF file")
    os.mkfifo(tmp_path / "fifo")
    result = bhyveload(*(word.format(tmp_path) for word in words))
    assert result.returncode == status
    assert result.stderr.decode().startswith("bhyveload.py: " + message.format(tmp_path))
    assert result.stderr.count(b"\n") == 1
    assert not (vmm_directory / "vm" / "state.json").exists()


def test_batch_boots_at_a_prompt(loaders: Path, vmm_directory: Path, tmp_path: Path) -> None:
    """The keys are there, and nobody reads them; the variables that spare the menu are the lowest in rank."""
    result = bhyveload("--batch", "-l", loaders / "userboot.so", "-e", "do=chat", "vm", keys=b"typed\n")
    assert (result.returncode, result.stdout) == (0, b"OK boot\r\n")
    result = bhyveload("--batch", "-l", loaders / "userboot.so", "-e", "do=getc:for ever", "vm", keys=b"typed\n")
    assert result.returncode == 1
    assert b"end of input at the loader's prompt" in result.stderr
    show = tmp_path / "show.so"
    show.write_bytes(build(tmp_path, '-DDO="variables"'))
    words = ("--batch", "--single-user", "--verbose-boot", "-l", show, "-e", "boot_verbose=NO", "-e", "do=", "vm")
    assert bhyveload(*words).stdout.decode().split("\n")[:-1] == [
        "boot_serial=1",
        "smbios.bios.vendor=BHYVE",
        "boot_verbose=YES",
        "boot_single=YES",
        "beastie_disable=YES",
        "autoboot_delay=-1",
        "do=",
        "boot_verbose=NO",
    ]


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, *words: object) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bhyveload.cli.bhyveload", *map(str, words)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(slave), os.O_RDWR)),  # noqa: PLW1509 - make it the terminal
        )
        self.said = b""

    def wait_for(self, text: bytes, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, self.said
            if select.select([self.master], [], [], left)[0]:
                self.said += os.read(self.master, 4096)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        return self.process.wait(timeout=30)

    def restored(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self.master)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize(
    ("do", "waits_for", "keys", "status"),
    [
        ("chat", b"OK ", b"abc\r", 0),
        ("chat", b"OK ", b"\x03", 130),
        ("partial", b"no newline", b"\x03", 130),
        ("say-and-loop", b"about to loop", b"\x03", 130),
        ("say-and-crash", b"about to crash", b"", 70),
        ("quit", b"", b"", 1),
    ],
)
def test_the_terminal_is_as_before(
    loaders: Path,
    vmm_directory: Path,
    terminals: list[Terminal],
    do: str,
    waits_for: bytes,
    keys: bytes,
    status: int,
) -> None:
    terminal = Terminal("-l", loaders / "userboot.so", "-e", f"do={do}", "vm")
    terminals.append(terminal)
    terminal.wait_for(waits_for)
    if keys:
        assert not terminal.restored(), "raw while the loader has it"
        terminal.type(keys)
    assert terminal.end() == status
    assert terminal.restored()
    assert (vmm_directory / "vm" / "state.json").exists() == (status == 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_endless_loop_ends_with_a_signal(
    loaders: Path, vmm_directory: Path, terminals: list[Terminal], number: int
) -> None:
    terminal = Terminal("-l", loaders / "userboot.so", "-e", "do=say-and-loop", "vm")
    terminals.append(terminal)
    terminal.wait_for(b"about to loop")
    os.kill(terminal.process.pid, number)
    assert terminal.end() == 128 + number
    assert terminal.restored()
    assert not (vmm_directory / "vm" / "state.json").exists()
