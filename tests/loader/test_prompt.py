"""The prompt: line editing, paging, expansion, the countdown, and commands' words (docs/errata.md,
"Console", "Texts").  Replayed recordings are in test_probes.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhyveload.loader.commands.boot import console_flags
from support import harness
from support.lua_runs import run_scripts

TEXT = "".join(f"line {number}\n" for number in range(1, 61))


def at_prompt(folder: Path, keys: bytes, script: str = "", current: bool = True, **files: str | bytes) -> list[str]:
    """Lines after the introduction, the first with the prompt's first line."""
    outcome = prompt(folder, keys, script, current, **files)
    text = outcome.console.decode("latin-1")
    for twiddle in ("|\b", "/\b", "-\b", "\\\b"):
        text = text.replace(twiddle, "")
    return text.split("for more detailed help.\r\n", 1)[1].split("\r\n")


def prompt(folder: Path, keys: bytes, script: str = "", current: bool = True, **files: str | bytes) -> harness.Outcome:
    tree = {f"boot/{name}": data for name, data in files.items()}
    return run_scripts(folder, script, keys, current=current, files=tree)


@pytest.mark.parametrize(
    ("typed", "shown", "result"),
    [
        (b"echo abc\n", "echo abc", "abc"),
        (b"echo abc\r", "echo abc", "abc"),
        (b"echo abx\x08c\n", "echo abx\b \bc", "abc"),
        (b"echo abx\x7fc\n", "echo abx\b \bc", "abc"),
        (b"\x08\x7fecho a\n", "echo a", "a"),
        (b"echo a\x89b\n", "echo a\x89b", "a\x89b"),
        (b"echo a\x8a", "echo a", "a"),
        (b"echo a\x8d", "echo a", "a"),
        (b"echo ax\x88b\n", "echo ax\b \bb", "ab"),
        (b"echo \xc3\xa9\xb3\n", "echo \xc3\xa9\xb3", "\xc3\xa9\xb3"),
        (b"echo\ta\x01b\n", "echo\ta\x01b", "a\x01b"),
    ],
)
def test_editing(tmp_path: Path, typed: bytes, shown: str, result: str) -> None:
    lines = at_prompt(tmp_path, typed + b"quit\n")
    assert lines[:3] == [f"OK {shown}", result, "OK quit"]


@pytest.mark.parametrize("key", [b"\x15", b"\x17", b"\x95", b"\x97"])
def test_killing_the_line(tmp_path: Path, key: bytes) -> None:
    assert at_prompt(tmp_path, b"nonsense" + key + b"echo b\nquit\n")[:3] == ["OK nonsense", "echo b", "b"]


@pytest.mark.parametrize("key", [b"\x12", b"\x92"])
def test_showing_the_line_again(tmp_path: Path, key: bytes) -> None:
    assert at_prompt(tmp_path, b"echo a" + key + b"b\nquit\n")[:3] == ["OK echo a", "echo ab", "ab"]


def test_a_line_has_255_characters(tmp_path: Path) -> None:
    lines = at_prompt(tmp_path, b"echo " + b"x" * 300 + b"\x08y\nquit\n")
    assert lines[0] == "OK echo " + "x" * 250 + "\b \by"
    assert lines[1] == "x" * 249 + "y"


@pytest.mark.parametrize(
    ("prompt_value", "shown"),
    [
        ("${interpret}", "OK echo"),
        ("a${x}b${x}", "a1b1 echo"),
        ("", " echo"),
        ("$x $(x)", "$x $(x) echo"),
        ("${nope}", " echo"),
        ("${un", " echo"),
    ],
)
def test_expansion(tmp_path: Path, prompt_value: str, shown: str) -> None:
    script = f"loader.setenv('x', '1') loader.setenv('prompt', '{prompt_value}')\n"
    assert at_prompt(tmp_path, b"echo\nquit\n", script)[0] == shown


