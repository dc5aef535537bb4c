"""lupa without what is around it: nobody else in the process may notice."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("lupa")

START = """
import sys
{before}
from bhyveload.loader.interpreter.lua_module import lua54
late = [name for name in ("functools", "collections", "collections.abc", "re", "contextlib") if name in sys.modules]
"""


def run(code: str, before: str = "") -> str:
    command = [sys.executable, "-c", START.format(before=before) + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_brings_nothing_along() -> None:
    assert run("print(late)") == "[]"


def test_what_is_there_stays() -> None:
    code = "import functools; print(functools is mine, hasattr(functools, 'partial'), 'functools' in late)"
    assert run(code, before="import functools; mine = functools") == "True True True"


def test_collections_stay_whole() -> None:
    """From Python 3.13 on collections.abc is the very module that stands in for it elsewhere."""
    code = "import collections.abc; from collections.abc import Mapping; print('collections.abc' in late)"
    assert run(code, before="import collections.abc") == "True"


def test_imports_that_come_later_are_true_ones() -> None:
    code = """
import collections.abc, functools
from collections.abc import Mapping
print(functools.wraps.__module__, collections.abc.Mapping is Mapping, functools.partial(int, "7")())
"""
    assert run(code) == "functools True 7"


def test_lupa_is_whole() -> None:
    code = """
@lua54.unpacks_lua_table
def add(a, b=2):
    "adds"
print(add.__doc__, add.__name__, dict(lua54.LuaRuntime().table_from({"a": 1})))
import lupa
print(lupa.LuaRuntime().eval("1 + 1"))
"""
    assert run(code) == "adds add {'a': 1}\n2"


def test_another_version_may_want_more_of_functools() -> None:
    code = """
module = sys.modules["bhyveload.loader.interpreter.lua_module"]
sys.modules["functools"] = module._functools
from functools import partial
import functools
print(partial(int, "8")(), functools is module._functools)
"""
    assert run(code) == "8 False"
