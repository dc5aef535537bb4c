"""From a machine and disks to a loaded guest: the loader's turns, each a confined child.

The built-in loader or FreeBSD's own goes on where the other's scripts were found, and starts over where a guest asks.
"""

from __future__ import annotations

import os

from bhyveload.bootable import FIRST_INTERPRETER
from bhyveload.confined.confinement import Subject
from bhyveload.confined.reports import LOADER
from bhyveload.confined.run import run as run_confined
from bhyveload.errors import LoaderError, UsageError
from bhyveload.host.callbacks import USERBOOT_EXIT_REBOOT, LoaderCallbacks, loader_environment
from bhyveload.loader.interpreter.table import INTERPRETERS
from bhyveload.loader.run import run_loader
from bhyveload.need import DISKS, GROUPS, load_all
from bhyveload.need import load as load_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from bhyveload.compat import LoaderVersion
    from bhyveload.confined.child import Leave
    from bhyveload.confined.deadline import Deadline
    from bhyveload.device import Device
    from bhyveload.host.interface import HeldConsole, HostDirectory
    from bhyveload.loader.state import Options
    from bhyveload.sandbox import Sandbox
    from bhyveload.userboot.run import Prepared
    from bhyveload.userboot.search import LoaderObject, Loaders
    from bhyveload.vm.interface import Machine

    _Userboot = tuple[Any, LoaderObject] | None  # the module userboot.session and the object

_MAX_RESTARTS = 50  # a guest whose scripts reboot or swap for ever


def run_until_loaded(
    vm: Machine,
    console: HeldConsole,
    disks: Sequence[Device],
    environment: Sequence[str | bytes],
    host_directory: HostDirectory | None,
    version: LoaderVersion,
    options: Options,
    loaders: Loaders | None,
    sandbox: Sandbox | None,
    deadline: Deadline,
) -> dict[str, Any]:
    """Run the loader, again after a reboot or a change of interpreter, until it leaves a guest: its report
    (confined/reports.py, LOADER) with "loader", who it was.

    Raises as ``api.load``.
    """
    variables = [_variable(text) for text in environment]
    interpreter = FIRST_INTERPRETER
    userboot = _userboot(loaders.first() if loaders is not None else None, options)
    for turn in range(_MAX_RESTARTS):
        if turn:
            vm.restart()
        if not options.batch or not vm.starts_over or any(disk.describe().get("compression") for disk in disks):
            # a prompt and vmm(4)'s memory must not start over, and a compressed disk would be decompressed over again
            load_all("" if userboot is None else DISKS)
        elif userboot is None and disks:
            _expect(vm.recall(), interpreter)
        swaps = loaders is None
        work = _Turn(vm, console, disks, host_directory, variables, options, userboot, interpreter, version, swaps)
        subject = Subject(
            "the loader",
            sandbox,
            console=console,
            memory=vm.loading(),
            disks=disks,
            host_directory=host_directory,
            consequence="nothing was loaded",
        )
        result: dict[str, Any] = run_confined(work, subject, deadline, LOADER, prepare=work.prepare, again=vm.restart)
        end = result.pop("end")
        if end == "exec":
            result["loader"] = os.path.abspath(userboot[1].path) if userboot is not None else "built-in"
            return result
        if end == "swap":
            interpreter = result["interpreter"]
            userboot = _swap(interpreter, loaders, options)
        elif result["code"] != USERBOOT_EXIT_REBOOT or version == "13.2":
            # whatever the guest's scripts say: nothing was loaded, and that is no success
            raise LoaderError("the loader ended without starting a guest", exit_status=result["code"] & 0xFF or 1)
        # else the loader starts over, as bhyveload.c does since 2024; before, its exit status was 2
    raise LoaderError(f"the guest restarted its loader {_MAX_RESTARTS} times", "look at its scripts")


def _expect(recalled: Sequence[str] | None, interpreter: str) -> None:
    """Have what this VM's last guest asked for, or else nearly every guest's disk: a child that lacked it would be
    thrown away, 4 ms each time."""
    for name in [INTERPRETERS[interpreter].module] if recalled is None else recalled:
        try:
            if name in GROUPS:
                load_module(name)
        except (ImportError, OSError):
            pass  # no lupa, no more files: the child asks for it, if its guest has scripts


def _variable(text: str | bytes) -> bytes:
    """Raises UsageError."""
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    if b"\0" in data:
        raise UsageError(f"the loader variable {text!a} has a NUL byte in it")
    return data


class _Turn:
    """What the child does in one run of the loader: called with its Leave, after ``prepare``."""

    def __init__(
        self,
        vm: Machine,
        console: HeldConsole,
        disks: Sequence[Device],
        host_directory: HostDirectory | None,
        variables: Sequence[bytes],
        options: Options,
        userboot: _Userboot,
        interpreter: str,
        version: LoaderVersion,
        swaps: bool,
    ) -> None:
        self._vm = vm
        self._console = console
        self._disks = disks
        self._host_directory = host_directory
        self._variables = variables
        self._options = options
        self._userboot = userboot
        self._interpreter = interpreter
        self._version = version
        self._swaps = swaps  # nobody but the built-in loader goes on
        self._object: Prepared | None = None

    def prepare(self) -> None:
        """Before the child is confined: map a userboot object, which the box would forbid."""
        self._host = LoaderCallbacks(self._console, self._vm.loading(), self._disks, self._host_directory)
        if self._userboot is None:
            self._host.environment = loader_environment(self._variables)
            return
        session, loader = self._userboot
        self._host.environment = loader_environment([*self._variables, *session.variables(self._options)])
        self._object = session.prepare_object(loader, self._host, self._options.batch)

    def __call__(self, leave: Leave) -> dict[str, Any]:
        if self._userboot is not None:
            session, _ = self._userboot
            session.run_object(self._object, self._host, leave)
        return run_loader(self._host, self._interpreter, self._version, self._options, leave, swaps=self._swaps)


def _userboot(loader: LoaderObject | None, options: Options) -> _Userboot:
    """What runs ``loader``, imported here because a confined child cannot.  Raises UsageError (session.py)."""
    if loader is None:
        return None
    from bhyveload.userboot import session

    session.check_options(options)
    return session, loader


def _swap(name: str, loaders: Loaders | None, options: Options) -> _Userboot:
    """Who goes on when the guest's scripts are for the interpreter ``name``: FreeBSD's loader of that name, or (None)
    the built-in one."""
    if loaders is None and name in INTERPRETERS:
        return None
    from bhyveload.userboot.search import Loaders, default_directories

    loaders = loaders or Loaders(default_directories())
    loader = loaders.for_interpreter(name.encode("latin-1", "replace"))
    if loader is not None or name in INTERPRETERS:
        return _userboot(loader, options)
    raise LoaderError(
        f"the guest's boot scripts are for the '{name}' loader, which is not built in",
        f"put FreeBSD's own userboot_{name}.so into {loaders.places()}, or name it with -l",
    )
