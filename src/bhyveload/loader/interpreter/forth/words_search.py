"""Words on wordlists and their order (stand/ficl/search.c, stand/ficl/softwords/softcore.fr)."""

from __future__ import annotations

from bhyveload.loader.interpreter.forth.dictionary import Wordlist, key_of
from bhyveload.loader.interpreter.forth.ficl_format import (
    CELL,
    FICL_DEFAULT_VOCS,
    FW_IMMEDIATE,
    LIST_WORD,
    VOCABULARY_WORD,
)
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.words_define import push_cell
from bhyveload.loader.interpreter.forth.words_stack import to_int
from bhyveload.loader.interpreter.forth.words_text import unsigned_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.machine import ForthMachine

    Run = Callable[[], None]


def named_wordlist(machine: ForthMachine, name: bytes, buckets: int, vocabulary: bool = False) -> Wordlist:
    """A word that gives a new wordlist, or one (VOCABULARY) that puts it in the place of the first in the order."""
    dictionary = machine.dictionary
    wordlist = dictionary.wordlist(buckets)
    word = dictionary.create(name, VOCABULARY_WORD if vocabulary else LIST_WORD)
    dictionary.append(0)
    dictionary.append(wordlist.address)
    wordlist.name = name

    def replace() -> None:
        if not dictionary.order:
            raise Failure("search> error: empty search order")
        dictionary.set_order([*dictionary.order[:-1], wordlist])

    word.run = replace if vocabulary else push_cell(machine, word.param + CELL)
    return wordlist


def search_words(machine: ForthMachine) -> dict[str, Run]:
    s, dictionary, arena, write = machine.stack, machine.dictionary, machine.arena, machine.write
    push, pop = s.append, s.pop
    names: dict[int, int] = {}  # wid -> where its name was put for wid-get-name

    def push_search(wordlist: Wordlist) -> None:
        if len(dictionary.order) >= FICL_DEFAULT_VOCS + 1:
            raise Failure(">search error: search order overflow")
        dictionary.set_order([*dictionary.order, wordlist])

    def pop_search() -> Wordlist:
        if not dictionary.order:
            raise Failure("search> error: empty search order")
        last = dictionary.order[-1]
        dictionary.set_order(dictionary.order[:-1])
        return last

    def to_search() -> None:
        push_search(dictionary.wordlist_at(pop()))

    def search_from() -> None:
        push(pop_search().address)

    def definitions() -> None:
        if not dictionary.order:
            raise Failure("DEFINITIONS error - empty search order")
        dictionary.compile_list = dictionary.order[-1]

    def forth_wordlist() -> None:
        push(dictionary.forth.address)

    def get_current() -> None:
        push(dictionary.compile_list.address)

    def set_current() -> None:
        dictionary.compile_list = dictionary.wordlist_at(pop())

    def ficl_set_current() -> None:
        wordlist = dictionary.wordlist_at(pop())
        get_current()
        dictionary.compile_list = wordlist

    def get_order() -> None:
        s.extend([wordlist.address for wordlist in dictionary.order])
        push(len(dictionary.order))

    def set_order() -> None:
        count = to_int(pop())
        if count > FICL_DEFAULT_VOCS:
            raise Failure("set-order error: list would be too large")
        if count < 0:
            dictionary.reset_order()
            return
        order = [dictionary.wordlist_at(pop()) for _ in range(count)]
        order.reverse()
        dictionary.set_order(order)

    def search_wordlist() -> None:
        wordlist = dictionary.wordlist_at(pop())
        size = pop() & 0xFF
        word = wordlist.find(key_of(arena.read(pop(), size)))
        if word is None:
            push(0)
        else:
            s.extend((word.xt, 1 if word.flags & FW_IMMEDIATE else -1))

    def ficl_wordlist() -> None:
        push(dictionary.wordlist(pop()).address)

    def wordlist() -> None:
        push(dictionary.wordlist(1).address)

    def define_wordlist(vocabulary: bool, counted: bool) -> Run:
        def run() -> None:
            name = machine.parse_name()
            named_wordlist(machine, name, pop() if counted else 1, vocabulary)

        return run

    def wid_get_name() -> None:
        wordlist = dictionary.wordlist_at(pop())
        if not wordlist.name:
            s.extend((0, 0))
            return
        if wordlist.address not in names:
            names[wordlist.address] = arena.allocate(256)
        address = names[wordlist.address]
        if address:
            arena.write(address, wordlist.name[:255] + b"\0")
        s.extend((address, len(wordlist.name[:255])))

    def wid_set_name() -> None:
        name = arena.string(pop())[:255]
        dictionary.wordlist_at(pop()).name = name

    def wid_set_super() -> None:
        child = dictionary.wordlist_at(pop())
        child.parent = dictionary.wordlist_at(pop())

    def brand_wordlist() -> None:
        assert dictionary.newest is not None
        dictionary.wordlist_at(pop()).name = dictionary.newest.name

    def do_vocabulary() -> None:
        """The newest word, which holds a wordlist, becomes a vocabulary."""
        word = dictionary.newest
        assert word is not None
        wordlist = dictionary.wordlist_at(machine.cells[(word.param + CELL) >> 3])

        def replace() -> None:
            pop_search()
            push_search(wordlist)

        word.run = replace

    def previous() -> None:
        pop_search()

    def also() -> None:
        if not dictionary.order:
            raise Failure("search> error: empty search order")
        push_search(dictionary.order[-1])

    def forth() -> None:
        pop_search()
        push_search(dictionary.forth)

    def hide() -> None:
        push_search(dictionary.hidden)
        get_current()
        dictionary.compile_list = dictionary.hidden

    def list_wid(wordlist: Wordlist) -> None:
        if wordlist.name:
            write(wordlist.name.decode("latin-1") + "\n")
        else:
            write(f"(unnamed wid) {unsigned_text(wordlist.address, 16)} \n")

    def list_wid_popped() -> None:
        list_wid(dictionary.wordlist_at(pop()))

    def order() -> None:
        write("Search:\n")
        for one in reversed(dictionary.order):
            write("   ")
            list_wid(one)
        write("\nCompile: ")
        list_wid(dictionary.compile_list)
        write("\n")

    return {
        ">search": to_search,
        "search>": search_from,
        "definitions": definitions,
        "forth-wordlist": forth_wordlist,
        "get-current": get_current,
        "set-current": set_current,
        "ficl-set-current": ficl_set_current,
        "get-order": get_order,
        "set-order": set_order,
        "search-wordlist": search_wordlist,
        "ficl-wordlist": ficl_wordlist,
        "wordlist": wordlist,
        "ficl-named-wordlist": define_wordlist(False, True),
        "ficl-vocabulary": define_wordlist(True, True),
        "vocabulary": define_wordlist(True, False),
        "wid-get-name": wid_get_name,
        "wid-set-name": wid_set_name,
        "wid-set-super": wid_set_super,
        "brand-wordlist": brand_wordlist,
        "do-vocabulary": do_vocabulary,
        "previous": previous,
        "also": also,
        "forth": forth,
        "only": dictionary.reset_order,
        "hide": hide,
        "order": order,
        "list-wid": list_wid_popped,
    }
