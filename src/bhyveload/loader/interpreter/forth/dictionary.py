"""The dictionary: words, wordlists, the search order, and the data space that HERE walks through
(stand/ficl/dict.c).

Headers lie in the arena where ficl has them, for scripts that look; what runs is decided by the Word objects alone, so
that nothing a script writes into a header can be executed.
"""

from __future__ import annotations

import struct

from bhyveload.loader.interpreter.forth.ficl_format import (
    BF_DICTSIZE,
    CELL,
    DICTIONARY,
    DICTIONARY_SIZE,
    FICL_DEFAULT_VOCS,
    FW_SMUDGE,
    HASHSIZE,
    WORD_FLAGS,
    WORD_PARAM,
    nFICLNAME,
)
from bhyveload.loader.interpreter.forth.throws import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.interpreter.forth.arena import Arena

    Run = Callable[[], None]

_HEADER = struct.Struct("<QHBBIQQ")
_FULL = "Error: dictionary full"


class Word:
    """One word.  ``xt``: its header's address; ``kind``: what its code does (ficl's code pointer); ``run``: its code as
    a function; ``entry``: the address of its thread, 0 for code; ``does``: push the data field before that; ``heat``:
    how often the thread was called; ``native``: a function that does the same (translate.py)."""

    __slots__ = (
        "bound",
        "does",
        "entry",
        "flags",
        "heat",
        "key",
        "kind",
        "length",
        "name",
        "native",
        "run",
        "smudged",
        "where",
        "xt",
    )

    def __init__(self, xt: int, name: bytes, flags: int, kind: str, where: int) -> None:
        self.xt = xt
        self.name = name[:nFICLNAME]
        self.length = len(name) & 0xFF
        self.key = key_of(name)
        self.flags = flags
        self.kind = kind
        self.where = where  # of the name, where the word's memory begins
        self.run: Run = _nothing
        self.entry = 0
        self.heat = 0
        self.native: Run | None = None
        self.does = False
        self.smudged = False
        self.bound = False  # other words' compiled blocks know what it does

    @property
    def param(self) -> int:
        """The address of its first parameter."""
        return self.xt + WORD_PARAM


class Wordlist:
    """A wordlist: ``words`` by key, the newest of a name; ``history``: all that were defined, oldest first."""

    __slots__ = ("address", "history", "name", "parent", "size", "words")

    def __init__(self, address: int, size: int, name: bytes = b"") -> None:
        self.address = address
        self.size = size
        self.name = name
        self.parent: Wordlist | None = None
        self.words: dict[bytes, Word] = {}
        self.history: list[Word] = []

    def insert(self, word: Word) -> None:
        self.words[word.key] = word
        self.history.append(word)

    def find(self, key: bytes) -> Word | None:
        """Here or in the parents (wid-set-super)."""
        found = self.words.get(key)
        above = self.parent
        for _ in range(64):
            if found is not None or above is None:
                break
            found = above.words.get(key)
            above = above.parent
        return found

    def forget(self, where: int) -> None:
        """Drop the newest words of each bucket down to ``where``, as hashForget walks them."""
        safe: set[int] = set()  # buckets in which a word below ``where`` was met: the older ones stay
        kept: list[Word] = []
        for word in reversed(self.history):
            bucket = hash_of(word.name, word.length) % self.size
            if word.xt < where or bucket in safe:
                safe.add(bucket)
                kept.append(word)
        kept.reverse()
        self.history = kept
        self.words = {word.key: word for word in kept}

    def listed(self) -> list[Word]:
        """The words in the order in which ficl meets them: bucket by bucket, the newest first."""
        buckets: list[list[Word]] = [[] for _ in range(self.size)]
        for word in reversed(self.history):
            buckets[hash_of(word.name, word.length) % self.size].append(word)
        return [word for bucket in buckets for word in bucket]


