"""The wheel: what somebody has who installs it where nothing else is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = sorted(PROJECT["scripts"])


def run(*command: str | Path, cwd: Path | str = "/", **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout, without an index."""
    for module in ("pip", "hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(module, reason=f"{module} is not installed (make setup installs it)")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; the packages it needs are those of this environment."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_it_is_the_wheel_that_runs(elsewhere: Path) -> None:
    said = run(elsewhere / "bin" / "python", "-c", "import bhyveload; print(bhyveload.__file__)")
    assert said.startswith(str(elsewhere))


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_starts(elsewhere: Path, program: str) -> None:
    assert PROJECT["version"] in run(elsewhere / "bin" / program, "--version")
    command = (elsewhere / "bin" / program, "-h" if program == "bhyve" else "--help")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert re.match(rf"[Uu]sage: {program}\b", done.stdout + done.stderr)


def test_as_a_module(elsewhere: Path) -> None:
    python = elsewhere / "bin" / "python"
    assert run(python, "-m", "bhyveload", "--version") == f"bhyveload {PROJECT['version']}\n"
    done = subprocess.run([python, "-m", "bhyveload"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and done.stderr.startswith("usage: bhyveload ")


def test_it_loads_and_shows(elsewhere: Path, probe_disk: Path, tmp_path: Path) -> None:
    """The four programs on one guest."""
    programs, vmm = elsewhere / "bin", {"BHYVE_VMM_DIR": str(tmp_path / "vmm")}
    run(programs / "bhyveload", "--batch", "-m", "64M", "-d", probe_disk, "guest", **vmm)
    assert run(programs / "bhyvectl", "--list", **vmm) == "guest\n"
    assert "0xffffffff80" in run(programs / "bhyvectl", "--vm=guest", "--get-rip", **vmm)
    assert "kernel" in run(programs / "bhyvedisk", "ls", probe_disk, "/boot", **vmm).split()
    assert "qemu-system-x86_64" in run(programs / "bhyverun", "--accel", "tcg", "--dry-run", "guest", **vmm)


def test_what_comes_with_it(elsewhere: Path) -> None:
    share = elsewhere / "share"
    for page in (ROOT / "man").iterdir():
        assert (share / "man" / "man8" / page.name).is_file()
    for program in PROGRAMS:
        assert (share / "bash-completion" / "completions" / program).is_file()
        assert (share / "fish" / "vendor_completions.d" / f"{program}.fish").is_file()
        assert program in (share / "zsh" / "site-functions" / "_bhyveload").read_text().splitlines()[0]
    assert (share / "doc" / "bhyveload" / "security.md").is_file()
    assert (share / "doc" / "bhyveload" / "SECURITY.md").is_file()


def test_its_metadata(elsewhere: Path) -> None:
    (metadata,) = elsewhere.glob("lib/python3*/site-packages/bhyveload-*.dist-info/METADATA")
    head, readme = metadata.read_text().split("\n\n", 1)
    assert "License-Expression: BSD-2-Clause" in head and "Typing :: Typed" in head
    assert "Requires-Python: >=3.11" in head
    assert readme.startswith("# bhyveload")
    assert (metadata.parent / "licenses" / "LICENSE").is_file()
    assert [link for link in re.findall(r"\]\(([^)]*)\)", readme) if not link.startswith("https://")] == []
    record = (metadata.parent / "RECORD").read_text()
    assert "bhyveload/py.typed," in record
    assert {line.split("/")[0] for line in record.splitlines()} == {"..", "bhyveload", metadata.parent.name}


def test_its_types_are_seen(elsewhere: Path, tmp_path: Path) -> None:
    """A user's mypy takes them from the wheel, and finds a mistake."""
    pytest.importorskip("mypy")
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text("from bhyveload.errors import LoaderError\n\nstatus: int = LoaderError('x').exit_status\n")
    wrong.write_text("from bhyveload.vm.memsize import parse_memory_size\n\nsize = parse_memory_size(1)\n")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", elsewhere / "bin" / "python")
    run(*mypy, right, cwd=tmp_path, MYPYPATH="")
    done = subprocess.run([*mypy, wrong], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1 and "[arg-type]" in done.stdout
