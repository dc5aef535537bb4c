"""Whose scripts a guest has: the marker in /boot/loader, changes of interpreter, restarts; the simple interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest

import stock_like
from bhyveload.errors import LoaderError
from bhyveload.host.directory import open_host_directory
from support import harness
from support.end_to_end import bhyveload
from support.images import make_ufs, standard_disk
from support.lua_runs import said

KERNEL = {"boot/kernel/kernel": stock_like.tiny_kernel()}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in {**KERNEL, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def run(
    folder: Path, files: dict[str, str | bytes], keys: bytes = b"", *, current: bool = True, interpreter: str = "lua"
) -> harness.Outcome:
    directory = open_host_directory(str(write(folder, files)))
    return harness.run([], keys, current=current, interpreter=interpreter, host_directory=directory)


def disk(folder: Path, files: dict[str, str | bytes]) -> Path:
    write(folder / "tree", files)
    return standard_disk(folder / "disk", make_ufs(folder / "tree", folder / "fs", 4 << 20))


# The choice


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"\x7fELF....$Interpreter:lua\0....", None),
        (b"$Interpreter:4th\0", "4th"),
        (b"x" * 100_000 + b"$Interpreter:simp\0$Interpreter:lua\0", "simp"),
        (b"$Interpreter:simp", "simp"),
        (b"no marker at all", "4th"),
        (b"", "4th"),
    ],
)
def test_the_marker(tmp_path: Path, content: bytes, wanted: str | None) -> None:
    outcome = run(tmp_path, {"boot/loader": content}, b"quit\n")
    if wanted is None:
        assert outcome.end == "exit"
    else:
        assert (outcome.end, outcome.report["interpreter"]) == ("swap", wanted)


def test_lua_scripts_count_for_more_than_a_missing_marker(tmp_path: Path) -> None:
    scripts: dict[str, str | bytes] = {"boot/loader": b"something else", "boot/lua/loader.lua": "print('here')\n"}
    outcome = run(tmp_path, scripts, b"xquit\n")
    assert outcome.end == "exit"
    assert said(outcome)[0] == "here"


def test_no_loader_file_is_no_reason_to_change(tmp_path: Path) -> None:
    outcome = run(tmp_path, {"boot/lua/loader.lua": "print('here')\n"}, b"xquit\n")
    assert said(outcome)[0] == "here"


def test_a_folder_as_loader_file(tmp_path: Path) -> None:
    assert run(tmp_path, {"boot/loader/x": ""}, b"quit\n").end == "exit"


def test_without_scripts_lua_says_so(tmp_path: Path) -> None:
    outcome = run(tmp_path, {}, b"quit\n")
    assert "ERROR: cannot open /boot/lua/loader.lua: no such file or directory." in said(outcome)


def test_another_first_script(tmp_path: Path) -> None:
    """loader_lua: the newer loader's."""
    files: dict[str, str | bytes] = {"boot/mine.lua": "print('mine')\n", "boot/lua/loader.lua": "print('usual')\n"}
    directory = open_host_directory(str(write(tmp_path, files)))
    for current, first in ((True, "mine"), (False, "usual")):
        outcome = harness.run(
            [], b"xquit\n", environment=(b"loader_lua=/boot/mine.lua",), current=current, host_directory=directory
        )
        assert said(outcome)[0] == first


# Through the command line


def test_an_unknown_interpreter_is_refused_with_a_way_on(tmp_path: Path) -> None:
    done = bhyveload("--batch", "-d", disk(tmp_path, {"boot/loader": "$Interpreter:tcl\0"}), "vm", check=1)
    assert "the guest's boot scripts are for the 'tcl' loader, which is not built in" in done.messages
    assert "userboot_tcl.so" in done.messages and "-l" in done.messages


def test_a_hostile_marker_is_only_shown(tmp_path: Path) -> None:
    done = bhyveload("--batch", "-d", disk(tmp_path, {"boot/loader": b"$Interpreter:\x1b[2J../../x\0"}), "vm", check=1)
    assert "\\x1b[2J" in done.messages and "\x1b" not in done.messages


SIMPLE = {"boot/loader": "$Interpreter:simp\0", "boot/loader.rc": "@set from_rc=1\necho seen\n@boot -v\n"}


@pytest.mark.parametrize("batch", [True, False])
def test_the_simple_loader_takes_over(tmp_path: Path, batch: bool) -> None:
    options = ["--batch"] if batch else []
    done = bhyveload(*options, "--json", "-d", disk(tmp_path, dict(SIMPLE)), "vm", check=0)
    report = done.json
    assert report["interpreter"] == "simp"
    assert report["environment"]["from_rc"] == "1"
    assert report["environment"]["script.lang"] == "simple"
    text = done.err.decode()
    assert "User boot lua, Revision 3.0" in text and "User boot simp, Revision 3.0" in text