def key_of(name: bytes) -> bytes:
    """What names are compared by: without case, 31 characters and the length."""
    if len(name) <= nFICLNAME:
        return name.lower()
    return name[:nFICLNAME].lower() + (len(name) & 0xFF).to_bytes(8, "little")


def hash_of(name: bytes, length: int) -> int:
    """hashHashCode: PJW's, in 16 bits."""
    code = length & 0xFFFF
    for char in name.lower():
        code = ((code << 4) + char) & 0xFFFF
        shift = code & 0xF000
        if shift:
            code ^= (shift >> 8) ^ shift
    return code


def _nothing() -> None:
    pass


class Dictionary:
    """``here``: the next free byte; ``newest``: the word last begun (dp->smudge)."""

    __slots__ = (
        "_moved_back",
        "arena",
        "base",
        "codes",
        "compile_list",
        "forth",
        "here",
        "hidden",
        "limit",
        "newest",
        "order",
        "search",
        "size",
        "wordlists",
        "words",
    )

    def __init__(self, arena: Arena, moved_back: Run) -> None:
        """``moved_back`` is called whenever memory of words may be used anew."""
        self.arena = arena
        self._moved_back = moved_back
        self.words: dict[int, Word] = {}
        self.wordlists: dict[int, Wordlist] = {}
        self.codes: dict[str, int] = {}
        self.base = DICTIONARY
        self.size = BF_DICTSIZE
        self.here = DICTIONARY
        self.limit = DICTIONARY + DICTIONARY_SIZE
        self.newest: Word | None = None
        self.forth = self.wordlist(HASHSIZE, b"forth-wordlist")
        self.hidden = self.compile_list = self.forth  # ``hidden`` becomes a list of its own (words_search.py)
        self.order = [self.forth]  # searched from the end
        self.search: tuple[Wordlist, ...] = ()
        self.set_order([self.forth])

    # Data space

    @property
    def cells_used(self) -> int:
        return (self.here - self.base) // CELL

    @property
    def cells_available(self) -> int:
        return self.size - self.cells_used

    def align(self) -> None:
        self.here = (self.here + 7) & ~7

    def append(self, value: int) -> None:
        """dictAppendCell.  Raises Failure when there is no room."""
        here = self.here
        if here + CELL > self.limit:
            raise Failure(_FULL)
        if here & 7:
            self.arena.store(here, value)
        else:
            self.arena.cells[here >> 3] = value
        self.here = here + CELL

    def append_byte(self, value: int) -> None:
        if self.here >= self.limit:
            raise Failure(_FULL)
        self.arena.mem[self.here] = value & 0xFF
        self.here += 1

    def append_string(self, text: bytes) -> int:
        """A counted string with a 0 behind it, at HERE, which stays; the address of the first byte behind."""
        here = self.here
        if here + len(text) + 2 > self.limit:
            raise Failure(_FULL)
        self.arena.mem[here : here + len(text) + 2] = b"%c%b\0" % (len(text), text)
        return here + len(text) + 2

    def allot(self, size: int) -> None:
        """dictCheck and dictAllot: ``size`` bytes more or less.  Raises Failure."""
        room = self.cells_available * CELL
        used = self.cells_used * CELL
        if size >= 0 and (room < size or self.here + size > self.limit):
            raise Failure(_FULL)
        if size <= 0 and used < -size:
            raise Failure("Error: dictionary underflow")
        self.here += size
        if size < 0:
            self._moved_back()

    def move_to(self, address: int) -> None:
        """HERE goes back to ``address``: what lay behind it is gone."""
        if not self.base <= address <= self.limit:
            raise Failure(f"Error: address {address & 0xFFFFFFFFFFFFFFFF:#x} outside of the dictionary")
        self.here = address
        self._moved_back()

    def grow(self, threshold: int, increase: int) -> None:
        """dictCheckThreshold: go on in another block of memory when few cells are left."""
        if self.cells_available >= threshold:
            return
        size = increase * CELL
        block = self.arena.allocate(size) if 0 < increase < 1 << 24 else 0
        if not block:
            raise Failure("Error: out of memory")
        self.base = self.here = block
        self.size = increase
        self.limit = block + size

    # Words

    def create(self, name: bytes, kind: str, flags: int = 0, smudged: bool = False) -> Word:
        """dictAppendWord2: a header at HERE; the word can be found unless it is smudged.  Raises Failure."""
        arena = self.arena
        where = self.here
        stored = name[:nFICLNAME]
        xt = (where + (len(stored) + 1 if stored else 0) + 7) & ~7
        if xt + WORD_PARAM + CELL > self.limit:
            raise Failure(_FULL)
        if stored:
            arena.mem[where : where + len(stored) + 1] = stored + b"\0"
        else:
            where = xt
        code = self.codes.setdefault(kind, len(self.codes) + 1)
        _HEADER.pack_into(arena.mem, xt, 0, 0, flags | (FW_SMUDGE if smudged else 0), len(name) & 0xFF, 0, where, code)
        word = Word(xt, name, flags, kind, where)
        word.smudged = smudged
        self.here = xt + WORD_PARAM
        self.words[xt] = self.newest = word
        if not smudged and stored:
            self.compile_list.insert(word)
        return word

    def unsmudge(self) -> None:
        """The definition is complete: its name can be found."""
        word = self.newest
        assert word is not None
        if word.name:
            self.compile_list.insert(word)
        word.smudged = False
        self.set_flags(word, word.flags)

    def set_flags(self, word: Word, flags: int) -> None:
        word.flags = flags
        self.arena.mem[word.xt + WORD_FLAGS] = flags | (FW_SMUDGE if word.smudged else 0)

    def abort_definition(self) -> None:
        """dictAbortDefinition: the memory of a definition that was not completed is free again."""
        word = self.newest
        if word is not None and word.smudged and self.base <= word.where <= self.limit:
            self.here = word.where
            self._moved_back()

    # Wordlists

    def wordlist(self, buckets: int, name: bytes = b"") -> Wordlist:
        """dictCreateWordlist.  Raises Failure."""
        self.align()
        size = 24 + buckets * CELL
        if not 0 < buckets <= BF_DICTSIZE or self.here + size > self.limit:
            raise Failure(_FULL)
        made = Wordlist(self.here, buckets, name)
        self.arena.mem[self.here : self.here + size] = bytes(size)
        self.here += size
        self.wordlists[made.address] = made
        return made

    def wordlist_at(self, wid: int) -> Wordlist:
        """Raises Failure for a number that is no wordlist's."""
        found = self.wordlists.get(wid)
        if found is None:
            raise Failure(f"Error: {wid & 0xFFFFFFFFFFFFFFFF:#x} is not a wordlist")
        return found

    def set_order(self, order: list[Wordlist]) -> None:
        """The wordlists to search, the last first.  Raises Failure when there are too many."""
        if len(order) > FICL_DEFAULT_VOCS:
            self.reset_order()
            raise Failure("Error: search order overflow")
        self.order = order
        self.search = tuple(reversed(order))

    def reset_order(self) -> None:
        self.compile_list = self.forth
        self.set_order([self.forth])

    def lookup(self, name: bytes) -> Word | None:
        """dictLookup in the search order."""
        key = name.lower() if len(name) <= nFICLNAME else key_of(name)
        for wordlist in self.search:
            word = wordlist.words.get(key)
            if word is not None:
                return word
            if wordlist.parent is not None and (word := wordlist.find(key)) is not None:
                return word
        return None

    def word_at(self, xt: int) -> Word:
        """Raises Failure for a number that is no word's execution token."""
        word = self.words.get(xt)
        if word is None:
            raise Failure(f"Error: {xt & 0xFFFFFFFFFFFFFFFF:#x} is not a word")
        return word
