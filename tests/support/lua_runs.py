"""Lua scripts run by the loader from a folder (-h): no image to build, the console brought back as text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bhyveload.host.directory import open_host_directory
from bhyveload.loader.state import Options
from support import harness

QUIET = 'loader.setenv("autoboot_delay", "NO")\n'
BANNER_LINES = 4


def run_scripts(
    folder: Path,
    script: str,
    keys: bytes = b"quit\n",
    *,
    files: Mapping[str, str | bytes] | None = None,
    current: bool = True,
    environment: tuple[bytes, ...] = (),
    options: Options | None = None,
    quiet: str = QUIET,
    timeout: float = 60,
) -> harness.Outcome:
    """Run ``script`` as /boot/lua/loader.lua, then the prompt with ``keys``."""
    tree = {"boot/lua/loader.lua": quiet + script, "boot/loader": b"$Interpreter:lua\0", **(files or {})}
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode("latin-1") if isinstance(data, str) else data)
    return harness.run(
        [],
        keys,
        current=current,
        environment=environment,
        options=options,
        host_directory=open_host_directory(str(folder)),
        timeout=timeout,
    )


def said(outcome: harness.Outcome) -> list[str]:
    """The console's lines without banner and twiddles, up to the first prompt's introduction."""
    text = outcome.console.decode("latin-1")
    for twiddle in ("|\b", "/\b", "-\b", "\\\b"):
        text = text.replace(twiddle, "")
    lines = text.split("\r\n")
    start = next(at for at, line in enumerate(lines) if "User boot" in line) + 1
    ends = [at for at, line in enumerate(lines) if line.startswith("Type '?' for a list")]
    return lines[start : ends[0] - 2] if ends else lines[start:]
