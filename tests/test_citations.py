"""What comments cite can be found by a reader of this repository."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {".py", ".c", ".h", ".S", ".sh", ".md", ".8", ".toml", ".yml", ".lua"}
_WORDS = re.compile(r"[\s*#]+")


def texts() -> Iterator[tuple[Path, str]]:
    """Every file of ours that is read by people; comments and docstrings as one line each way."""
    for folder in ("src", "tests", "tools", "docs", "man", "completions"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "data" not in path.relative_to(ROOT).parts and path != Path(__file__):
                yield path, path.read_text()
    for path in sorted(ROOT.glob("*.md")):
        yield path, path.read_text()


def headings() -> set[str]:
    return set(re.findall(r"^#{2,3} (.+)$", (ROOT / "docs" / "errata.md").read_text(), re.MULTILINE))


def cited_headings(text: str) -> list[str]:
    """A, B of `docs/errata.md, "A", "B"`, across lines."""
    joined = _WORDS.sub(" ", text)
    lists = re.findall(r'docs/errata\.md,((?: ?"[^"]+",?)+)', joined)
    return [name for found in lists for name in re.findall(r'"([^"]+)"', found)]


def test_nothing_that_only_its_authors_have() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {found}"
        for path, text in texts()
        for found in re.findall(r"spec/[\w.-]+\.md[ \d.,-]*|[Ee]rrata [A-C]\d+|[Ff]act sheets?", text)
    ]
    assert wrong == []


def test_every_heading_that_is_cited_exists() -> None:
    there = headings()
    cited = {(path.relative_to(ROOT), name) for path, text in texts() for name in cited_headings(text)}
    assert len(cited) > 40
    assert sorted((str(path), name) for path, name in cited if name not in there) == []


def test_every_test_that_is_named_exists() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {found}"
        for path, text in texts()
        if path.suffix in (".md", ".8")
        for found in re.findall(r"(?<![\w/])tests/[\w/]+\.(?:py|c|S)\b", text)
        if not (ROOT / found).exists()
    ]
    assert wrong == []


def test_every_document_that_is_named_exists() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, text in texts()
        for name in re.findall(r"\bdocs/[\w-]+\.md", text)
        if not (ROOT / name).is_file()
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('# as docs/errata.md, "Prompt", says', ["Prompt"]),
        ('(docs/errata.md,\n    "One", "Two words")', ["One", "Two words"]),
        ('# docs/errata.md, "Across\n    # lines"', ["Across lines"]),
        ("docs/errata.md alone", []),
    ],
)
def test_citations_are_understood(text: str, names: list[str]) -> None:
    assert cited_headings(text) == names
