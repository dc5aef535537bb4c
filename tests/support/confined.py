"""Run a function in a real confined child, and say how it ended: in the tests' words for errors and signals."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from bhyveload.confined import run as border
from bhyveload.confined.child import Leave, understand
from bhyveload.confined.confinement import Subject
from bhyveload.confined.deadline import Deadline
from bhyveload.confined.wire import encode
from bhyveload.device import Device
from bhyveload.errors import BhyveloadError
from bhyveload.host.interface import HostDirectory
from bhyveload.sandbox import Sandbox
from bhyveload.syscall import call, checked
from bhyveload.vm.memory import GuestMemory


class Anything:
    """The shape of a report that only tests send."""

    @staticmethod
    def check(value: Any) -> Any:
        return value


ANYTHING = Anything()
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

    def work(_: Leave) -> dict[str, Any]:
        try:
            return {"value": f"done: {action()}"}
        except OSError as error:
            return {"value": errno.errorcode.get(error.errno or 0, str(error))}
        except (MemoryError, ImportError) as error:
            return {"value": type(error).__name__}

    try:
        subject = Subject("the loader", box, memory=memory, disks=disks, host_directory=folder)
        return str(border.run(work, subject, Deadline(TIMEOUT), ANYTHING)["value"])
    except BhyveloadError as error:
        if error.message == "the loader died by SIGSYS: the loader tried something forbidden":
            return FORBIDDEN
        return error.message


def forge(monkeypatch: pytest.MonkeyPatch, *reports: object) -> None:
    """In the place of every child's report come these, the last of them again and again."""
    left = list(reports)

    class Forged:
        def __init__(self, work: object, subject: Subject, prepare: object = None) -> None:
            self.subject = subject

        def report(self, deadline: Deadline) -> Any:
            return understand(encode(left.pop(0) if len(left) > 1 else left[0]), 0, self.subject)

    monkeypatch.setattr(border, "Child", Forged)


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
