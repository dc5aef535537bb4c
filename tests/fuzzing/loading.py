"""Targets: what the loader makes of files and typed lines, in this process: kernels, modules, hints, commands, Lua."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from bhyveload.errors import BhyveloadError, FileSystemError
from bhyveload.freebsd_errno import ENOENT
from bhyveload.fs import ufs
from bhyveload.fs.stat import S_IFREG, Stat
from bhyveload.host.callbacks import LoaderCallbacks, LoaderEnd
from bhyveload.loader.commands.table import commands
from bhyveload.loader.files.open_file import F_READ, OpenFile
from bhyveload.loader.interpreter.simple import SimpleInterpreter
from bhyveload.loader.kernel import hints
from bhyveload.loader.kernel.formats import load_file
from bhyveload.loader.main import set_currdev
from bhyveload.loader.state import Loader
from bhyveload.need import load_all
from bhyveload.partition.slices import PARTWILD, SLICEWILD, open_slice
from bhyveload.vm.memory import GuestMemory
from fuzzing import Run, Target
from fuzzing.devices import BytesDevice, Damage
from fuzzing.disks import MIB, damage_seeds, image, on_damaged
from support.places import DATA

MEMORY = 64 * MIB
KERNEL = "/boot/kernel/kernel"


class _Keys:
    """A console whose user holds a key down, so that no countdown waits; a line, when asked for one, is the end of
    input."""

    at_end = True

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)

    def flush(self) -> None:
        pass

    def getc(self) -> int:
        return -1

    def poll(self) -> bool:
        return True


class Content:
    """An open file of the fuzzed bytes."""

    name = "fuzzed"

    def __init__(self, device: BytesDevice) -> None:
        self.device = device
        self.size = device.size

    def stat(self, node: Any) -> Stat:
        return Stat(S_IFREG | 0o644, self.size)

    def open(self, node: Any) -> Any:
        return self

    def read(self, offset: int, length: int) -> list[memoryview]:
        return [self.device.read(offset, max(0, min(length, self.size - offset)))]


_guest: list[GuestMemory] = []


def guest_memory() -> GuestMemory:
    """One memory for all inputs: what an earlier one left there is no part of what is tested."""
    if not _guest:
        fd = os.memfd_create("fuzzed")
        os.ftruncate(fd, MEMORY)
        _guest.append(GuestMemory(fd, MEMORY, 0))
    return _guest[0]


def a_loader(disk: BytesDevice | None = None, current: bool = True) -> Loader:
    """A loader with its commands; delays do not wait."""
    console: Any = _Keys()
    host = LoaderCallbacks(console, guest_memory(), [disk] if disk else [])
    host.delay = lambda usec: None  # type: ignore[method-assign]
    loader = Loader(host, "current" if current else "13.2")
    loader.commands = commands()
    loader.console.probe()
    loader.interpreter = SimpleInterpreter(loader)
    return loader


def with_files(loader: Loader, files: dict[str, BytesDevice]) -> None:
    def opened(path: str, mode: int = 0) -> OpenFile:
        device = files.get(path)
        if device is None:
            raise FileSystemError(ENOENT, f"{path}: no such file")
        content: Any = Content(device)
        return OpenFile(loader.files, path, F_READ, content, None)

    loader.files.open = opened  # type: ignore[method-assign]


def _extracted(name: str, record: str = "modules") -> bytes:
    """A file out of a golden record's disk, through our own reader; b"" where there is none."""
    for path in sorted(DATA.glob(f"golden/*/{record}/disk.img.zst"))[:1]:
        disk = BytesDevice(image(path))
        fs = ufs.probe(open_slice(disk, SLICEWILD, PARTWILD).device, lambda divisor: None)
        try:
            node = fs.lookup(name.encode())
            return b"".join(map(bytes, fs.open(node).read(0, fs.stat(node).size)))
        except FileSystemError:
            pass
    return b""


# Kernels and modules


def _load_kernel(device: BytesDevice) -> None:
    loader = a_loader()
    loader.console.module_verbose = 3
    with_files(loader, {KERNEL: device})
    number, file = load_file(loader, KERNEL, 0x200000)
    assert (number == 0) == (file is not None)
    if file is not None:
        assert 0 <= file.addr < 1 << 64


@functools.cache
def _kernels() -> list[Damage]:
    load_all()
    found = [_extracted(KERNEL, record) for record in ("modules", "i386")]
    return [Damage(data, _load_kernel) for data in found if data]