def test_without_a_prompt(tmp_path: Path) -> None:
    assert at_prompt(tmp_path, b"unset prompt\necho\nquit\n")[1:3] == ["> echo", ""]


MORE = " --more--  <space> page down <enter> line down <q> quit "
WIPED = "\r" + " " * 56 + "\r"


def test_paging(tmp_path: Path) -> None:
    lines = at_prompt(tmp_path, b"more /boot/text\nx \r\n \nquit\n", text=TEXT)
    assert lines[1] == "*** FILE /boot/text BEGIN ***"
    assert lines[2:24] == [f"line {number}" for number in range(1, 23)]
    assert lines[24] == MORE + WIPED + "line 23"  # a key that means nothing, then a page of 23
    assert lines[47] == MORE + WIPED + "line 46"  # Enter: one line
    assert lines[48] == MORE + WIPED + "line 47"  # line feed too
    assert lines[49] == MORE + WIPED + "line 48"
    assert lines[62:64] == ["*** FILE /boot/text END ***", "OK "]


def test_leaving_the_pager(tmp_path: Path) -> None:
    for key in (b"q", b"Q"):
        lines = at_prompt(tmp_path, b"more /boot/text /boot/text\n" + key + b"echo x\nquit\n", text=TEXT)
        assert lines[24:26] == [MORE + WIPED + "OK echo x", "x"]


@pytest.mark.parametrize(("lines_value", "page"), [("10", 9), ("2", 1), ("1", 1), ("0", 1), ("x", 1), ("0x10", 15)])
def test_pages_follow_lines(tmp_path: Path, lines_value: str, page: int) -> None:
    lines = at_prompt(tmp_path, f"set LINES={lines_value}\nmore /boot/text\nqquit\n".encode(), text=TEXT)
    assert next(index for index, line in enumerate(lines[2:]) if line.startswith(MORE)) == page


def test_banner_lines_of_long_names(tmp_path: Path) -> None:
    name = "n" * 90
    lines = at_prompt(tmp_path, f"more /boot/{name}\nquit\n".encode(), "", True, **{name: "text\n"})
    assert lines[1].startswith("*** FILE /boot/nnn") and lines[1].endswith("text")
    assert lines[1].index("text") == 79