def test_a_reboot_starts_the_loader_again(tmp_path: Path) -> None:
    script = 'loader.setenv("autoboot_delay", "NO")\nprint("start")\n'
    image = disk(tmp_path, {"boot/lua/loader.lua": script})
    keys = b"set gone=1\nload kernel\nreboot\nshow gone\nlsmod\nboot\n"
    done = bhyveload("--list-variables", "-d", image, "vm", keys=keys, check=0)
    text = done.err.decode()
    assert text.count("User boot lua") == text.count("start\r\n") == 2
    assert "variable 'gone' not found" in text
    assert b"gone=1" not in done.out
    # 13.2's bhyveload ends with the loader's status
    assert bhyveload("--compat", "13.2", "-d", image, "vm", keys=keys).status == 2


def test_scripts_that_reboot_for_ever(tmp_path: Path) -> None:
    image = disk(tmp_path, {"boot/lua/loader.lua": "loader.perform('reboot')\n"})
    done = bhyveload("--batch", "-d", image, "vm", check=1)
    assert "restarted its loader 50 times" in done.messages


def test_quitting(tmp_path: Path) -> None:
    image = disk(tmp_path, {"boot/lua/loader.lua": "loader.setenv('autoboot_delay', 'NO')\n"})
    assert bhyveload("-d", image, "vm", keys=b"quit\n").status == 1
    assert bhyveload("-d", image, "vm", keys=b"loader.exit(7)\n").status == 7


# The simple interpreter


def simple(folder: Path, rc: str, keys: bytes = b"quit\n") -> list[str]:
    outcome = run(folder, {"boot/loader": "$Interpreter:simp\0", "boot/loader.rc": rc}, keys, interpreter="simp")
    text = outcome.console.decode("latin-1")
    for twiddle in ("|\b", "/\b", "-\b", "\\\b"):
        text = text.replace(twiddle, "")
    return text.split("\r\n")


def test_lines_of_loader_rc(tmp_path: Path) -> None:
    rc = (
        "set autoboot_delay=NO\n"
        "@set prompt=rc\n"
        "\\ a comment\n"
        "  \\ another\n"
        "echo shown\n"
        "@echo quiet ${script.lang}\n"
        "@-nosuch\n"
        "-show nope\n"
        "@echo 'two words' \"and ${prompt}\"\n"
        "@nosuch\n"
        "@echo never\n"
    )
    lines = simple(tmp_path, rc)
    at = next(index for index, line in enumerate(lines) if "set autoboot" in line)
    assert lines[at : at + 8] == [
        "> set autoboot_delay=NO",
        "rc echo shown",
        "shown",
        "quiet simple",
        "nosuch: unknown command",
        "rc show nope",
        "show: variable 'nope' not found",
        "two words and rc",
    ]
    assert lines[at + 8] == "nosuch: unknown command"
    assert "never" not in lines


def test_a_line_that_cannot_be_split(tmp_path: Path) -> None:
    lines = simple(tmp_path, "@set autoboot_delay=NO\n\n@echo 'open\n@echo never\n", b'echo "x\nquit\n')
    assert "fail at line 177" in lines and "/boot/loader.rc line 3: parse error" in lines
    assert "parse error" in lines and "never" not in lines


def test_including(tmp_path: Path) -> None:
    write(tmp_path, {"boot/more.rc": "@echo more\n", "boot/bad.rc": "@nosuch\n"})
    keys = b"include /boot/more.rc /boot/more.rc\ninclude /boot/bad.rc\ninclude /nope\nquit\n"
    lines = simple(tmp_path, "@set autoboot_delay=NO\n", keys)
    assert lines.count("more") == 2
    assert "include: can't open '/nope': no such file or directory" in lines


def test_long_lines_continue_as_further_lines(tmp_path: Path) -> None:
    lines = simple(tmp_path, "@set autoboot_delay=NO\n@echo " + "x" * 300 + "\n")
    assert "x" * 249 in lines


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("@include /boot/loader.rc\n", "64 deep"),
        ("@-include /boot/loader.rc\n@-include /boot/loader.rc\n", "64 deep"),
    ],
)
def test_a_script_that_includes_itself(tmp_path: Path, lines: str, why: str) -> None:
    """FreeBSD's loader crashes; here the load ends, and says why."""
    with pytest.raises(LoaderError, match=f"include each other {why}"):
        simple(tmp_path, lines)


def test_scripts_that_include_the_next_one_twice(tmp_path: Path) -> None:
    """Not deep, but each of them doubles what is to be run."""
    files: dict[str, str | bytes] = {f"boot/{number}": f"@include /boot/{number + 1}\n" * 2 for number in range(40)}
    files |= {"boot/40": "", "boot/loader": "$Interpreter:simp\0", "boot/loader.rc": "@include /boot/0\n"}
    with pytest.raises(LoaderError, match="include each other 10000 times"):
        run(tmp_path, files, b"quit\n", interpreter="simp")
