"""pager.file, by the lines of lpager_file (stand/liblua/lpager.c) and pager_file (stand/libsa/pager.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import lua_runs


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_what_a_file_gives(tmp_path: Path, current: bool) -> None:
    """0 results at its end; one where the user quits, which is what lies on top of the stack: the last argument."""
    script = """
loader.setenv("LINES", "2")
pager.open()
print("shown", select("#", pager.file("/one")))
pager.open()
print("quit", pager.file("/two"))
pager.open()
print("quit", pager.file("/two", 5, "last"))
pager.close()
"""
    files = {"one": "one", "two": "1\n2\n"}
    outcome = lua_runs.run_scripts(tmp_path, script, b"qqquit\n", files=files, current=current)
    page = "1\r\n --more--  <space> page down <enter> line down <q> quit \r" + " " * 56 + "\r"
    text = outcome.console.decode("latin-1")
    assert f"oneshown\t0\r\n{page}quit\t/two\r\n{page}quit\tlast\r\n" in text


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_a_missing_file_is_no_commands_error(tmp_path: Path, current: bool) -> None:
    """Only the command more puts `error showing` into command_errbuf (page_file of stand/common/commands.c)."""
    script = """
loader.command("nosuch")
pager.file("/nope")
print(loader.command_error())
loader.command("more", "/nope")
print(loader.command_error())
"""
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script, current=current)) == [
        "can't open '/nope': no such file or directory",
        "no error message",
        "*** FILE /nope BEGIN ***",
        "can't open '/nope': no such file or directory",
        "error showing /nope",
    ]
