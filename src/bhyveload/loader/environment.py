"""The loader's variables: sorted by name, with hooks that may refuse (stand/libsa/environment.c).

Names and values are str holding one byte a character (latin-1).  Results are errno numbers, 0 for success, as in C;
hooks also return command results there (setting module_verbose badly gives 2: docs/errata.md, "The loader table").
"""

from __future__ import annotations

from bhyveload.freebsd_errno import ENOENT, EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    SetHook = Callable[["Variable", "str | None"], int]
    UnsetHook = Callable[["Variable"], int]


class Variable:
    """One variable; ``value`` None means set without a value (reads as an empty string).

    ``kenv`` False: not handed to the kernel (EV_NOKENV of the newer loader).
    """

    __slots__ = ("kenv", "name", "sethook", "unsethook", "value")

    def __init__(self, name: str, sethook: SetHook | None, unsethook: UnsetHook | None) -> None:
        self.name = name
        self.value: str | None = None
        self.kenv = True
        self.sethook = sethook
        self.unsethook = unsethook


class Environment:
    """All variables of one loader run."""

    def __init__(self) -> None:
        self._variables: dict[str, Variable] = {}

    def get(self, name: str) -> str | None:
        """getenv: the value, "" for a variable without one, None when unset."""
        variable = self._variables.get(name)
        if variable is None:
            return None
        return variable.value or ""

    def set(self, name: str, value: str | None, overwrite: bool = True) -> int:
        """setenv: 0, or what the variable's hook answered."""
        variable = self._variables.get(name)
        if variable is not None:
            if not overwrite:
                return 0
            variable.kenv = True
            if variable.sethook is not None:
                return variable.sethook(variable, value)
        else:
            variable = self._variables[name] = Variable(name, None, None)
        variable.value = value
        return 0

    def define(
        self,
        name: str,
        value: str | None,
        sethook: SetHook | None,
        unsethook: UnsetHook | None,
        hook: bool = True,
    ) -> int:
        """env_setenv with hooks: they only take effect when the variable is new.  ``hook`` False: the hook that an
        existing variable has is not asked (EV_NOHOOK)."""
        if name in self._variables:
            if hook:
                return self.set(name, value)
            self._variables[name].value = value
            return 0
        variable = self._variables[name] = Variable(name, sethook, unsethook)
        variable.value = value
        return 0

    def put(self, text: str) -> int:
        """putenv: ``name=value``, or ``name`` for a variable without value."""
        name, equals, value = text.partition("=")
        return self.set(name, value if equals else None)

    def unset(self, name: str) -> int:
        """unsetenv: 0, ENOENT, or what the hook answered (EPERM)."""
        variable = self._variables.get(name)
        if variable is None:
            return ENOENT
        if variable.unsethook is not None:
            error = variable.unsethook(variable)
            if error:
                return error
        del self._variables[name]
        return 0

    def remove(self, name: str) -> Variable | None:
        """Take the variable away, hooks or not; what it was."""
        return self._variables.pop(name, None)

    def sorted(self) -> list[Variable]:
        """Every variable in strcmp order of the names."""
        variables = self._variables
        return [variables[name] for name in sorted(variables)]


def no_set(variable: Variable, value: str | None) -> int:
    """env_noset: the variable cannot be changed."""
    return EPERM


def no_unset(variable: Variable) -> int:
    """env_nounset: the variable cannot be removed."""
    return EPERM
