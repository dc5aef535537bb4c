"""The shells' completions offer the options that the programs have, no more and no fewer."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "completions"
# what a program takes without doing anything, or only to refuse it
NOT_OFFERED = {"bhyve": {"-A", "-I"}, "bhyvectl": {"--suspend"}}
MODULES = {"bhyveload": "bhyveload_options", "bhyverun": "bhyverun_options"}
PROGRAMS = ("bhyveload", "bhyverun", "bhyve", "bhyvectl", "bhyvedisk")


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They list the VMs with bhyvectl, wherever it is found."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")


def options_of(program: str) -> set[str]:
    """What the program takes."""
    module = importlib.import_module(f"bhyveload.cli.{MODULES.get(program, program)}")
    short = getattr(module, "SHORT_OPTIONS", "")
    short = (short if isinstance(short, str) else short["current"]).replace(":", "")
    options = {f"-{letter}" for letter in short} | {f"--{name}" for name in module.LONG_OPTIONS}
    return options - NOT_OFFERED.get(program, set())


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.splitlines()


def in_bash(program: str, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    script = f"""
        source '{FOLDER}/bash/{program}'
        compopt() {{ :; }} # there is no completion going on
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _{program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run("bash", "-c", script, "bash", program, *words)


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash(program: str) -> None:
    needs("bash")
    assert set(in_bash(program, "-")) == options_of(program)
    assert in_bash(program, "--vers") == ["--version"]


def test_bash_values(tmp_path: Path) -> None:
    needs("bash")
    assert in_bash("bhyveload", "--compat", "") == ["13.2", "current"]
    assert in_bash("bhyveload", "--compat", "=") == ["13.2", "current"]
    assert in_bash("bhyveload", "--compat", "=", "c") == ["current"]
    assert in_bash("bhyveload", "-m", "") == [""]
    (tmp_path / "disk").touch()
    assert in_bash("bhyveload", "-d", f"{tmp_path}/d") == [f"{tmp_path}/disk"]
    assert in_bash("bhyvedisk", "c") == ["cat", "cp", "checksum"]


def test_bash_runs_nothing_that_a_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("bash")
    names = tmp_path / "bhyvectl"
    names.write_text("#!/bin/sh\necho guest\necho 'g$(touch hit)'\necho other\n")
    names.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.chdir(tmp_path)
    assert in_bash("bhyverun", "g") == ["guest", r"g\$\(touch\ hit\)"]
    assert in_bash("bhyvectl", "--vm", "=", "o") == ["other"]
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("program", PROGRAMS)
def test_fish(program: str) -> None:
    text = (FOLDER / "fish" / f"{program}.fish").read_text()
    options = {f"-{letter}" for letter in re.findall(r" -s (\w)", text)}
    assert options | {f"--{name}" for name in re.findall(r" -l ([\w-]+)", text)} == options_of(program)
    needs("fish")
    offered = run("fish", "-c", f"source '{FOLDER}/fish/{program}.fish'; complete -C '{program} --'")
    assert {line.split("\t")[0].rstrip("=") for line in offered} == {
        name for name in options_of(program) if name.startswith("--")
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh(program: str) -> None:
    path = FOLDER / "zsh" / "_bhyveload"
    text = path.read_text()
    assert program in text.splitlines()[0].split()
    body = text.split(f"\n_{program}() {{")[1].split("\n}")[0]
    body = re.sub(r"\[[^]]*\]", "", body)  # what they are for
    options = {f"--{name}" for group in re.findall(r"--\{([\w,-]+)\}", body) for name in group.split(",")}
    options |= set(re.findall(r"[{',*](-\w|--[a-z][\w-]+)", body))
    assert options == options_of(program)
    needs("zsh")
    assert run("zsh", "-n", str(path)) == []