def _module() -> Run:
    load_all()
    kernel = BytesDevice(_extracted(KERNEL))

    def run(data: bytes) -> None:
        loader = a_loader()
        with_files(loader, {KERNEL: kernel, "/boot/kernel/x.ko": BytesDevice(data)})
        loader.perform(["load", KERNEL])
        loader.perform(["load", "/boot/kernel/x.ko"])
        loader.perform(["lsmod", "-v"])

    return run


def _module_seeds() -> Iterator[bytes]:
    for path in sorted(DATA.glob("golden/*/modules/disk.img.zst"))[:1]:
        disk = BytesDevice(image(path))
        fs = ufs.probe(open_slice(disk, SLICEWILD, PARTWILD).device, lambda divisor: None)
        for folder in (b"/boot/kernel", b"/boot/modules"):
            try:
                found = fs.lookup(folder)
            except FileSystemError:
                continue
            for name, ino in fs.children(found):
                if name.endswith(b".ko"):
                    node = fs.child(ino)
                    yield b"".join(map(bytes, fs.open(node).read(0, fs.stat(node).size)))


def _hints() -> Run:
    def run(data: bytes) -> None:
        loader = a_loader()
        with_files(loader, {"hints": BytesDevice(data)})
        records = hints.read(loader, "hints", len(data))
        if records is None:
            return
        for name, wanted in (("if_x", None), ("kernel", (1, 2, 3))):
            hints.find_version(hints.versions(records), name, wanted)
        for options in (hints.PnpOptions(), hints.PnpOptions(True, True)):
            hints.find_device(loader, records, "pci", "vendor=0x8086;device=0x100e;class=0x20000", options)
            hints.find_device(loader, records, "usb", "vendor=1 product=2", options)

    return run


