"""Run a function in a real confined child, and say how it ended: in the tests' words for errors and signals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

from bhyveload.confined.child import Leave, run_child
from bhyveload.confined.confinement import confine
from bhyveload.device import Device
from bhyveload.errors import BhyveloadError
from bhyveload.host.interface import HostDirectory
from bhyveload.sandbox import Sandbox
from bhyveload.syscall import call, checked
from bhyveload.vm.memory import GuestMemory

FORBIDDEN = "SIGSYS"
TIMEOUT = 30


def try_confined(
    action: Callable[[], Any],
    *,
    sandbox: Sandbox | None = None,
    folder: HostDirectory | None = None,
    disks: Sequence[Device] = (),
    memory: GuestMemory | None = None,
) -> str:
    """How ``action`` ended in the sandbox: "done: VALUE", an errno's name, another error's text, or FORBIDDEN."""
    box = sandbox or Sandbox()

    def work(leave: Leave) -> dict[str, Any]:
        confine(box, leave, memory=memory, disks=disks, host_directory=folder)
        try:
            return {"value": f"done: {action()}"}
        except OSError as error:
            return {"value": errno.errorcode.get(error.errno or 0, str(error))}
        except (MemoryError, ImportError) as error:
            return {"value": type(error).__name__}

    try:
        return str(run_child(work, lambda: None, TIMEOUT)["value"])
    except BhyveloadError as error:
        if error.message == "the loader died by SIGSYS: the loader tried something forbidden":
            return FORBIDDEN
        return error.message


def only(*, landlock: bool = False, seccomp: bool = False, empty_root: bool = False) -> Sandbox:
    """A sandbox with one of its layers alone, for the user as he is: each has to hold by itself."""
    sandbox = Sandbox()
    if not empty_root or os.geteuid():
        sandbox._identity = None
    if not landlock:
        sandbox._landlock = 0
    if not seccomp:
        sandbox._seccomp = False
    sandbox._empty_root = empty_root
    return sandbox


def system_call(number: int, *arguments: int | bytes | None) -> int:
    """A raw system call.  Raises OSError."""
    return checked(call(number, *arguments))


def as_nobody(action: Callable[[], str]) -> str:
    """What ``action`` says in a process of an ordinary user's: root becomes nobody for it."""
    if os.geteuid():
        return action()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, action().encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said