# Commands


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("nosuch a b", ["unknown command"]),
        ("set", ["wrong number of arguments"]),
        ("set a b", ["wrong number of arguments"]),
        ("unset", ["wrong number of arguments"]),
        ("unset nope", ["no such file or directory"]),
        ("unset currdev", ["operation not permitted"]),
        ("set loaddev=disk0:", ["operation not permitted"]),
        ("set currdev=nosuch:", ["no such file or directory"]),
        ("set currdev=disk:", ["invalid argument"]),
        ("set currdev=diskx:", ["bad unit number"]),
        ("set currdev=disk0s:", ["bad slice number"]),
        ("set currdev=zfs:x:", ["device not configured"]),
        ("set module_verbose=x", ["invalid module_verbose 'x'", "no such file or directory"]),
        ("set twiddle_divisor=", ["invalid twiddle_divisor ''", "no such file or directory"]),
        ("show nope", ["variable 'nope' not found"]),
        ("echo -x", ["illegal option -- x"]),
        ("echo -n", []),
        ("echo -- -n", ["-n"]),
        ("echo -n -n a", None),
        ("read -t", ["option requires an argument -- t"]),
        ("read -t x", ["bad timeout 'x'"]),
        ("lsdev -x", ["illegal option -- x"]),
        ("load", ["no filename specified"]),
        ("load nope", ["can't find 'nope'"]),
        ("load -t x", ["invalid load type"]),
        ("load -t x a b", ["invalid load type"]),
        ("load /boot/loader", ["don't know how to load module '/boot/loader'"]),
        ("boot nope", ["can't find 'nope'"]),
        ("boot", ["can't load 'kernel'", "no bootable kernel"]),
        ("autoboot x", ["bad delay 'x'"]),
        ("autoboot 1 2 3", ["too many arguments"]),
        ("autoboot 5", ["can't load 'kernel'", "no valid kernel found"]),
        ("ls /nope", ["open '/nope' failed: no such file or directory"]),
        ("ls nosuch:/", ["bad path 'nosuch:/'"]),
        ("ls /boot/loader", ["    /boot/loader"]),
        ("ls -l /boot/loader", ["         17 /boot/loader"]),
        ("ls /boot/lua", ["/boot/lua", "    loader.lua"]),
        ("help", ["Verbose help not available, use '?' to list commands"]),
        ("readtest", ["Usage: readtest <filename>"]),
        ("readtest /nope", ["can't open '/nope'"]),
        ("readtest /boot/loader", ["Received 17 bytes during 0 seconds"]),
        ("include /nope", ["no error message"]),
        ("more /nope", ["*** FILE /nope BEGIN ***", "can't open '/nope': no such file or directory"]),
        ("bcachestat x", ["wrong number of arguments"]),
        ("map-vdisk", ["usage: map-vdisk filename", "no error message"]),
        ("map-vdisk /nope", ["map-vdisk: stat failed: no such file or directory", "no error message"]),
        ("map-vdisk /boot/loader", ["map-vdisk: file /boot/loader is too small.", "no error message"]),
        ("unmap-vdisk", ["usage: unmap-vdisk vdiskN", "no error message"]),
        ("unmap-vdisk vdisk0", ["unmap-vdisk: unknown device vdisk0", "no error message"]),
        ("lszfs", ["a single dataset must be supplied"]),
        ("lszfs a", ["device not configured"]),
        ("reloadbe a b", ["wrong number of arguments"]),
        ("reloadbe x", ["invalid argument"]),
        ("load_geli", ["usage is [-n key#] <prov> <file>"]),
        ("pnpmatch", ["Usage: pnpmatch <busname> compat=<compatdata>"]),
        ("pnpautoload pci", ["Unsupported bus pci"]),
        ("echo 'open", ["fail at line 177", "Failed to parse 'echo 'open'"]),
        ("lsmod", []),
        ("unload", []),
        ("print('lua')", ["lua"]),
        ("-- a comment", []),
        ("# no comment", ["unknown command"]),
    ],
)
def test_what_commands_say(tmp_path: Path, line: str, answers: list[str] | None) -> None:
    lines = at_prompt(tmp_path, line.encode() + b"\necho end\nquit\n")
    assert lines[0] == f"OK {line}"
    if answers is None:
        assert lines[1] == "aOK echo end"
    elif line == "echo -n":
        assert lines[1] == "OK echo end"
    else:
        assert lines[1 : lines.index("OK echo end")] == answers


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_the_list_of_commands(tmp_path: Path, current: bool) -> None:
    width = 20 if current else 15
    lines = at_prompt(tmp_path, b"set LINES=100\n?\nquit\n", current=current)
    assert lines[2] == "Available commands:"
    listed = lines[3 : lines.index("OK quit")]
    assert all(line[:2] == "  " and line[2 + width : 4 + width] == "  " for line in listed)
    wanted = """
        bcachestat quit reboot boot autoboot help ? show set unset echo read more lsdev readtest quit include ls load
        load_geli unload lsmod pnpmatch pnpload pnpautoload nvstore map-vdisk unmap-vdisk lszfs reloadbe
    """
    assert [line.split()[0] for line in listed] == wanted.split()


def test_consoles(tmp_path: Path) -> None:
    keys = b"set console=nosuch\nset console=vidconsole,userboot\nshow console\nquit\n"
    new = at_prompt(tmp_path, keys)
    assert new[1:5] == ["console nosuch is unavailable", "no valid consoles!", "Available consoles:", "    userboot"]
    assert "console vidconsole is unavailable" in new
    assert new.count("Available consoles:") == 1  # not where one was found
    old = at_prompt(tmp_path, keys, current=False)
    assert "console vidconsole is invalid!" in old and old.count("Available consoles:") == 2
    assert new[new.index("OK show console") + 1] == "vidconsole,userboot"


