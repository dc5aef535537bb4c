"""The skeleton of a FreeBSD port asks for what the package needs and leaves out what the base system has."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bhyveload.cli import bundle
from support.places import ROOT

PORT = ROOT / "packaging" / "freebsd"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (PORT / "Makefile").read_text()


def needs(lines: list[str]) -> set[str]:
    """Names and least versions, without environment markers."""
    return {line.split(";")[0].strip() for line in lines}


def patched(target: str) -> dict[str, Any]:
    """pyproject.toml as that target's sed leaves it."""
    expression = re.search(rf"^{target}:\n.*? -e '(.*)'", MAKEFILE, re.M)[1]  # type: ignore[index]
    text = (ROOT / "pyproject.toml").read_text()
    words = ["sed", "-E", "-e", expression]
    return tomllib.loads(subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout)


def test_same_version_and_dependencies() -> None:
    assert re.search(r"^DISTVERSION=\t(.*)$", MAKEFILE, re.M)[1] == PROJECT["project"]["version"]  # type: ignore[index]
    asked = set(re.findall(r"\$\{PYTHON_PKGNAMEPREFIX\}([\w.-]+>=?[\d.]+):", MAKEFILE))
    wanted = needs(PROJECT["project"]["dependencies"]) | needs(PROJECT["build-system"]["requires"])
    assert asked == {need if ">" in need else f"{need}>0" for need in wanted}


def test_the_programs_of_the_base_system_stay_out() -> None:
    assert set(patched("post-patch")["project"]["scripts"]) == {"bhyveload", "bhyvedisk"}
    for name in ("bhyve", "bhyvectl", "bhyverun"):
        assert (ROOT / "man" / f"{name}.8").exists() and f"man/{name}.8" in MAKEFILE
        assert (ROOT / "completions" / "bash" / name).exists()
        assert (ROOT / "completions" / "fish" / f"{name}.fish").exists()


def test_without_documents() -> None:
    """The port's option DOCS."""
    data = patched("post-patch-DOCS-off")["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert data
    assert not [place for place in data.values() if place.startswith("share/doc")]


def test_the_rules_that_portlint_has() -> None:
    """Tabs behind `=`, no trailing space, a description of at most 79 columns, a comment of at most 70 characters."""
    assert not re.search(r"[ \t]$", MAKEFILE, re.M)
    assert not re.search(r"^[A-Z_]+\+?= *[^\t\n ]", MAKEFILE, re.M)
    comment = re.search(r"^COMMENT=\t(.*)$", MAKEFILE, re.M)[1]  # type: ignore[index]
    assert len(comment) <= 70 and not comment.endswith(".") and comment.split()[0] not in ("A", "An", "The")
    assert re.search(r"^WWW=\t\thttps://", MAKEFILE, re.M), "pkg-descr is not its place any more"
    assert all(len(line) < 80 for line in (PORT / "pkg-descr").read_text().splitlines())


def test_what_the_program_leaves_beside_itself_goes_with_the_port() -> None:
    """cli/bundle.py's file: pkg knows only what was installed."""
    words = next(
        line.split() for line in (PORT / "pkg-plist").read_text().splitlines() if line.startswith("@preunexec")
    )
    pattern = words[-1].replace("%D/%%PYTHON_SITELIBDIR%%", str(Path(bundle._FOLDER).parent))
    assert words[1:3] == ["rm", "-f"]
    assert fnmatch(bundle._PATH, pattern)