def _hints_seeds() -> Iterator[bytes]:
    hint = _extracted("/boot/kernel/linker.hints")
    if hint:
        yield hint

    def record(kind: int, *fields: bytes | int) -> bytes:
        body = kind.to_bytes(4, "little")
        for field in fields:
            if isinstance(field, int):
                body = body.ljust((len(body) + 3) // 4 * 4, b"\0") + field.to_bytes(4, "little", signed=True)
            else:
                body += bytes((len(field),)) + field
        body = body.ljust((len(body) + 3) // 4 * 4, b"\0")
        return len(body).to_bytes(4, "little") + body

    yield (
        b"\1\0\0\0"
        + record(1, b"if_x", b"if_x.ko")
        + record(3, b"if_x", 1, b"if_x.ko")
        + record(4, b"pci", b"W32:vendor/device;D:#;", 2, 0x100E8086, b"one", -1, b"two")
    )


# Typed lines


@functools.cache
def boot_disk() -> BytesDevice:
    return BytesDevice(image(sorted(DATA.glob("golden/*/modules/disk.img.zst"))[0]))


_WORDS = """ls load unload lsmod show set unset echo more include lsdev boot autoboot help ? read readtest pnpmatch
pnpload pnpautoload nvstore map-vdisk unmap-vdisk lszfs reloadbe load_geli bcachestat quit reboot"""


def _commands() -> Run:
    load_all()
    disk = boot_disk()

    def run(data: bytes) -> None:
        loader = a_loader(disk, bool(len(data) & 1))
        environment = loader.environment
        environment.define("currdev", "", None, None)
        set_currdev(loader, "disk0p2:")
        assert loader.interpreter is not None
        for line in data.split(b"\n")[:20]:
            loader.interpreter.run(line.decode("latin-1")[:255])

    return run


def _command_seeds() -> Iterator[bytes]:
    for word in _WORDS.split():
        yield word.encode()
        yield f"{word} -v /boot/kernel/kernel a=1".encode()
        yield f"{word} disk0p2:/boot ${{currdev}} \\x41'b c' \"d $e\"".encode()
    yield b"load /boot/kernel/kernel\nload -t raw /boot/loader.conf\nlsmod -v\nunload"
    yield b"set a=1\nset b=$a${a}\nunset a\nshow b\nset console=comconsole,userboot\necho -n x"
    yield b"load /boot/kernel/kernel\nset kernelname=x\nboot -v -s"
    yield b"map-vdisk /boot/loader.conf\nlsdev -v\nls vdisk0:\nunmap-vdisk vdisk0:"
    yield b"nvstore list zfs\nnvstore set zfs a b\nls -l host0:/\nmore /boot/loader.conf"


# Lua


def _lua_primitives() -> Run:
    """Primitives by number with arguments made of the fuzzed bytes, as a script could call them."""
    load_all()
    from bhyveload.loader.interpreter.lua_io import IoLibrary
    from bhyveload.loader.interpreter.lua_lfs import LfsLibrary
    from bhyveload.loader.interpreter.lua_loader import LoaderLibrary

    disk = boot_disk()

    def run(data: bytes) -> None:
        loader = a_loader(disk)
        loader.environment.define("currdev", "", None, None)
        set_currdev(loader, "disk0p2:")
        primitives: dict[str, Callable[..., Any]] = {}
        assert loader.interpreter is not None
        for library in (LoaderLibrary(loader, loader.interpreter.run), IoLibrary(loader), LfsLibrary(loader)):
            primitives.update(library.primitives())
        names = sorted(primitives)
        at = 0
        while at + 2 < len(data) and at < 2000:
            name = names[data[at] % len(names)]
            text = data[at + 2 : at + 2 + data[at + 1] % 64].decode("latin-1")
            at += 2 + data[at + 1] % 64
            number = int.from_bytes(text.encode("latin-1")[:8], "little", signed=True)
            for arguments in _ARGUMENTS.get(name, ("s",)):
                values = [text if kind == "s" else number if kind == "n" else "r" for kind in arguments]
                try:
                    primitives[name](*values)
                except (BhyveloadError, LoaderEnd):
                    pass
                except KeyError:  # a handle that was never given out: the Lua side has only those that were
                    assert name in ("io_read", "io_write", "io_close", "dir_next", "dir_close")

    return run


# s: the text, n: a number, r: "r"; what the Lua side checks before it calls
_ARGUMENTS = {
    "setenv": ("ss",),
    "command": ("s", "ss", "sss"),
    "command_error": ("",),
    "current": ("",),
    "time": ("",),
    "delay": ("n",),
    "exit": ("n",),
    "io_open": ("sr", "ss"),
    "io_read": ("nn",),
    "io_write": ("ns",),
    "io_close": ("n",),
    "dir_next": ("n",),
    "dir_close": ("n",),
    "getchar": ("",),
    "gets": ("",),
    "ischar": ("",),
}


def _lua_seeds() -> Iterator[bytes]:
    for number in range(40):
        for text in (b"/boot/kernel", b"a=1", b"\x01\0\0\0\0\0\0\x80", b"disk0p2:/boot/loader.conf"):
            yield bytes((number, len(text))) + text


def _lua_script() -> Run:
    """Scripts as a guest could write them, in the real interpreter; what does not end is stopped by the tool's limit,
    so only lines that cannot loop are made: one expression of calls."""
    load_all()
    from bhyveload.loader.interpreter.lua import LuaInterpreter

    disk = boot_disk()
    loader = a_loader(disk)
    loader.environment.define("currdev", "", None, None)
    set_currdev(loader, "disk0p2:")
    interpreter = LuaInterpreter(loader)

    def run(data: bytes) -> None:
        text = data[:400].decode("latin-1")
        if any(word in text for word in ("while", "repeat", "for", "goto", "function", "rep", "load", "gsub")):
            return
        interpreter.run(text)

    return run


def _lua_script_seeds() -> Iterator[bytes]:
    for text in (
        'loader.setenv("a", "b")',
        'print(loader.getenv("currdev"), #"x", 7 // 2)',
        'local f = io.open("/boot/loader.conf", "r") print(io.read(f, 10)) io.close(f)',
        'print(lfs.attributes("/boot", "mode"))',
        'local a, b = lfs.dir("/boot") print(a(b))',
        'print(pcall(loader.command, "ls", 1, nil, {}))',
        'print(string.format("%5.3d %s %q", 1, "x", "\\0"))',
        'print(("x"):find("[a-z]", 1), ("k=v"):match("(%w+)=(.*)"))',
        "error(setmetatable({}, {__tostring = error}))",
        'local t = setmetatable({}, {__index = loader}) t.printc("x", t.time())',
        'require("core") dofile("x")',
    ):
        yield text.encode()


TARGETS = [
    Target("elf-kernel", on_damaged(_kernels, _load_kernel), damage_seeds(_kernels), rounds=200),
    Target("elf-module", _module, _module_seeds, rounds=60, size=256 << 10),
    Target("linker-hints", _hints, _hints_seeds, rounds=500, size=16 << 10),
    Target("commands", _commands, _command_seeds, rounds=200),
    Target("lua-primitives", _lua_primitives, _lua_seeds, rounds=200),
    Target("lua-script", _lua_script, _lua_script_seeds, rounds=300),
]
