"""The system: every word in the order in which ficl defines it, and the loader's commands as words
(stand/ficl/words.c ficlCompileCore, stand/ficl/ficl.c ficlInitSystemEx, stand/common/interp_forth.c bf_init).

The order shows in WORDS.  What ficl defines in Forth (stand/ficl/softwords) is Python here, too, but for the words
that must be able to wait for another line or that return into their caller.
"""

from __future__ import annotations

from bhyveload.loader.interpreter.forth import word_names
from bhyveload.loader.interpreter.forth.ficl_format import (
    COMMAND_WORD,
    DOES_WORD,
    FW_COMPILE,
    FW_IMMEDIATE,
    INTERP,
    VM_OUTOFTEXT,
)
from bhyveload.loader.interpreter.forth.machine import ForthMachine
from bhyveload.loader.interpreter.forth.thread import Builder
from bhyveload.loader.interpreter.forth.throws import Failure, InnerExit
from bhyveload.loader.interpreter.forth.word_names import names
from bhyveload.loader.interpreter.forth.words_compile import Compiler, literal_words, structure_words
from bhyveload.loader.interpreter.forth.words_define import (
    defining_words,
    local_words,
    make_constant,
)
from bhyveload.loader.interpreter.forth.words_hidden import hidden_words
from bhyveload.loader.interpreter.forth.words_loader import ForthDescriptors, file_words, loader_words
from bhyveload.loader.interpreter.forth.words_memory import memory_words, space_words
from bhyveload.loader.interpreter.forth.words_search import named_wordlist, search_words
from bhyveload.loader.interpreter.forth.words_stack import arithmetic_words, logic_words, stack_words
from bhyveload.loader.interpreter.forth.words_strings import string_words
from bhyveload.loader.interpreter.forth.words_text import parse_words, print_words
from bhyveload.loader.interpreter.forth.words_tools import Queries, tool_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bhyveload.loader.interpreter.forth.dictionary import Word
    from bhyveload.loader.state import Loader

    Run = Callable[[], None]

_IMMEDIATE = frozenset(names(word_names.IMMEDIATE))
_COMPILE_ONLY = frozenset(names(word_names.COMPILE_ONLY))
_CONSTANTS = {"bl": 32, "false": 0, "true": -1}
_STOCK_CELLS = 3601  # what ficl's own words take (WORDS says so): a script sees as much left as there
_STOCK_CELLS_CURRENT = _STOCK_CELLS - 7 * 6  # without the graphics words

# Words whose definitions are Forth: they wait for lines in their middle, or are run with what CATCH saves
_SOURCE = (
    ": % tib> ['] evaluate catch drop ;",
    ": $ tib> 2dup type cr evaluate ;",
    """: [else] 1 begin begin parse-word dup while
       2dup s" [if]" compare-insensitive 0= if 2drop 1+ else
       2dup s" [else]" compare-insensitive 0= if 2drop 1- dup if 1+ then else
       2dup s" [then]" compare-insensitive 0= >r 2dup s" [endif]" compare-insensitive 0= r> or nip nip if 1- then
       then then ?dup 0= if exit then repeat 2drop refill 0= until drop ; immediate""",
    ": [if] 0= if postpone [else] then ; immediate",
)
# The maker of a command's word: with a 1 under it when compiled, with a 0 when interpreted, its result thrown
_BUILTIN = """: builtin: >in @ ' swap >in ! create , immediate does> @ state @
    if 1 postpone literal compile, postpone throw else 0 swap execute throw then ;"""


