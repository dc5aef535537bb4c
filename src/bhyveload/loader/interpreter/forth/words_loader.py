"""The words that FreeBSD adds for its loader: files, keys, time, variables, guest memory (stand/ficl/loader.c,
stand/ficl/gfx_loader.c, stand/ficl/x86/sysdep.c)."""

from __future__ import annotations

import time

from bhyveload.errors import FileSystemError
from bhyveload.loader.interpreter.forth.ficl_format import INPUT, SOURCE_ID, VM_OUTOFTEXT, VM_QUIT, VM_USEREXIT
from bhyveload.loader.interpreter.forth.throws import Failure
from bhyveload.loader.interpreter.forth.words_stack import signed, to_int
from bhyveload.loader.kernel.metadata import find_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.interpreter.forth.machine import ForthMachine
    from bhyveload.loader.kernel.preloaded import PreloadedFile
    from bhyveload.loader.state import Loader

    Run = Callable[[], None]

SOPEN_MAX = 64
_DIRECTORY = 0o040000
_FORMAT = 0o170000
_NAME_MAX = 256
_LAST_SECOND = (1 << 32) // 1000  # ms: delay(9) takes an int of microseconds
_GRAPHICS = {"fb-setpixel": 2, "fb-line": 5, "fb-bezier": 7, "fb-drawrect": 5, "term-drawrect": 4}
_PRELOADED_FILE = 9  # cells: name, type, args, metadata, loader, addr, size, modules, next
_NO_PORT = 0xFF
_MAX_VARIABLES = 16 << 20  # bytes that scripts set
_PATIENCE = 400  # looks at the keyboard, 20 seconds of a menu's


class ForthDescriptors:
    """The loader's open files by number, the lowest free one first."""

    def __init__(self) -> None:
        self._files: list[OpenFile | None] = [None] * SOPEN_MAX

    def next_free(self) -> int:
        """-1 when all are in use."""
        return self._files.index(None) if None in self._files else -1

    def add(self, file: OpenFile) -> int:
        number = self.next_free()
        if number >= 0:
            self._files[number] = file
        return number

    def get(self, number: int) -> OpenFile | None:
        return self._files[number] if 0 <= number < SOPEN_MAX else None

    def close(self, number: int) -> None:
        file = self.get(number)
        if file is not None:
            file.close()
            self._files[number] = None


def file_words(machine: ForthMachine, loader: Loader, descriptors: ForthDescriptors) -> dict[str, Run]:
    s, arena, cells = machine.stack, machine.arena, machine.cells
    push, pop = s.append, s.pop
    name_buffer = 0

    def pop_file() -> OpenFile | None:
        return descriptors.get(to_int(pop()))

    def fopen() -> None:
        mode, size, address = to_int(pop()), to_int(pop()), pop()
        if size < 0 or address == 0:
            push(-1)
            return
        name = arena.read(address, size).partition(b"\0")[0].decode("latin-1")
        try:
            if not 0 <= mode <= 2 or descriptors.next_free() < 0:
                push(-1)
                return
            push(descriptors.add(loader.files.open(name, mode)))
        except FileSystemError:
            push(-1)

    def fclose() -> None:
        descriptors.close(to_int(pop()))

    def fread() -> None:
        size, address = to_int(pop()), pop()
        file = pop_file()
        if size <= 0 or address == 0 or file is None:
            push(-1)
            return
        arena.check(address, size)
        try:
            data = file.read(size)
        except FileSystemError:
            push(-1)
            return
        arena.write(address, data)
        push(len(data))

    def fwrite() -> None:
        size, address = to_int(pop()), pop()
        file = pop_file()
        if size <= 0 or address == 0 or file is None:
            push(-1)
            return
        data = arena.read(address, size)
        try:
            push(file.write(data))
        except FileSystemError:
            push(-1)

    def fkey() -> None:
        file = pop_file()
        try:
            data = file.read(1) if file is not None else b""
        except FileSystemError:
            data = b""
        push((data[0] ^ 0x80) - 0x80 if data else -1)  # a char is signed

    def fseek() -> None:
        whence, offset = to_int(pop()), to_int(pop())
        file = pop_file()
        try:
            push(file.lseek(offset, whence) if file is not None and 0 <= whence <= 2 else -1)
        except FileSystemError:
            push(-1)

    def is_directory() -> None:
        file = pop_file()
        try:
            push(-1 if file is not None and file.stat().mode & _FORMAT == _DIRECTORY else 0)
        except FileSystemError:
            push(0)

    def freaddir() -> None:
        nonlocal name_buffer
        file = pop_file()
        try:
            entry = file.readdir() if file is not None else None
        except FileSystemError:
            entry = None
        name_buffer = name_buffer or arena.allocate(_NAME_MAX)
        if entry is None or not name_buffer:
            push(0)
            return
        name = entry[2][: _NAME_MAX - 1]
        arena.write(name_buffer, name + b"\0")
        s.extend((name_buffer, len(name), -1))

    def fload() -> None:
        file = pop_file()
        if file is not None:
            execute_file(machine, file, to_int(cells[SOURCE_ID >> 3]))

    return {
        "fopen": fopen,
        "fclose": fclose,
        "fread": fread,
        "fwrite": fwrite,
        "fkey": fkey,
        "fseek": fseek,
        "isdir?": is_directory,
        "freaddir": freaddir,
        "fload": fload,
    }


