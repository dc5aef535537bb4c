"""A word that needs another line (stand/ficl/vm.c, VM_RESTART)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.ficl_format import VM_RESTART
from bhyveload.loader.interpreter.forth.throws import Throw

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.interpreter.forth.dictionary import Word


class Restart(Throw):
    """``word`` needs more text: it is run again with the next line, then execution goes on at ``ip``."""

    def __init__(self) -> None:
        super().__init__(VM_RESTART)
        self.word: Word | None = None
        self.ip = 0
