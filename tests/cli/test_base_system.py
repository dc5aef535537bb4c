"""On FreeBSD the base system's bhyve, bhyvectl run and manage VMs; ours say so."""

from __future__ import annotations

import importlib
import sys

import pytest

from bhyveload.cli.base_system import refer


@pytest.mark.parametrize(
    ("program", "base", "status"),
    [("bhyve", "/usr/sbin/bhyve", 4), ("bhyverun", "/usr/sbin/bhyve", 4), ("bhyvectl", "/usr/sbin/bhyvectl", 71)],
)
@pytest.mark.parametrize("words", [["--vm=x", "--destroy"], ["--help"], []])
def test_one_line(
    program: str,
    base: str,
    status: int,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr(sys, "argv", [program, *words])
    assert importlib.import_module(f"bhyveload.cli.{program}").main() == status
    out, err = capfd.readouterr()
    said = (
        f"{program}: {program} of bhyveload is for hosts without vmm(4) (FreeBSD's own {base} runs and manages its VMs)"
    )
    assert (out, err) == ("", f"{said}\n")


def test_elsewhere_they_run() -> None:
    refer("bhyve", "/usr/sbin/bhyve")
