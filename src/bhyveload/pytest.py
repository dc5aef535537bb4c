"""pytest's plugin: the fixture ``freebsd``, a guest that is as new in every test (docs/pytest.md).

The image is loaded once; each test that wants one gets a run of its own, and what it writes is dropped.  With snapshots
it is also booted once only: each test goes on from there with a clone of its own.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING

import pytest

from bhyveload.printable import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from bhyveload.api import Finished, Guest, VirtualMachine

_OPTIONS = (
    ("image", "the disk image that the fixture freebsd boots"),
    ("memory", "its memory (512M)"),
    ("accel", "auto, kvm or tcg (auto)"),
    ("timeout", "seconds for its boot, and for each command (600)"),
)
_MARK = "freebsd(image=, memory=, environment=): what the fixture freebsd boots for this test"
_LOG_MAX = 1 << 16
_LOG = pytest.StashKey[int]()


class CommandFailed(AssertionError):
    """A command that had to succeed did not."""


class FreeBSD:
    """A guest in a test.  ``guest``: the library's own (bhyveload.api.Guest)."""

    def __init__(self, guest: Guest, another: Callable[[str], FreeBSD], timeout: float) -> None:
        self.guest = guest
        self._another = another
        self._timeout = timeout

    def run(self, command: str | bytes, *, timeout: float | None = None, check: bool = True) -> Finished:
        """Run ``command``.  Raises CommandFailed when it does not exit with 0 (``check``), and as Guest.run."""
        done = self.guest.run(command, timeout=timeout or self._timeout)
        if check and done.status:
            raise CommandFailed(f"exit status {done.status} of {command!r}; it said:\n{done.text}")
        return done

    def put(self, data: bytes, path: str) -> None:
        """Write a file of the guest."""
        self.guest.put(data, path, timeout=self._timeout)

    def get(self, path: str) -> bytes:
        """Read a file of the guest."""
        return self.guest.get(path, timeout=self._timeout)

    def put_tree(self, folder: str | os.PathLike[str], path: str) -> None:
        """A folder of the host's as a folder of the guest's."""
        self.guest.put_tree(folder, path, timeout=self._timeout)

    def get_tree(self, path: str, folder: str | os.PathLike[str]) -> list[str]:
        """The other way; what was left out (Guest.get_tree)."""
        return self.guest.get_tree(path, folder, timeout=self._timeout)

    def kernel(self, path: str | os.PathLike[str]) -> FreeBSD:
        """Another guest, from the same image, that runs the kernel in the file ``path`` of the host."""
        return self._another(os.fspath(path))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("freebsd", "FreeBSD guests (bhyveload)")
    for name, text in _OPTIONS:
        group.addoption(f"--freebsd-{name}", dest=f"freebsd_{name}", default=None, help=text)
        parser.addini(f"freebsd_{name}", text, default="")
    text = "boot once, and let every test go on from there with a clone"
    group.addoption("--freebsd-snapshot", dest="freebsd_snapshot", action="store_true", default=None, help=text)
    parser.addini("freebsd_snapshot", text, type="bool", default=False)
    parser.addini("freebsd_environment", "variables for its loader, NAME=VALUE", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)


class _Machines:
    """Loads an image, the same one only once; boots and saves it, that only once as well."""

    def __init__(self, closing: contextlib.ExitStack) -> None:
        self._closing = closing
        self._loaded: dict[tuple[Any, ...], VirtualMachine] = {}
        self._saved: dict[tuple[Any, ...], str] = {}

    def loaded(self, image: str, memory: str, environment: tuple[str, ...], kernel: str) -> VirtualMachine:
        from bhyveload.api import load_image
        from bhyveload.vm.memsize import parse_memory_size

        key = image, memory, environment, kernel
        if key not in self._loaded:
            vm = load_image(image, parse_memory_size(memory, "current"), environment, kernel=kernel)
            self._closing.callback(vm.destroy)
            self._loaded[key] = vm
        return self._loaded[key]

    def saved(self, vm: VirtualMachine, accel: str, timeout: float, log: int) -> str:
        """A folder with the guest of ``vm``, at its shell."""
        from bhyveload.api import start

        key = vm.name, accel
        if key not in self._saved:
            memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
            folder = self._closing.enter_context(tempfile.TemporaryDirectory(prefix="bhyveload-", dir=memory))
            with start(vm, accel=accel, log=log, patience=timeout, save_to=os.path.join(folder, "guest")) as guest:
                guest.save(timeout)
            self._saved[key] = os.path.join(folder, "guest")
        return self._saved[key]


@pytest.fixture(scope="session")
def freebsd_machines() -> Iterator[_Machines]:
    """What the tests of a session have in common."""
    with contextlib.ExitStack() as closing:
        yield _Machines(closing)


@pytest.fixture
def freebsd(request: pytest.FixtureRequest, freebsd_machines: _Machines) -> Iterator[FreeBSD]:
    """A FreeBSD guest, as new.  Skipped where no image is given."""
    from bhyveload.api import restore, start

    mark = request.node.get_closest_marker("freebsd")
    chosen = dict(mark.kwargs) if mark is not None else {}
    image = str(chosen.get("image") or _option(request.config, "image"))
    if not image:
        pytest.skip("no FreeBSD image: --freebsd-image, or freebsd_image in the ini file")
    image = os.path.join(request.config.rootpath, image)
    memory = str(chosen.get("memory") or _option(request.config, "memory") or "512M")
    environment = (*request.config.getini("freebsd_environment"), *chosen.get("environment", ()))
    timeout = float(_option(request.config, "timeout") or 600)
    accel = _option(request.config, "accel") or "auto"
    snapshot = request.config.getoption("freebsd_snapshot") or request.config.getini("freebsd_snapshot")
    with contextlib.ExitStack() as closing:
        log = os.memfd_create("console", os.MFD_CLOEXEC)
        closing.callback(os.close, log)
        request.node.stash[_LOG] = log
        closing.callback(request.node.stash.__delitem__, _LOG)

        def boot(kernel: str = "") -> FreeBSD:
            vm = freebsd_machines.loaded(image, memory, environment, kernel)
            if snapshot:
                guest = restore(freebsd_machines.saved(vm, accel, timeout, log), log=log, patience=timeout)
            else:
                guest = start(vm, accel=accel, log=log, patience=timeout)
            closing.enter_context(guest)
            return FreeBSD(guest, boot, timeout)

        yield boot()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The console's last words beside a failure."""
    report = yield
    log = item.stash.get(_LOG, -1)
    if log >= 0 and report.failed:
        size = os.fstat(log).st_size
        text = os.pread(log, _LOG_MAX, max(0, size - _LOG_MAX)).replace(b"\r", b"")
        shown = mask(text, keep="\n\t")
        report.sections.append(("FreeBSD's console", shown))
    return report


def _option(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"freebsd_{name}") or config.getini(f"freebsd_{name}"))
