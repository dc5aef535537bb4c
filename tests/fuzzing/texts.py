"""Targets: texts and numbers of the user's and the child's: command lines, sizes, variables, reports, state files; and
the writers that put a machine into ELF."""

from __future__ import annotations

import getopt as standard
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

from bhyveload.cli.getopt import getopt
from bhyveload.confined.wire import decode, encode
from bhyveload.errors import UsageError
from bhyveload.handoff.pvh.pvh_image import write_image, write_stub_elf
from bhyveload.handoff.pvh.stub import build_stub
from bhyveload.jsontext import dumps
from bhyveload.libc import strtol, strtoul
from bhyveload.loader.environment import Environment
from bhyveload.loader.parse import ParseError, parse
from bhyveload.printable import escape
from bhyveload.userboot.dynamic import Dynamic
from bhyveload.userboot.headers import Headers, parse_headers
from bhyveload.userboot.vintage import accepted_version, behaviour, has_old_table
from bhyveload.vm.memsize import parse_memory_size
from bhyveload.vm.state import memory_of, parse_state, registers_of
from fuzzing import Run, Target
from fuzzing.guests import loaded_guest

MIB = 1 << 20


def _getopt() -> Run:
    def run(data: bytes) -> None:
        words = data.decode("latin-1").split("\0")
        try:
            ours: Any = getopt(words, "CSc:d:e:h:l:m:")
        except UsageError:
            ours = None
        try:
            options, operands = standard.getopt(words, "CSc:d:e:h:l:m:")
            theirs: Any = [(name[1:], value) for name, value in options], operands
        except standard.GetoptError:
            theirs = None
        if not any(word.startswith("--") and word != "--" for word in words):
            shown = None if ours is None else ([(name, value or "") for name, value in ours[0]], ours[1])
            assert shown == theirs

    return run


def _getopt_seeds() -> Iterator[bytes]:
    yield b"-C\0-d\0disk\0-e\0a=b\0-m256M\0vm"
    yield b"-CSm1\0--\0-x"
    yield b"-"


def _memsize() -> Run:
    def run(data: bytes) -> None:
        text = data.decode("latin-1")
        for compat in ("13.2", "current"):
            try:
                assert parse_memory_size(text, compat) >= 0
            except UsageError:
                pass

    return run


def _memsize_seeds() -> Iterator[bytes]:
    yield from (b"256M", b"0x10g", b"1T", b" 12", b"-1", b"010k", b"18446744073709551615", b"1e3")


def _line() -> Run:
    environment = Environment()
    environment.set("a", "value of a")
    environment.set("long", "x" * 300)

    def run(data: bytes) -> None:
        line = data.decode("latin-1")
        try:
            words = parse(line, environment)
            assert all(isinstance(word, str) for word in words)
        except ParseError:
            pass
        for function in (strtol, strtoul):
            _, end = function(line)
            assert 0 <= end <= len(line)

    return run


def _line_seeds() -> Iterator[bytes]:
    yield from (
        b"set a=b",
        b'echo "$a ${a}" $long',
        b"\\x41\\101\\n'",
        b"a 'b c' \\",
        b"${",
        b"$",
        b"'\"",
        b"0x7fffffff",
    )


def _variables() -> Run:
    def run(data: bytes) -> None:
        environment = Environment()
        environment.define("fixed", "1", lambda variable, value: 1, lambda variable: 1)
        for part in data.decode("latin-1").split("\n")[:50]:
            operation, text = part[:1], part[1:]
            name, _, value = text.partition("=")
            if operation == "-":
                environment.unset(name)
            elif operation == "!":
                environment.put(text)
            else:
                environment.set(name, value, overwrite=operation != "?")
        names = [variable.name for variable in environment.sorted()]
        assert names == sorted(names)
        assert len(names) == len(set(names))

    return run


def _variable_seeds() -> Iterator[bytes]:
    yield b" a=1\n b=2\n-a\n!c=d=e\n?b=3\n-fixed\n fixed=2"


# Strangers' names on terminals and in JSON


def _escape() -> Run:
    def run(data: bytes) -> None:
        for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape"), data.decode("utf-16", "replace")):
            shown = escape(text)
            assert shown.isascii() and (shown.isprintable() or not shown)
            line = dumps({text: [text]})
            assert line.isascii() and "\n" not in line and "\x7f" not in line
            value = json.loads(line)
            if not any("\ud800" <= char <= "\udfff" for char in text):
                assert value == {text: [text]}

    return run


def _escape_seeds() -> Iterator[bytes]:
    yield from (b"name", b"\x1b]0;title\x07", b"a\nb\r\0", b"\xff\xfe\xc3\xa9", b'"\\', b"\xed\xa0\x80")


# What the child reports


def _wire() -> Run:
    def run(data: bytes) -> None:
        value = decode(data)
        assert decode(encode(value)) == value

    return run


