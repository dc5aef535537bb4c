"""FreeBSD's loader interface from inside: tests/guest/testboot.c calls every callback and says what it got."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bhyveload.errors import HostError, KernelError, VmStorageError
from bhyveload.freebsd_errno import ENOEXEC
from bhyveload.host.callbacks import LoaderCallbacks
from bhyveload.userboot.run import prepare
from bhyveload.userboot.vintage import behaviour
from support.userboot_testing import (
    MB,
    MemoryDisk,
    TypedConsole,
    build,
    folder,
    host_for,
    memory,
    patterned_disk,
    run_loader,
)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return build(tmp_path_factory.mktemp("loader"), "-Wl,-Bsymbolic")


def full_host(tmp_path: Path) -> LoaderCallbacks:
    return host_for(
        "all",
        TypedConsole(b"k\x80z"),
        memory=memory(64 * MB, 16 * MB),
        disks=[patterned_disk(), MemoryDisk(bytes(MB), read_only=True)],
        host_directory=folder(tmp_path / "host"),
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("-Wl,-Bsymbolic",),
        ("-Wl,--hash-style=sysv", "-Wl,-z,now"),
        ("-Wl,--hash-style=both", "-DWITH_INIT_ARRAY", "-Wl,-z,norelro"),
        ("-Wl,-z,noseparate-code", "-Wl,-z,max-page-size=0x200000"),
        ("-Wl,-Bsymbolic", "-Wl,-z,pack-relative-relocs"),
        ("-Wl,-Bsymbolic", "-Wl,--hash-style=gnu", "-Wl,-z,relro", "-Wl,-z,now", "-Wl,--build-id"),
        ("-Wl,-z,execstack", "-fcf-protection", "-g", "-Wl,--eh-frame-hdr"),
        ("-Wl,-Bsymbolic", "-Wl,-Ttext-segment=0x410000", "-DWITH_INIT_ARRAY"),
        ("-Wl,-Bsymbolic", "-Os", "-mno-sse", "-msoft-float", "-mno-mmx", "-ffunction-sections", "-fdata-sections"),
    ],
    ids=[
        *("as FreeBSD's", "sysv hash", "initialisers", "2 MiB pages", "packed relocations"),
        *("bound now", "executable stack wanted", "not at zero", "sections"),
    ],
)
def test_every_callback(tmp_path: Path, flags: tuple[str, ...]) -> None:
    host = full_host(tmp_path)
    end = run_loader(build(tmp_path, *flags), host)
    text = end.console.decode("latin-1")
    assert [line for line in text.splitlines() if line.startswith("FAIL")] == []
    assert "A\nok" in text, "putc takes the low eight bits"
    assert text.endswith("failures 0\n")
    assert text.count("\nok ") > 120
    assert end.kind == "ready"
    assert end.calls == [
        "setreg 4 = 0x1000",
        "setmsr 0xc0000080 = 0x500",
        "setcr 4 = 0x2020",
        "setcr 3 = 0x2000",
        "setcr 0 = 0x80000021",
        "setgdt base=0x5000 size=24 (limit 23)",
        "exec rip=0xffffffff80200120",
    ]
    registers = end.vcpu["registers"]
    assert registers["rip"] == 0xFFFFFFFF80200120
    assert (registers["cr3"], registers["cr4"], registers["rsp"]) == (0x2000, 0x20, 0x1000)
    assert registers["rax"] == 0xDEADBEEFCAFEF00D, "vm_set_register"
    assert end.vcpu["descriptors"]["idtr"] == {"base": 0x6000, "limit": 0xFFFFFFFF, "access": 0x93}
    assert end.vcpu["descriptors"]["gdtr"] == {"base": 0x5000, "limit": 23, "access": 0}
    # what the child wrote is in the parent's guest memory
    assert host.memory.read(0x200000, 8) == b"\x11" * 8
    assert host.memory.read(0x1000, 4096) == b"\xa5" * 4096
    assert host.memory.read(0, 1) == b"H"


def test_the_test_loader_notices(tmp_path: Path, loader: bytes) -> None:
    """A check that cannot fail would prove nothing: other disks, memory and keys must be seen."""
    host = host_for("all", TypedConsole(b"x"), disks=[MemoryDisk(bytes(MB)), patterned_disk()])
    host.host_directory = folder(tmp_path / "host")
    failed = {line.split(" got ")[0] for line in run_loader(loader, host).console.decode("latin-1").splitlines()}
    assert {"FAIL getc", "FAIL diskread data on the stack", "FAIL diskwrite read-only", "FAIL getmem high"} <= failed


def test_null_pointers_and_huge_lengths(tmp_path: Path, loader: bytes) -> None:
    host = host_for("nulls", disks=[patterned_disk()], host_directory=folder(tmp_path / "host"))
    text = run_loader(loader, host).console.decode("latin-1")
    assert [line for line in text.splitlines() if line.startswith("FAIL")] == []
    assert text.endswith("failures 0\n")


@pytest.mark.parametrize("seed", range(1, 9))
def test_any_calls_in_any_order(tmp_path: Path, loader: bytes, seed: int) -> None:
    """Thousands of callbacks with arguments of every kind: errno numbers at most, nothing that ends the host."""
    end = run_loader(loader, _with_do(full_host(tmp_path), f"anything:{seed}:2000"))
    if end.kind != "ready":
        assert str(end.value).startswith("HostError: vm_setup_freebsd_registers: GDT at ")
    assert len(end.calls) > 200


def _with_do(host: LoaderCallbacks, do: str) -> LoaderCallbacks:
    host.environment = [f"do={do}".encode()]
    return host


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-Os", "-Os -fno-omit-frame-pointer", "-O2 -mcmodel=large"])
def test_objects_of_before_2018(tmp_path: Path, level: str) -> None:
    """A table without diskwrite, stat with four pointers, no version above 3 (FreeBSD 10 and 11)."""
    host = full_host(tmp_path)
    end = run_loader(build(tmp_path, "-DOLD_TABLE", *level.split()), host)
    text = end.console.decode("latin-1")
    assert [line for line in text.splitlines() if line.startswith("FAIL")] == []
    assert "ok version" in text
    assert "ok mode" in text
    assert text.endswith("failures 0\n")
    assert end.kind == "ready"


def test_objects_of_freebsd_11_3_know_of_other_interpreters(tmp_path: Path) -> None:
    """Version 5 with the old table: swap_interpreter lies one slot lower, too."""
    loader = build(tmp_path, "-DOLD_TABLE", "-DKNOWS_SWAP")
    text = run_loader(loader, full_host(tmp_path)).console.decode("latin-1")
    assert [line for line in text.splitlines() if line.startswith("FAIL")] == []
    assert text.endswith("failures 0\n")
    end = run_loader(loader, host_for("swap:4th"))
    assert (end.kind, end.value) == ("swap", "4th")


@pytest.mark.parametrize(
    ("data", "compat"),
    [
        (b"..., Revision 9.FreeBSD/amd64 User boot lua, Revision 1.2\n\0", "13.2"),
        (b"FreeBSD/amd64 User boot 4th, Revision 3.0\n(date)\0, Revision 1.0", "current"),
        (b"FreeBSD/amd64 User boot, Revision 1.1\n", "13.2"),
        (b"no banner", "current"),
        (b" User boot , Revision x.", "current"),
        (b" User boot , Revision ", "current"),
        (b" User boot , Revision 99999999999999999999.1", "current"),
    ],
)
def test_the_banner_tells_how_the_loader_behaves(data: bytes, compat: str) -> None:
    assert behaviour(data) == compat


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3", "-Os", "-Os -fno-omit-frame-pointer"])
def test_objects_of_today_are_not_taken_for_old_ones(tmp_path: Path, level: str) -> None:
    end = run_loader(build(tmp_path, *level.split()), full_host(tmp_path))
    text = end.console.decode("latin-1")
    assert [line for line in text.splitlines() if line.startswith("FAIL")] == []
    assert "ok diskwrite huge resid" in text
    assert end.kind == "ready"


def test_i386_entry(loader: bytes) -> None:
    host = host_for("i386")
    end = run_loader(loader, host)
    assert end.kind == "ready"
    assert (end.vcpu["registers"]["rip"], end.vcpu["registers"]["rsp"]) == (0x200100, 0x1FDC)
    assert "cr3" not in end.vcpu["registers"]
    assert end.vcpu["descriptors"]["gdtr"] == {"base": 0x3000, "limit": 31, "access": 0}
    assert host.memory.read(0x3008, 8) == 0x00CF9A000000FFFF.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("do", "kind", "value"),
    [
        ("return", "exit", 0),
        ("quit", "exit", 1),
        ("reboot", "exit", 2),
        ("exit7", "exit", 7),
        ("swap:4th", "swap", "4th"),
        ("swap:../../etc/x", "swap", "../../etc/x"),
        ("swapnull", "swap", ""),
        ("deep", "exit", 0),
    ],
)
def test_ends(loader: bytes, do: str, kind: str, value: object) -> None:
    end = run_loader(loader, host_for(do))
    assert (end.kind, end.value) == (kind, value)


def test_nothing_to_do_returns(loader: bytes) -> None:
    end = run_loader(loader, LoaderCallbacks(TypedConsole(), memory()))
    assert (end.kind, end.value) == ("exit", 0)


@pytest.mark.parametrize("do", ["segv", "rodata", "relro", "data-is-no-program"])
def test_a_crash_is_a_signal(loader: bytes, do: str) -> None:
    end = run_loader(loader, host_for(do))
    assert (end.kind, end.value) == ("signal", signal.SIGSEGV)


def test_an_illegal_instruction_is_a_signal(loader: bytes) -> None:
    end = run_loader(loader, host_for("illegal"))
    assert (end.kind, end.value) == ("signal", signal.SIGILL)


def test_an_endless_loop_can_be_stopped(loader: bytes) -> None:
    assert run_loader(loader, host_for("loop"), seconds=0.5).kind == "timeout"


@pytest.mark.parametrize(
    ("do", "text"),
    [
        ("setreg", b"test_setreg(5): not implemented\n"),
        ("setmsr", b"test_setmsr(16): not implemented\n"),
        ("setcr", b"test_setcr(8): not implemented\n"),
    ],
)
def test_registers_bhyveload_does_not_know(loader: bytes, do: str, text: bytes) -> None:
    end = run_loader(loader, host_for(do))
    assert (end.kind, end.value, end.console) == ("exit", 1, text)


def test_waiting_for_a_key_that_cannot_come_ends(loader: bytes) -> None:
    end = run_loader(loader, host_for("getc", TypedConsole(b"", ends=True)))
    assert (end.kind, end.value) == ("error", "InputEnded: ")


def test_waiting_for_a_key_goes_on_while_one_may_come(loader: bytes) -> None:
    assert run_loader(loader, host_for("getc", TypedConsole(b"", ends=False)), seconds=0.5).kind == "timeout"


class FullMemory:
    """Guest memory on a full file system."""

    low, high = 64 * MB, 0

    def check(self, gpa: int, length: int) -> int:
        return gpa

    def write_pieces(self, gpa: int, pieces: object, length: int) -> None:
        raise VmStorageError("guest memory: No space left on device")


def test_a_full_file_system_is_not_silent(loader: bytes) -> None:
    end = run_loader(loader, host_for("bench:c:1:512", memory=FullMemory()))
    assert (end.kind, end.value) == ("error", "VmStorageError: guest memory: No space left on device")


@pytest.mark.parametrize(
    ("version", "text"), [(1, b"1 none none"), (3, b"3 none none"), (4, b"4 none none"), (5, b"5 none none")]
)
def test_older_versions_have_a_shorter_table(loader: bytes, version: int, text: bytes) -> None:
    if version >= 3:  # getenv, by which the test loader is told what to do, is version 3's
        assert run_loader(loader, host_for("version"), version).console == text
    prepare(loader, host_for("version"), version)


@pytest.mark.parametrize("version", [0, 6])
def test_unknown_versions(loader: bytes, version: int) -> None:
    with pytest.raises(ValueError, match=f"version {version}"):
        prepare(loader, host_for("version"), version)


def test_undefined_symbol_is_named(tmp_path: Path) -> None:
    """At once where the object is bound at once, otherwise when the function is called."""
    with pytest.raises(KernelError, match="undefined symbol surely_nowhere") as caught:
        prepare(build(tmp_path, "-DWITH_UNDEFINED", "-Wl,-z,now"), host_for("all"))
    assert caught.value.errno == ENOEXEC
    lazy = build(tmp_path, "-DWITH_UNDEFINED", "-Wl,-z,lazy")
    assert run_loader(lazy, host_for("quit")).value == 1, "never called, as in FreeBSD"
    end = run_loader(lazy, host_for("nothing"))
    assert end.value == "LoaderCrashed: loader object: it called the undefined symbol surely_nowhere"


def test_abort_is_an_error_in_words(tmp_path: Path) -> None:
    end = run_loader(build(tmp_path, "-DWITH_ABORT"), host_for("abort"))
    assert (end.kind, end.value) == ("error", "LoaderCrashed: the loader gave up: it called abort()")


def test_small_stack(loader: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _what: (64 << 10, 64 << 10))
    with pytest.raises(HostError, match="stack is limited to 64 KiB"):
        prepare(loader, host_for("all"))


def test_the_same_object_runs_afresh_each_time(loader: bytes, tmp_path: Path) -> None:
    """After a reboot or swap data and bss are as in the file: nothing is kept between runs."""
    first, second = (run_loader(loader, full_host(tmp_path / name)) for name in _folders(tmp_path))
    assert first.console == second.console
    assert first.kind == second.kind == "ready"


def _folders(tmp_path: Path) -> list[str]:
    for name in ("a", "b"):
        os.mkdir(tmp_path / name)
    return ["a", "b"]
