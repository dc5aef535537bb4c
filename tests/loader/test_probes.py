"""Our loader types and prints what FreeBSD 13.2's did, probe by probe."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bhyveload.host.directory import open_host_directory
from bhyveload.image.raw import open_raw
from support import harness
from support.probes import Probe, names, prepare

# Recorded line -> ours, where what was recorded is not to be imitated; every other byte is the same.
NOT_IMITATED: dict[str, dict[str, tuple[str, str]]] = {
    "prompt-var": {
        "\xfelose\x90\x84\xab\xa5s\x7f echo 4": (" echo 4", "an unclosed ${ makes the real loader print its heap"),
        "\xfe set prompt='$(currdev)$currdev'": (" set prompt='$(currdev)$currdev'", "the same prompt again"),
    },
    "lua-odd-paths": {
        "pager.file nope n -> ERROR </boot/lua/loader.lua:25: bad argument #1 to 'select' "
        "(number expected, got no value)>": (
            "pager.file nope n -> 0",
            "pager.file says that it returns -1 values: the real loader's stack is broken from then on",
        ),
    },
}


def run_probe(probe: Probe, tmp_path: Path) -> harness.Outcome:
    disks = [open_raw(str(path)) for path in prepare(probe, tmp_path)]
    host = None
    if probe.name in ("layout-host-only", "layout-disk-and-host"):
        host = open_host_directory(str(tmp_path / "tree"))
    try:
        return harness.run(
            disks,
            probe.keys,
            environment=probe.variables,
            memory=probe.memory,
            interpreter=probe.interpreter,
            current=False,
            host_directory=host,
        )
    finally:
        for disk in disks:
            disk.close()
        if host is not None:
            host.close()


ONE_SECOND = re.compile(rb"during 1 seconds")  # readtest's, on a busy machine or at the end of a second


def expected_console(probe: Probe) -> bytes:
    """The record, with the lines that are not imitated replaced by what we print; each of them must be there."""
    lines = probe.console.decode("latin-1").split("\r\n")
    for recorded, (ours, _) in NOT_IMITATED.get(probe.name, {}).items():
        lines[lines.index(recorded)] = ours
    return "\r\n".join(lines).encode("latin-1")


@pytest.mark.parametrize(
    "name",
    names(
        "layout-",
        "forth-",
        "fstab-",
        "boot-",
        "bootfile",
        "env-",
        "autoboot",
        "prompt",
        "lua-",
        "cli-",
        "failing",
        "failed",
        "loader-lua",
        "help",
        "pager",
        "map-vdisk",
        "kernel-",
        "modules-",
        "hints-",
        "dependency",
        "compressed",
        "i386",
        "twiddle",
        "ufs-",
    ),
)
def test_probe(name: str, tmp_path: Path) -> None:
    if name == "lua-lfs" and os.geteuid():
        pytest.skip("the record has root's files, and makefs takes their owner from the host's")
    probe = Probe(name)
    outcome = run_probe(probe, tmp_path)
    assert ONE_SECOND.sub(b"during 0 seconds", outcome.console) == expected_console(probe)
    if probe.environment:
        variables = [f"{name}={value}" for name, value in outcome.environment.items()]
        if not any(line.startswith("LINES=") for line in probe.environment):
            variables = [line for line in variables if not line.startswith("LINES=")]
        assert sorted(variables) == probe.environment
    end = probe.field("end")
    assert outcome.end == ("exec" if end == "exec" else "exit")
