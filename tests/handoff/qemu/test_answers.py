"""What QEMU answers is the word of a process that a guest may have taken over: no answer does harm."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhyveload.errors import HandoffError
from bhyveload.handoff.qemu.migration import Saving
from bhyveload.handoff.qemu.qmp import version_of
from bhyveload.handoff.qemu.session import QemuSession

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.sampled_from(["0", "../1", "port[0x0604] = 0x0001"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cpu-index", "thread-id", "return", "id", "event", "data", "clients", "running"]), inner
        )
    ),
    max_leaves=8,
)
IDS = st.sampled_from(["query-cpus-fast", "query-vnc", "query-status", "human-monitor-command", "qmp_capabilities"])


def session(sent: list[str], hold: str = "VNC_CONNECTED") -> Any:
    """A session without a QEMU; what it would say to one goes to ``sent``."""
    one: Any = QemuSession.__new__(QemuSession)
    one._pins, one._hold, one._running, one._move = {0: frozenset({0})}, hold, False, None
    one._process = SimpleNamespace(pid=os.getpid())
    one._qmp = SimpleNamespace(send=lambda command, **arguments: sent.append(command))
    one._unheard, one._when_running, one._outcome, one._halted_at = [], [], "", None
    one._failed = one._ended_by_us = False
    one._when_ready, one._failures, one._disks = [], {}, {"disk0": "overlay.qcow2"}
    one._command, one._names = (
        ["-blockdev", "node-name=pci0.3.0.disk,file.filename=/dev/fdset/1"],
        {"/dev/fdset/1": "a"},
    )
    one._attempts = 0
    return one


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads that were moved to a processor."""
    found: list[int] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: found.append(thread))
    return found


def test_only_its_own_threads_are_moved(pinned: list[int]) -> None:
    session([])._pin([{"cpu-index": 0, "thread-id": 1}, {"cpu-index": 0, "thread-id": os.getpid()}])
    assert pinned == [os.getpid()]


def test_a_processor_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    one = session([])
    one._pins = {0: frozenset({100000})}
    with pytest.raises(HandoffError, match="vcpu 0 cannot run on hostcpu 100000: Invalid argument"):
        one._pin([{"cpu-index": 0, "thread-id": os.getpid()}])


@pytest.mark.parametrize(
    ("answer", "pressed"),
    [
        ("portw[0x0604] = 0x0001\r\n", True),
        ("portw[0x0604] = 0x0000\r\n", False),
        ("portw[0x0604] = 0xffff\r\n", False),  # the firmware has not put it there yet
    ],
)
def test_the_power_button_is_for_those_who_listen(answer: str, pressed: bool) -> None:
    sent: list[str] = []
    unheard: list[bool] = []
    one = session(sent)
    one._running = True
    one.power_button(lambda: unheard.append(True))
    assert not unheard
    one._monitor_says(answer)
    assert ("system_powerdown" in sent, bool(unheard)) == (pressed, not pressed)


def test_nobody_listens_for_the_power_button_before_the_guest_runs() -> None:
    sent: list[str] = []
    unheard: list[bool] = []
    session(sent).power_button(lambda: unheard.append(True))
    assert (sent, unheard) == ([], [True])


def test_what_the_guest_waits_for_may_have_been() -> None:
    for hold, name, answer in (
        ("VNC_CONNECTED", "query-vnc", {"clients": [{}]}),
        ("RESUME", "query-status", {"running": True}),
    ):
        sent: list[str] = []
        one = session(sent, hold)
        one._message({"id": name, "return": {"clients": [], "running": False}})
        assert sent == []
        one._message({"id": name, "return": answer})
        assert (sent, one._hold, one._running) == (["cont"], "", True)


@pytest.mark.parametrize("major", ["1e999", "-1e999", "NaN", '"x"', "[]", "null", "{}"])
def test_a_version_that_is_none(major: str) -> None:
    qemu = f'{{"QMP": {{"version": {{"qemu": {{"major": {major}, "minor": 0, "micro": 0}}}}}}}}'
    assert version_of(json.loads(qemu)) == ""


# As QEMU 7.2 answers "info registers -a"
REGISTERS = (
    "RAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000000 RDX=0000000000000663\r\n"
    "RIP=000000000000fff3 RFL=0000000{flags} [-------] CPL=0 II=0 A20=1 SMM=0 HLT={halted}\r\n"
    "ES =0000 0000000000000000 0000ffff 00009300\r\nCS =f000 00000000000f0000 0000ffff 00009b00\r\n"
)


@pytest.mark.parametrize(("flags", "halted", "ended"), [(2, 1, True), (2, 0, False), (202, 1, False)])
def test_a_guest_that_waits_for_nothing_has_ended(flags: int, halted: int, ended: bool) -> None:
    sent: list[str] = []
    one = session(sent)
    for _ in range(2):
        one._monitor_says("".join(REGISTERS.format(flags=str(flags).zfill(9), halted=halted) for _ in range(2)))
    assert ("quit" in sent) == ended


