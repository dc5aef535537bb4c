"""Reading state.json back: everything in it is checked before anybody uses it (docs/state-json.md)."""

from __future__ import annotations

from bhyveload.errors import VmMemoryError, VmStateError
from bhyveload.jsontext import loads, restored
from bhyveload.vm.memory import split_memory
from bhyveload.vm.registers import (
    DESCRIPTORS,
    GENERAL,
    MAX_ACCESS,
    MAX_LIMIT,
    MAX_SELECTOR,
    SEGMENTS,
    Registers,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HINT = "load the guest again"
_MAX_VCPUS = 256
_DESCRIPTOR_LIMITS = {"base": (1 << 64) - 1, "limit": MAX_LIMIT, "access": MAX_ACCESS}


def parse_state(text: bytes, where: str) -> dict[str, object]:
    """The state in ``text``; ``where`` names the file.

    Raises VmStateError: not JSON, another schema, something missing, unknown or out of range.
    """
    try:
        state = restored(loads(text))
    except (ValueError, RecursionError) as error:
        raise VmStateError(f"{where}: not JSON: {str(error)[:100]}", _HINT) from None
    return check_state(state, where)


def check_state(state: Any, where: str) -> dict[str, object]:
    """``state``, if it is what a VM can be opened with; ``where`` names its file.  Raises VmStateError."""
    check = _StateCheck(where)
    check.mapping(state, "state")
    if state.get("schema") != 1 or isinstance(state["schema"], bool):
        raise VmStateError(f"{where}: schema {str(state.get('schema'))[:20]} is not known", "load the guest again")
    check.text(state, "name")
    check.mapping(state.get("loaded"), "loaded")
    memory = check.mapping(state.get("memory"), "memory")
    low = check.number(memory, "low", "memory", (1 << 63) - 1)
    high = check.number(memory, "high", "memory", (1 << 63) - 1)
    try:
        if split_memory(low + high) != (low, high):
            raise check.wrong("memory")
    except VmMemoryError:
        raise check.wrong("memory") from None
    vcpus = state.get("vcpus")
    if not isinstance(vcpus, list) or not 1 <= len(vcpus) <= _MAX_VCPUS:
        raise check.wrong("vcpus")
    for number, vcpu in enumerate(vcpus):
        _check_vcpu(check, vcpu, f"vcpus[{number}]")
    return check.mapping(state, "state")


def _check_vcpu(check: _StateCheck, vcpu: object, what: str) -> None:
    members = check.mapping(vcpu, what)
    for name in check.names(members, "registers", what, frozenset(GENERAL)):
        check.number(members["registers"], name, f"{what}.registers", (1 << 64) - 1)
    for name in check.names(members, "selectors", what, frozenset(SEGMENTS)):
        check.number(members["selectors"], name, f"{what}.selectors", MAX_SELECTOR)
    for name in check.names(members, "descriptors", what, frozenset(DESCRIPTORS)):
        place = f"{what}.descriptors.{name}"
        descriptor = check.mapping(members["descriptors"][name], place)
        for field, limit in _DESCRIPTOR_LIMITS.items():
            check.number(descriptor, field, place, limit)


def memory_of(state: dict[str, Any]) -> tuple[int, int]:
    """(low, high) of a state that ``parse_state`` returned."""
    return state["memory"]["low"], state["memory"]["high"]


def registers_of(state: dict[str, Any], vcpu: int) -> Registers:
    """The registers of a vCPU of a state that ``parse_state`` returned.  Raises VmStateError: no such vCPU."""
    if not 0 <= vcpu < len(state["vcpus"]):
        raise VmStateError(f"VM '{state['name']}' has no vCPU {vcpu}")
    return Registers.of(state["vcpus"][vcpu])


class _StateCheck:
    """Typed access to the parsed JSON of one file; every failure names the member."""

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def wrong(self, what: str) -> VmStateError:
        return VmStateError(f"{self._where}: {what} is missing or wrong", _HINT)

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(what)
        return value

    def text(self, members: dict[str, Any], name: str) -> str:
        value = members.get(name)
        if not isinstance(value, str):
            raise self.wrong(name)
        return value

    def number(self, members: dict[str, Any], name: str, what: str, limit: int) -> int:
        value = members.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise self.wrong(f"{what}.{name}")
        return value

    def names(self, members: dict[str, Any], group: str, what: str, known: frozenset[str]) -> list[str]:
        """The names in a group of registers, all of them known ones."""
        found = list(self.mapping(members.get(group), f"{what}.{group}"))
        for name in found:
            if name not in known:
                raise self.wrong(f"{what}.{group}.{ascii(name)[:40]}")
        return found