def _wire_seeds() -> Iterator[bytes]:
    yield encode({"end": "exec", "n": -5, "list": [1, None, True, "text"], "big": 1 << 64})
    yield encode([[[[]]]])


def _state() -> Run:
    def run(data: bytes) -> None:
        state = parse_state(data, "state.json")
        memory_of(state)
        registers_of(state, 0)

    return run


def _state_seeds() -> Iterator[bytes]:
    yield json.dumps(
        {
            "schema": 1,
            "name": "x",
            "memory": {"low": MIB, "high": 0},
            "vcpus": [
                {
                    "registers": {"rip": 1, "cr0": 0x80000021},
                    "selectors": {"cs": 8},
                    "descriptors": {"cs": {"base": 0, "limit": 0, "access": 8347}},
                }
            ],
            "loaded": {},
        }
    ).encode()


# A machine on its way into ELF


def _pvh() -> Run:
    size = 16 * MIB
    memory_fd, output = os.memfd_create("guest"), os.memfd_create("output")

    def run(data: bytes) -> None:
        memory, vcpu = loaded_guest(memory_fd, size, wide=bool(len(data) % 2))
        # Page tables as amd64.py makes them: everything below 1 GiB, in 2 MiB pages, mapped again and again
        memory.write(0x3000, struct.pack("<Q", 0x4007) * 512)
        memory.write(0x4000, struct.pack("<Q", 0x6007) * 512)
        memory.write(0x6000, b"".join(struct.pack("<Q", number << 21 | 0x187) for number in range(512)))
        at = 0
        while at + 4 <= len(data):  # place (a page and a byte in it), length, bytes
            page, inside, length = struct.unpack_from("<HBB", data, at)
            memory.write(page % (size >> 12) << 12 | inside << 4, data[at + 4 : at + 4 + length])
            at += 4 + length
        names = sorted(vcpu.registers)
        if data:
            vcpu.registers[names[data[0] % len(names)]] ^= int.from_bytes(data[1:9], "little")
        stub = build_stub(memory, {"vcpus": [vcpu.as_dict()], "memory": {"low": size, "high": 0}, "loaded": {}})
        os.ftruncate(output, 0)
        write_stub_elf(output, stub)
        os.ftruncate(output, 0)
        write_image(output, stub, memory)

    return run


def _pvh_seeds() -> Iterator[bytes]:
    stack = struct.pack("<HBB", 1, 0, 12) + struct.pack("<III", 0, 0x800000, 0x900000)
    yield stack
    yield bytes(9) + stack
    yield bytes(9) + stack + struct.pack("<HBB", 0x9F, 0, 4) + b"data" + struct.pack("<HBB", 0x800, 0, 8) + bytes(8)


# A userboot object, as far as nothing of it is mapped


def _userboot() -> Run:
    def run(data: bytes) -> None:
        headers = parse_headers(memoryview(data))
        if headers.span > 64 * MIB:
            return
        image = bytearray(headers.span)
        for segment in headers.segments:
            piece = data[segment.offset : segment.offset + segment.filesz]
            image[segment.start - headers.lowest : segment.start - headers.lowest + len(piece)] = piece
        dynamic = Dynamic(headers, memoryview(image), 0x10000)
        dynamic.lookup("loader_main")
        dynamic.relocate(lambda name: 0x1234, lambda name: 0x5678)
        dynamic.initialisers()
        mapped: Any = _Mapped(dynamic, headers, memoryview(image))
        old = has_old_table(mapped)
        accepted_version(data, old, 5)
        behaviour(data)

    return run


class _Mapped:
    """What of a mapped object is looked at to tell its age."""

    def __init__(self, dynamic: Dynamic, headers: Headers, image: memoryview) -> None:
        self.lookup, self.executable = dynamic.lookup, headers.executable
        self.address, self.image = headers.lowest, image


def _userboot_seeds() -> Iterator[bytes]:
    from support.userboot_elf import make

    yield make()
    yield make(rela=((0x2400, 8, 0x1000), (0x2408, 1 << 32 | 6, 0)), relr=(0x2410, 7))


TARGETS = [
    Target("getopt", _getopt, _getopt_seeds, rounds=3000, size=256),
    Target("memsize", _memsize, _memsize_seeds, rounds=3000, size=64),
    Target("command-line", _line, _line_seeds, rounds=3000, size=600),
    Target("variables", _variables, _variable_seeds, rounds=1500, size=600),
    Target("escape", _escape, _escape_seeds, rounds=2000, size=200),
    Target("wire", _wire, _wire_seeds, rounds=3000, size=600),
    Target("state", _state, _state_seeds, rounds=2000, size=1500),
    Target("pvh", _pvh, _pvh_seeds, rounds=60, size=2048),
    Target("userboot", _userboot, _userboot_seeds, rounds=500, size=16384),
]
