"""Options of builtin commands: what stand/libsa/getopt.c does, worked out by hand from its lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from bhyveload.loader.commands.options import options

if TYPE_CHECKING:
    from bhyveload.loader.state import Loader


class Said:
    """As much of a Loader as options needs."""

    def __init__(self) -> None:
        self.text = ""

    def print(self, text: str) -> None:
        self.text += text


def scan(line: str, letters: str) -> tuple[tuple[list[tuple[str, str]], list[str]] | None, str]:
    said = Said()
    return options(cast("Loader", said), line.split(), letters), said.text


@pytest.mark.parametrize(
    ("line", "letters", "found", "words"),
    [
        ("echo", "n", [], []),
        ("echo a -n", "n", [], ["a", "-n"]),
        ("echo -n a", "n", [("n", "")], ["a"]),
        ("echo -nn - a", "n", [("n", ""), ("n", "")], ["-", "a"]),
        ("echo -- -n", "n", [], ["-n"]),
        ("echo --n a", "n", [], ["a"]),  # found "--": only the first two characters are looked at
        ("echo -n --x a", "n", [("n", "")], ["a"]),
        ("echo -n- a", "n", [("n", "")], ["-n-", "a"]),  # "-" inside a word: -1 without ++optind
        ("echo -n -n-n a", "n", [("n", ""), ("n", "")], ["-n-n", "a"]),
        ("read -t5 x", "p:t:", [("t", "5")], ["x"]),
        ("read -p -- -t 5 x", "p:t:", [("p", "--"), ("t", "5")], ["x"]),
        ("read -p-- x", "p:t:", [("p", "--")], ["x"]),
    ],
)
def test_options(line: str, letters: str, found: list[tuple[str, str]], words: list[str]) -> None:
    assert scan(line, letters) == ((found, words), "")


@pytest.mark.parametrize(
    ("line", "letters", "complaint"),
    [
        ("echo -x a", "n", "illegal option -- x\n"),
        ("echo -: a", "n", "illegal option -- :\n"),
        ("echo -n:", "n", "illegal option -- :\n"),
        ("read -t", "p:t:", "option requires an argument -- t\n"),
    ],
)
def test_complaints(line: str, letters: str, complaint: str) -> None:
    assert scan(line, letters) == (None, complaint)


@pytest.mark.parametrize("line", ["load -p x -z kernel", "load -kp x kernel", "load -d -s y -t"])
def test_a_command_may_stop_at_an_option(line: str) -> None:
    """What is behind it is not complained about, for getopt is not called again."""
    said = Said()
    assert options(cast("Loader", said), line.split(), "dkp:s:t:", lambda letter, _: letter in ("p", "s")) is None
    assert said.text == ""
    assert options(cast("Loader", said), ["load", "-p"], "dkp:s:t:", lambda letter, _: letter == "p") is None
    assert said.text == "option requires an argument -- p\n"
