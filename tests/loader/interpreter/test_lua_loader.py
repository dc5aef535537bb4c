"""The loader library's numbers (stand/liblua/lutils.c)."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import lua_runs


@pytest.mark.parametrize("current", [True, False], ids=["current", "13.2"])
def test_a_delay_is_an_int(tmp_path: Path, current: bool) -> None:
    """lua_delay: delay((int)luaL_checknumber(L, 1)), which is 0 for 2^32 and 1 for 2^32 + 1; if it were more, the run
    would not end in time."""
    script = "loader.delay(4294967296)\nloader.delay(4294967297)\nprint('behind it')\n"
    assert lua_runs.said(lua_runs.run_scripts(tmp_path, script, current=current)) == ["behind it"]


def test_an_exit_code_is_an_int(tmp_path: Path) -> None:
    outcome = lua_runs.run_scripts(tmp_path, "loader.exit(4294967296 + 7)\n", current=True)
    assert (outcome.end, outcome.code) == ("exit", 7)
