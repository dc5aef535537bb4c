"""What ends a word early: the codes of THROW as Python exceptions (stand/ficl/vm.c vmThrow, vmThrowErr)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import (
    VM_ERREXIT,
    VM_INNEREXIT,
    VM_OUTOFTEXT,
)


class Throw(Exception):
    """THROW with a code; CATCH or the end of the line catch it."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Failure(Throw):
    """An error of the interpreter's: its text is printed where it is caught."""

    def __init__(self, text: str) -> None:
        super().__init__(VM_ERREXIT)
        self.text = text


class OutOfText(Throw):
    """The end of the line was reached."""

    def __init__(self) -> None:
        super().__init__(VM_OUTOFTEXT)


class InnerExit(Throw):
    """The word that CATCH runs has ended."""

    def __init__(self) -> None:
        super().__init__(VM_INNEREXIT)


class Jump(Exception):
    """The return address that a word popped is not that of its caller: go on there."""

    def __init__(self, to: int) -> None:
        super().__init__(to)
        self.to = to