class System:
    """A machine with all words, for one loader.  ``commands``: the names of the loader's commands, in their order;
    ``run_command`` runs one, with the name of its word."""

    def __init__(self, loader: Loader, commands: list[str], run_command: Callable[[str], Run]) -> None:
        self.machine = machine = ForthMachine(loader.print)
        self.descriptors = ForthDescriptors()
        self.queries = Queries()
        builder = Builder(machine)
        machine.build = builder.build
        compiler = Compiler(machine)
        self._compiler = compiler
        runs = self._runs(loader)
        self._define(
            names(word_names.CORE), {**runs, "user": runs["(user-number)"]}
        )  # the softword takes its name later
        prefixes = machine.dictionary.wordlist(1, b"<prefixes>")
        make_constant(machine, b"<prefixes>", prefixes.address)
        self._define(names(word_names.PREFIX), runs)
        machine.dictionary.compile_list = prefixes
        self._define(("0x", "0d"), runs)
        machine.dictionary.compile_list = machine.dictionary.forth
        self._define(names(word_names.PLATFORM), runs)
        if loader.version != "current":
            self._define(names(word_names.GRAPHICS), runs)
        self._define(names(word_names.PORTS), runs)
        self._define(names(word_names.PARSE_STEPS), runs)
        self._define_soft(runs)
        self._define_commands(commands, run_command)
        stock = _STOCK_CELLS_CURRENT if loader.version == "current" else _STOCK_CELLS
        machine.dictionary.here = max(machine.dictionary.here, machine.dictionary.base + stock * 8)

    def _runs(self, loader: Loader) -> dict[str, Run]:
        """What each word does, by name."""
        machine, compiler = self.machine, self._compiler
        stack = machine.stack

        def execute() -> None:
            machine.execute(machine.dictionary.word_at(stack.pop()), INTERP)

        def catch() -> None:
            machine.catch(machine.dictionary.word_at(stack.pop()), INTERP)

        def exit_inner() -> None:
            raise InnerExit

        def tib_from() -> None:
            text, address = machine.rest()
            machine.skip(len(text))
            stack.extend((address, len(text)))

        def then_bracket() -> None:
            """[then]: nothing to do any more."""

        runs: dict[str, Run] = {}
        for words in (
            stack_words(machine),
            arithmetic_words(machine),
            logic_words(machine),
            memory_words(machine),
            space_words(machine),
            structure_words(compiler),
            literal_words(compiler),
            defining_words(compiler),
            local_words(compiler),
            print_words(machine),
            parse_words(compiler),
            string_words(machine),
            search_words(machine),
            tool_words(machine, self.queries, loader.console.getchar),
            file_words(machine, loader, self.descriptors),
            loader_words(machine, loader),
        ):
            runs.update(words)
        runs.update(
            {
                "execute": execute,
                "catch": catch,
                "exit-inner": exit_inner,
                "interpret": machine.interpret_token,
                "tib>": tib_from,
                "[then]": then_bracket,
                "[endif]": then_bracket,
            }
        )
        return runs

    def _define(self, which: Iterable[str], runs: dict[str, Run]) -> None:
        dictionary, xt_of = self.machine.dictionary, self._compiler.xt_of
        for name in which:
            flags = (FW_IMMEDIATE if name in _IMMEDIATE else 0) | (FW_COMPILE if name in _COMPILE_ONLY else 0)
            word = dictionary.create(name.encode(), name, flags)
            word.run = runs.get(name) or _cannot_run(name)
            xt_of.setdefault(name, word.xt)

    def _define_soft(self, runs: dict[str, Run]) -> None:
        machine = self.machine
        source = {text.split()[1]: text for text in _SOURCE}
        for name in names(word_names.SOFT):
            if name in _CONSTANTS:
                make_constant(machine, name.encode(), _CONSTANTS[name])
            elif name == "hidden":
                machine.dictionary.hidden = named_wordlist(machine, b"hidden", 1)
            elif name in source:
                self._run(source[name])
            else:
                self._define((name,), runs)
        self._define_hidden(runs)

    def _define_hidden(self, runs: dict[str, Run]) -> None:
        dictionary = self.machine.dictionary
        dictionary.compile_list = dictionary.hidden
        for name, run in hidden_words(self.machine, runs["list-wid"]):
            if run is None:
                self._compiler.xt_of[name] = make_constant(self.machine, name.encode(), 0).xt
            else:
                dictionary.create(name.encode(), name).run = run
        dictionary.compile_list = dictionary.forth

    def _define_commands(self, commands: list[str], run_command: Callable[[str], Run]) -> None:
        """Each command twice: raw in the vocabulary builtins, and as a word that passes its result to THROW."""
        machine = self.machine
        dictionary = machine.dictionary
        builtins = named_wordlist(machine, b"builtins", 1, vocabulary=True)
        dictionary.compile_list = builtins
        self._run(_BUILTIN)
        maker = builtins.words[b"builtin:"]
        entry = self._does_part(maker)
        for name in commands:
            dictionary.compile_list = builtins
            raw = dictionary.create(name.encode(), COMMAND_WORD)
            raw.run = run_command(name)
            dictionary.compile_list = dictionary.forth
            word = dictionary.create(name.encode(), DOES_WORD, FW_IMMEDIATE)
            word.entry, word.does = entry, True
            dictionary.append(entry)
            dictionary.append(raw.xt)

    def _does_part(self, maker: Word) -> int:
        """Where the thread behind DOES> of ``maker`` begins."""
        does = self._compiler.xt_of["(does>)"]
        at = maker.param
        while self.machine.cells[at >> 3] != does:
            at += 8
        return at + 8

    def _run(self, text: str) -> None:
        code = self.machine.run_line(text.encode())
        assert code == VM_OUTOFTEXT, text


def _cannot_run(name: str) -> Run:
    """A word that reads the thread it stands in, run from elsewhere."""

    def run() -> None:
        raise Failure(f"Error: {name} cannot be executed here")

    return run
