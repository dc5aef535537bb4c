"""Run the Forth loader in this process on given files and keys: its console, and the loader for a closer look."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bhyveload.device import Device
from bhyveload.host.callbacks import LoaderCallbacks, LoaderEnd, loader_environment
from bhyveload.host.directory import open_host_directory
from bhyveload.host.interface import HostDirectory
from bhyveload.loader.batch import lock_variables
from bhyveload.loader.main import loader_main
from bhyveload.loader.state import Loader, Options
from bhyveload.vm.memory import GuestMemory, split_memory
from support import harness

MEMORY = 64 << 20


@contextmanager
def guest_memory() -> Iterator[GuestMemory]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MEMORY)
    try:
        yield GuestMemory(fd, *split_memory(MEMORY))
    finally:
        os.close(fd)


class ForthRun:
    """What a run left: ``console`` as it was sent, ``loader``, and how it ended."""

    def __init__(self, console: bytes, loader: Loader, end: LoaderEnd) -> None:
        self.console = console
        self.loader = loader
        self.end = end

    @property
    def text(self) -> str:
        return self.console.decode("latin-1").replace("\r\n", "\n")


def run_forth(
    keys: bytes,
    disks: list[Device] | None = None,
    host_directory: HostDirectory | None = None,
    current: bool = True,
    options: Options | None = None,
) -> ForthRun:
    """From the banner to the end of ``keys``, or before."""
    with guest_memory() as memory:
        console = harness.KeyConsole(keys)
        host = LoaderCallbacks(console, memory, disks or [], host_directory, loader_environment(()))
        loader = Loader(host, "current" if current else "13.2", options)
        lock_variables(loader, "4th")
        try:
            loader_main(loader, "4th")
        except LoaderEnd as end:
            return ForthRun(bytes(console.output), loader, end)


def typed(folder: Path, *lines: str, files: dict[str, str] | None = None, current: bool = True) -> list[str]:
    """What the loader answers to each line: the text behind the echo of the line, up to the next prompt's `OK`.

    The guest is a folder with ``files``, without a kernel.
    """
    everything = {"boot/loader.rc": "set autoboot_delay=NO\n", **(files or {})}
    for name, text in everything.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    outcome = run_forth(
        "".join(f"{line}\n" for line in ["set prompt=\x02", *lines]).encode("latin-1"),
        host_directory=open_host_directory(str(folder)),
        current=current,
    )
    answers = outcome.text.split("\x02 ")[1:]
    return [answer.partition("\n")[2] for answer in answers[: len(lines)]]
