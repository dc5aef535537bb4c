"""The tree of variables: bhyve_config(5), usr.sbin/bhyve/config.c."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.bhyve.config import Config
from bhyveload.errors import BhyveError


def config(**values: str) -> tuple[Config, list[str]]:
    warnings: list[str] = []
    tree = Config(warnings.append)
    for name, value in values.items():
        tree.set(name, value)
    return tree, warnings


def test_the_last_value_wins_and_moves_to_the_end() -> None:
    tree, _ = config()
    for line in ("a=1", "b.x=2", "b.y=3", "c=4", "a=5", "b.x=6"):
        tree.set(*line.split("="))
    assert list(tree.dump()) == ["b.y=3", "b.x=6", "c=4", "a=5"]


def test_a_node_has_no_value_and_a_variable_no_children() -> None:
    tree, warnings = config()
    tree.set("pci.0.4.0.device", "lpc")
    with pytest.raises(BhyveError, match=r"^Attempting to add value x to existing node pci\.0$") as error:
        tree.set("pci.0", "x")
    assert error.value.exit_status == 4
    tree.set("leaf", "1")
    with pytest.raises(BhyveError, match=r"^Failed to create configuration node leaf$"):
        tree.set("leaf.child", "2")
    assert warnings == ["Configuration node leaf is a child of existing variable leaf"]
    with pytest.raises(BhyveError, match=r"^Failed to create configuration node a..b$"):
        tree.set("a..b.c", "1")
    assert warnings[-1] == "Invalid configuration node: a..b"
    with pytest.raises(BhyveError, match=r"^Invalid config node name x\.y$"):
        tree.parse_options(tree.root, "x.y=1")


@pytest.mark.parametrize(
    ("value", "expanded", "warning"),
    [
        ("plain", "plain", None),
        ("%(name)/disk", "vm1/disk", None),
        ("%(deep)!", "<vm1>!", None),
        ("100%", "100%", 'Invalid reference in configuration value "100%"'),
        ("%(name", "%(name", 'Invalid reference in configuration value "%(name"'),
        ("%()x", "x", 'Empty reference in configuration value "%()x"'),
        ("%(no.such)x", "x", "Failed to fetch referenced configuration variable no.such"),
        (r"back\slash", r"back\slash", None),  # a backslash counts only beside a reference
        (r"\%(name) %(name)", "%(name) vm1", None),
        ("%(name)\\", "vm1", 'Trailing \\ in configuration value "%(name)\\"'),
        ("%%", "%%", 'Invalid reference in configuration value "%%"'),
    ],
)
def test_references(value: str, expanded: str, warning: str | None) -> None:
    tree, warnings = config(name="vm1", deep="<%(name)>")
    assert tree.expand(value) == expanded
    assert warnings[:1] == ([warning] if warning else [])


def test_references_in_a_circle_end() -> None:
    tree, warnings = config(a="x%(b)", b="y%(a)")
    assert tree.get("a") == "xyxyxyxyxyxyxyxyx%(b)"
    assert warnings == ["Too many recursive references in configuration value"]


def test_what_is_wrong_in_many_places_is_said_once() -> None:
    tree, warnings = config(a="%" * 50000, b="%(no)%(no)%(other)%")
    assert tree.get("a") == "%" * 50000
    assert len(warnings) == 1
    assert tree.get("b") == "%"
    assert warnings[1:] == [
        "Failed to fetch referenced configuration variable no",
        "Failed to fetch referenced configuration variable other",
        'Invalid reference in configuration value "%(no)%(no)%(other)%"',
    ]
    assert tree.get("b") == "%"
    assert len(warnings) == 7  # another reading, another word


def test_references_that_double_are_cut_off() -> None:
    tree, _ = config(a="%(no)", **{chr(98 + n): f"%({chr(97 + n)})" * 8 for n in range(14)})
    with pytest.raises(BhyveError, match="references in one configuration value"):
        tree.get("n")
    tree, _ = config(a="x" * 60000, b="%(a)%(a)")
    with pytest.raises(BhyveError, match="grows beyond"):
        tree.get("b")


def test_a_node_is_no_value() -> None:
    tree, warnings = config()
    tree.set("a.b", "1")
    assert tree.get("a") is None
    assert warnings == ["Attempting to fetch value of node a"]
    assert tree.get("a.c") is None
    assert tree.get("x.y") is None


def test_booleans() -> None:
    tree, _ = config()
    for text, value in (("1", True), ("TRUE", True), ("On", True), ("yes", True), ("0", False), ("off", False)):
        tree.set("flag", text)
        assert tree.truth("flag", not value) is value
    assert tree.truth("unset", True) is True
    tree.set("flag", "2")
    with pytest.raises(BhyveError, match=r"^Invalid value 2 for boolean variable flag$"):
        tree.truth("flag", True)


def test_a_deep_tree_is_dumped() -> None:
    tree, _ = config()
    path = ".".join("x" * 5000)
    tree.set(path, "1")
    assert list(tree.dump()) == [f"{path}=1"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text("ab.%()\\", max_size=8), st.text("ab.%()\\", min_size=1, max_size=8)), max_size=8))
def test_any_assignments_end_in_a_tree_or_an_error(pairs: list[tuple[str, str]]) -> None:
    tree, _ = config()
    for name, value in pairs:
        try:
            tree.set(name, value)
        except BhyveError:
            continue
        assert tree.raw(name) == value
    again, _ = config()
    lines = list(tree.dump())
    for line in lines:
        name, _, value = line.partition("=")
        again.set(name, value)
        again.get(name)
    assert list(again.dump()) == lines