@pytest.mark.parametrize(
    ("value", "current", "listed"), [("", True, 0), (" ,", True, 0), ("", False, 1), ("x", True, 1)]
)
def test_a_console_list_without_words(tmp_path: Path, value: str, current: bool, listed: int) -> None:
    """The loader of 2026 lists the consoles only when it refused one."""
    shown = at_prompt(tmp_path, f'set console="{value}"\nquit\n'.encode(), current=current)
    assert shown.count("no valid consoles!") == 1
    assert shown.count("Available consoles:") == listed


def test_two_consoles_say_everything_twice(tmp_path: Path) -> None:
    outcome = prompt(tmp_path, b"set console=userboot,comconsole\necho ab\nquit\n")
    assert b"aabb\r\r\n\n" in outcome.console


def test_reading(tmp_path: Path) -> None:
    keys = b"read -p question> x\nan swer\nshow x\nread -t 0 y\nshow y\nread\nlost\nquit\n"
    lines = at_prompt(tmp_path, keys)
    assert lines[1] == "question>an swer" and lines[3] == "an swer"
    assert "OK lost" not in lines


# The countdown


def count_down(folder: Path, keys: bytes, environment: tuple[bytes, ...], kernel: bytes) -> harness.Outcome:
    return run_scripts(folder, "", keys, environment=environment, quiet="", files={"boot/kernel/kernel": kernel})


def test_the_countdown(tmp_path: Path) -> None:
    import stock_like

    kernel = stock_like.tiny_kernel()
    hit = b"Hit [Enter] to boot immediately, or any other key for command prompt.\r\n"
    outcome = count_down(tmp_path, b"", (b"autoboot_delay=2",), kernel)
    assert outcome.end == "exec"
    assert outcome.console.endswith(
        hit + b"\rBooting [/boot/kernel/kernel] in 2 seconds... \rBooting [/boot/kernel/kernel] in 1 second... "
        b"\rBooting [/boot/kernel/kernel]...               \r\n"
    )
    outcome = count_down(tmp_path, b"\r", (b"autoboot_delay=9",), kernel)
    assert outcome.end == "exec" and b"in 9 seconds" not in outcome.console
    outcome = count_down(tmp_path, b"xquit\n", (b"autoboot_delay=9",), kernel)
    assert outcome.end == "exit" and outcome.console.count(b"OK quit") == 1
    outcome = count_down(tmp_path, b"", (b"autoboot_delay=-1",), kernel)
    assert outcome.end == "exec" and hit not in outcome.console
    outcome = count_down(tmp_path, b"quit\n", (b"autoboot_delay=no",), kernel)
    assert outcome.end == "exit" and b"Booting" not in outcome.console


SERIAL, MULTIPLE, MUTE = 0x1000, 0x20000000, 0x10000


@pytest.mark.parametrize(
    ("consoles", "flags"),
    [
        ("userboot", SERIAL),
        ("vidconsole", MULTIPLE),
        ("vidconsole,comconsole", MULTIPLE),
        ("vidconsole comconsole", MULTIPLE),
        ("vidconsole,", MULTIPLE),
        (",vidconsole", SERIAL | MULTIPLE),
        ("comconsole,vidconsole", SERIAL | MULTIPLE),
        ("vidconsolex,vidconsole", SERIAL | MULTIPLE),
        ("nullconsole", SERIAL | MUTE),
        ("", SERIAL),
    ],
)
def test_what_the_consoles_tell_the_kernel(consoles: str, flags: int) -> None:
    """bi_getboothowto of stand/userboot/userboot/bootinfo.c, boot_serial=1 being set."""
    assert console_flags(consoles, SERIAL) == flags