def execute_file(machine: ForthMachine, file: OpenFile, source_id: int) -> int:
    """ficlExecFD: interpret the lines of a file until one fails; its code, or that of the last line."""
    arena, cells = machine.arena, machine.cells
    saved = cells[SOURCE_ID >> 3]
    cells[SOURCE_ID >> 3] = source_id
    code = VM_OUTOFTEXT
    for line in read_lines(file):
        if not line:
            continue
        block = arena.allocate(len(line))
        if not block:
            raise Failure("Error: out of memory")
        arena.write(block, line)
        code = machine.execute_text(block, len(line))
        arena.free(block)
        if code not in (VM_QUIT, VM_USEREXIT, VM_OUTOFTEXT):
            cells[SOURCE_ID >> 3] = saved
            return code
    cells[SOURCE_ID >> 3] = -1  # words that wait for more text learn that there is none
    machine.execute_text(INPUT, 0)
    cells[SOURCE_ID >> 3] = saved
    return code


def read_lines(file: OpenFile) -> list[bytes]:
    """The lines of a file, as far as it can be read."""
    parts: list[bytes] = []
    size = 0
    try:
        while size < MAX_SCRIPT and (data := file.read(4096)):
            parts.append(data)
            size += len(data)
    except FileSystemError:
        pass
    return b"".join(parts).split(b"\n")


MAX_SCRIPT = 4 << 20