# As it answers before the first instruction; a processor that the guest never starts stays so
RESET = (
    "CPU#{number}\r\nEIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT={halted}\r\n"
    "ES =0000 00000000 0000ffff 00009300\r\nCS =f000 ffff0000 0000ffff 00009b00\r\n"
)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_machine_that_has_yet_to_begin_has_not_ended(cpus: int) -> None:
    """On a busy host its first instruction takes a while (seen: status 2, as if it had halted)."""
    sent: list[str] = []
    one = session(sent)
    for _ in range(3):
        one._monitor_says("".join(RESET.format(number=number, halted=min(number, 1)) for number in range(cpus)))
    assert sent == []
    one._monitor_says(REGISTERS.format(flags="000000002", halted=1) + RESET.format(number=1, halted=1))
    one._monitor_says(REGISTERS.format(flags="000000002", halted=1) + RESET.format(number=1, halted=1))
    assert sent == ["quit"]


@settings(max_examples=100, deadline=None)
@given(ANYTHING)
def test_any_word_of_a_disk_that_fails(data: object) -> None:
    one = session([])
    for _ in range(2):
        one._message({"event": "BLOCK_IO_ERROR", "data": data})
    assert len(one._failures) == isinstance(data, dict)


def test_a_disk_that_fails_is_told_once() -> None:
    one = session([])
    full = {"node-name": "disk0", "operation": "write", "reason": "No space left on device", "action": "report"}
    for number in range(100):
        one._message({"event": "BLOCK_IO_ERROR", "data": full})
        one._message({"event": "BLOCK_IO_ERROR", "data": {**full, "node-name": f"other{number}"}})
    assert next(iter(one._failures)) == "overlay.qcow2: a write failed: No space left on device"
    assert len(one._failures) == 16


def test_a_disk_of_bhyve_s_that_fails_is_called_by_its_file() -> None:
    one = session([])
    one._message(
        {"event": "BLOCK_IO_ERROR", "data": {"node-name": "pci0.3.0.disk", "operation": "read", "reason": "x"}}
    )
    assert list(one._failures) == ["a: a read failed: x"]


@settings(max_examples=300, deadline=None)
@given(IDS | ANYTHING, ANYTHING)
def test_any_answer(ident: object, answer: object) -> None:
    sent: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_setaffinity", lambda thread, cpus: pytest.fail("somebody's thread was moved"))
        one = session(sent)
        one._message({"id": ident, "return": answer, "event": answer, "data": answer})
    assert set(sent) <= {"cont", "query-vnc", "quit", "system_powerdown"}


def saving(sent: list[str], told: list[str], steps: list[tuple[int, int]] | None) -> Saving:
    qmp: Any = SimpleNamespace(
        send=lambda command, **arguments: sent.append(command), send_descriptor=lambda fd, command, **arguments: None
    )
    step = None if steps is None else lambda *step: steps.append(step)
    return Saving(qmp, 0, told.append, True, step)


def test_how_far_a_guest_is_saved() -> None:
    """Asked for while somebody wants to know; numbers that are none are not passed on."""
    sent: list[str] = []
    told: list[str] = []
    steps: list[tuple[int, int]] = []
    one = saving(sent, told, steps)
    one.ask()
    assert sent == ["stop", "migrate-set-capabilities", "migrate-set-parameters", "migrate", "query-migrate"]
    answers: list[object] = [{"total": 9, "remaining": 3}, {"total": 9, "remaining": 10}, {"total": "9"}, [], None]
    for memory in answers:
        one.hear({"id": "query-migrate", "return": {"status": "active", "ram": memory}})
    assert (steps, told, one.over) == ([(6, 9)], [], False)
    one.hear({"id": "query-migrate", "return": {"status": "failed", "error-desc": "no room"}})
    assert (told, one.over, sent[-1]) == (["no room"], True, "cont")
    one.ask()
    assert sent[-1] == "cont"
    nobody = saving(sent, told, None)
    nobody.ask()
    assert sent[-1] == "migrate"


@pytest.mark.parametrize("answer", [None, [], {}, {"status": 1}, {"status": "cancelled"}])
def test_an_answer_that_ends_saving(answer: object) -> None:
    told: list[str] = []
    saving([], told, None).hear({"id": "query-migrate", "return": answer})
    assert told == ["its state cannot be written"]


def test_a_guest_that_may_run_on_a_little_later() -> None:
    """QEMU says that it is done before it is: "Migration is not finalized yet"."""
    sent: list[str] = []
    one = session(sent, hold="")
    one.resume()
    refusal = {"id": "cont", "error": {"desc": "Migration is not finalized yet"}}
    one._message(refusal)
    assert sent == ["cont", "cont"] and one._running
    one._attempts = 0
    one._message(refusal)
    assert sent == ["cont", "cont"]