def loader_words(machine: ForthMachine, loader: Loader) -> dict[str, Run]:
    """Keys, time, variables, guest memory, what is loaded."""
    s, arena, console = machine.stack, machine.arena, loader.console
    push, pop = s.append, s.pop
    live: dict[str, tuple[int, int, bytes]] = {}  # variable -> (address, bytes, text): where GETENV put it

    def pop_text() -> str:
        size = to_int(pop())
        return arena.read(pop(), size).partition(b"\0")[0].decode("latin-1")

    def key() -> None:
        push(console.getchar())

    polls = variables = 0

    def key_question() -> None:
        """Nobody answers in a run that never asks: scripts that go on looking for a key wait for ever."""
        nonlocal polls
        if console.ischar():
            polls = 0
            push(-1)
            return
        polls += 1
        if not console.asks and polls > _PATIENCE:
            console.getchar()  # raises
        push(0)

    def ms() -> None:
        loader.host.delay(to_int(min(max(0, pop()), _LAST_SECOND) * 1000))

    def seconds() -> None:
        push(int(time.time()))

    def keep(name: str, value: str, overwrite: bool) -> None:
        nonlocal variables
        environment = loader.environment
        variables += len(name) + len(value) + 64
        if variables > _MAX_VARIABLES:
            variables = sum(len(each.name) + len(each.value or "") + 64 for each in environment.sorted())
            if variables + len(name) + len(value) > _MAX_VARIABLES:
                raise Failure("Error: out of memory")
        environment.set(name, value, overwrite=overwrite)

    def setenv() -> None:
        if len(s) < 4:
            raise IndexError
        name = pop_text()
        keep(name, pop_text(), True)

    def setenv_question() -> None:
        if len(s) < 5:
            raise IndexError
        overwrite = to_int(pop()) != 0
        name = pop_text()
        keep(name, pop_text(), overwrite)

    def getenv() -> None:
        if len(s) < 2:
            raise IndexError
        name = pop_text()
        value = loader.environment.get(name)
        if value is None:
            push(-1)
            return
        text = value.encode("latin-1", "replace").partition(b"\0")[0]
        address, room, shown = live.get(name, (0, -1, b""))
        if room < 0 or shown != text:
            arena.free(address)
            address = arena.allocate(len(text) + 1)
            if not address:
                raise Failure("Error: out of memory")
            arena.write(address, text + b"\0")
            live[name] = address, len(text), text
        s.extend((address, len(text)))

    def unsetenv() -> None:
        if len(s) < 2:
            raise IndexError
        loader.environment.unset(pop_text())

    def copyin() -> None:
        size, gpa, source = pop(), pop(), pop()
        try:
            loader.host.copyin(arena.read(source, size), gpa)
        except FileSystemError as error:
            raise Failure(f"Error: copyin: {error.message}") from None

    def copyout() -> None:
        size, to, gpa = pop(), pop(), pop()
        arena.check(to, size)
        try:
            arena.write(to, loader.host.copyout(gpa, size))
        except FileSystemError as error:
            raise Failure(f"Error: copyout: {error.message}") from None

    records: dict[int, int] = {}  # id of a preloaded file -> its record in the arena
    kept: list[PreloadedFile] = []

    def record(file: PreloadedFile) -> int:
        """struct preloaded_file in the arena, with its strings; 0 without room."""
        if id(file) not in records:
            kept.append(file)
            size = _PRELOADED_FILE * 8
            texts = [text.encode("latin-1", "replace") + b"\0" for text in (file.name, file.type, file.args or "")]
            address = arena.allocate(size + sum(map(len, texts)))
            if not address:
                return 0
            records[id(file)] = address
            at = address + size
            pointers: list[int] = []
            for text in texts:
                arena.write(at, text)
                pointers.append(at)
                at += len(text)
            if file.args is None:
                pointers[2] = 0
            following = loader.preloaded[loader.preloaded.index(file) + 1 :][:1]
            fields = (*pointers, 0, file.loader, file.addr, file.size, 0, 0)
            for number, field in enumerate(fields):
                arena.store(address + number * 8, signed(field))
            if following:
                arena.store(address + 64, record(following[0]))
        return records[id(file)]

    def findfile() -> None:
        type_ = pop_text()
        file = find_file(loader.preloaded, pop_text(), type_)
        push(0 if file is None else record(file))

    def ccall() -> None:
        raise Failure("Error: there are no C functions to call")

    def uuid_from_string() -> None:
        """( addr u -- addr' ): 16 bytes in the order of a struct uuid; 0 for what is none."""
        text = pop_text()
        fields = text.split("-")
        digits = "".join(fields)
        address = 0
        if [len(field) for field in fields] == [8, 4, 4, 4, 12] and all(c in "0123456789abcdefABCDEF" for c in digits):
            raw = bytes.fromhex(digits)
            address = arena.allocate(16)
            if address:
                arena.write(address, raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:])
        elif not text:
            address = arena.allocate(16)  # the nil UUID
            if address:
                arena.write(address, bytes(16))
        push(address)

    def uuid_to_string() -> None:
        """Always -1: FreeBSD's has its test of the status the wrong way round."""
        arena.check(pop(), 16)
        push(-1)

    def is_virtualized() -> None:
        push(0)

    def inb() -> None:
        """There are no ports behind the loader; an absent device reads as ones."""
        s[-1] = _NO_PORT

    def outb() -> None:
        pop()
        pop()

    def no_graphics(count: int) -> Run:
        def run() -> None:
            for _ in range(count):
                pop()

        return run

    def no_image() -> None:
        no_graphics(7)()
        push(0)

    words: dict[str, Run] = {name: no_graphics(count) for name, count in _GRAPHICS.items()}
    words.update(
        {
            "key": key,
            "key?": key_question,
            "ms": ms,
            "seconds": seconds,
            "setenv": setenv,
            "setenv?": setenv_question,
            "getenv": getenv,
            "unsetenv": unsetenv,
            "copyin": copyin,
            "copyout": copyout,
            "findfile": findfile,
            "ccall": ccall,
            "uuid-from-string": uuid_from_string,
            "uuid-to-string": uuid_to_string,
            "isvirtualized?": is_virtualized,
            "inb": inb,
            "outb": outb,
            "fb-putimage": no_image,
            "term-putimage": no_image,
        }
    )
    return words
