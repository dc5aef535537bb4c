"""The programs as on FreeBSD: its platform name and Python modules, libvmmapi by its name, Capsicum in the C library.

Libraries of ours stand in for both (tests/data/fake_vmmapi.c, fake_capsicum.c); the kernel is the host's.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support import userboot_testing, vmmapi
from support.end_to_end import PROGRAMS, bhyveload, program
from support.golden import MIB, Record, differences
from support.places import DATA, ROOT
from support.ufs_images import decompress
from support.vmmapi import StandIn

READ, WRITE, BOTH = "0x8001d 0xa0", "0x8001e 0xa0", "0x8001f 0xa0"


@pytest.fixture(scope="module", params=vmmapi.ABIS)
def libraries(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with libvmmapi.so and libcapsicum.so, and the ABI of the first."""
    folder = tmp_path_factory.mktemp("libraries")
    vmmapi.build(folder, request.param)
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    words: list[str | Path] = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "libcapsicum.so"]
    subprocess.run([*words, DATA / "fake_capsicum.c"], check=True)
    return folder, request.param


@pytest.fixture
def capsicum(tmp_path: Path) -> Path:
    """What Capsicum was asked, a line each."""
    return tmp_path / "capsicum"


@pytest.fixture
def host(libraries: tuple[Path, str], tmp_path: Path, capsicum: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder, abi = libraries
    (tmp_path / "dev-vmm").mkdir()
    monkeypatch.setenv("VMM_STANDIN", str(tmp_path / "dev-vmm"))
    monkeypatch.setenv("CAPSICUM_STANDIN", str(capsicum))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("LD_PRELOAD", str(folder / "libcapsicum.so"))
    monkeypatch.setenv("PYTHONPATH", str(DATA / "as_freebsd"))
    return StandIn(folder / "libvmmapi.so", abi, tmp_path / "dev-vmm")


@pytest.fixture
def loader(tmp_path: Path) -> Path:
    """A userboot object that does what do= says."""
    path = tmp_path / "userboot.so"
    path.write_bytes(userboot_testing.build(tmp_path, "-Wl,-Bsymbolic", name="a.o"))
    return path


def load(record: Record, folder: Path, *words: str | Path) -> bytes:
    """The record's boot with the program's defaults; its console."""
    for disk in record.names:
        (folder / disk).write_bytes(decompress(record.folder / f"{disk}.zst"))
        words = (*words, "-d", folder / disk)
    words = (*words, *(word for text in record.environment for word in ("-e", text.decode("latin-1"))))
    size = f"{record.memory_size >> 20}M"
    return bhyveload("--compat", record.version, *words, "-m", size, "vm", keys=record.keys, check=0).out


@pytest.mark.parametrize("name", ["plain", "i386", "iso", "zfs-single"])
def test_loads_into_vmm(name: str, host: StandIn, capsicum: Path, tmp_path: Path) -> None:
    """Without any option: libvmmapi of the system, and a child in capability mode."""
    record = Record("current", name)
    assert load(record, tmp_path, "--require-sandbox") == record.console
    recorded = record.memory()
    assert differences(host.memory("vm", len(recorded)), recorded, record.ignored) == []
    lines = capsicum.read_text().splitlines()
    assert lines[0] == "procctl 0 0 11 9"
    assert lines[-1] == "cap_enter", "everything is limited before"
    rights = re.findall(r"^cap_rights_limit (\d+) (.*)$", "\n".join(lines), re.M)
    assert dict(rights)["2"] in (WRITE, BOTH)
    assert all(value in (READ, WRITE, BOTH) for _, value in rights)
    ioctls = [line.split()[1] for line in lines if line.startswith("cap_ioctls_limit")]
    assert ioctls == [fd for fd, _ in rights]
    assert "catopen libc 1" in lines


def test_the_host_directory(host: StandIn, capsicum: Path, tmp_path: Path) -> None:
    """Its rights are bhyveload(8)'s; a kernel that ignores O_RESOLVE_BENEATH, as this one, has names walked."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "hello").write_text("from the host\n")
    (folder / "out").symlink_to("/etc/passwd")
    done = bhyveload("-h", folder, "-m", "64M", "vm", keys=b"more host0:/hello\nmore host0:/out\nmore host0:/../x\n")
    assert b"from the host" in done.out
    assert b"root:" not in done.out
    assert re.search(r"^cap_rights_limit \d+ 0x8040d 0$", capsicum.read_text(), re.M)


def test_userboot_objects_and_boot(host: StandIn, loader: Path, tmp_path: Path) -> None:
    """-l; and /boot is where a guest's other interpreter is looked for."""
    bhyveload("-l", loader, "-e", "do=boot", "-m", "64M", "vm", check=0)
    assert host.machines() == ["vm"]
    done = bhyveload("--loader-dir", tmp_path, "-e", "do=swap:nix", "-m", "64M", "vm", check=1)
    assert "'nix'" in done.messages
    assert "/usr/local/share" not in done.messages


def test_a_dry_run(host: StandIn, tmp_path: Path) -> None:
    load(Record("current", "plain"), tmp_path, "--dry-run", "--batch")
    assert host.calls() == []


def test_a_kernel_without_capsicum(
    host: StandIn, capsicum: Path, loader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said, as everything that is missing; the load goes on, as bhyveload(8)'s does."""
    monkeypatch.setenv("CAPSICUM_STANDIN_FAIL", "cap_getmode")
    words = ("-l", loader, "-e", "do=boot", "-m", "64M", "vm")
    done = bhyveload(*words, check=0)
    assert re.fullmatch(r"bhyveload: sandbox: this kernel has no Capsicum \(.*\n", done.messages)
    assert capsicum.read_text() == "procctl 0 0 11 9\n"
    assert bhyveload("--require-sandbox", *words).status == 77


@pytest.mark.parametrize("function", ["cap_enter", "cap_rights_limit", "cap_ioctls_limit"])
def test_no_half_box(function: str, host: StandIn, loader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has Capsicum and refuses: nothing is read of a guest's, and the VM goes."""
    monkeypatch.setenv("CAPSICUM_STANDIN_FAIL", function)
    done = bhyveload("-l", loader, "-e", "do=boot", "-m", "64M", "vm", check=77)
    assert done.messages == "bhyveload: the loader cannot be confined: Capsicum: Function not implemented\n"
    assert host.machines() == []


def test_the_store(host: StandIn, loader: Path, vmm_directory: Path) -> None:
    """VMs as directories, without what Linux alone has; bhyveload -c takes the host's own null modem."""
    bhyveload("--vmm=store", "-l", loader, "-e", "do=boot", "-m", "64M", "vm", check=0)
    assert (vmm_directory / "vm" / "state.json").exists()
    assert host.calls() == []
    done = bhyveload("--vmm=store", "-c", "/dev/nmdm77A", "-m", "64M", "vm", check=64)
    assert done.messages.startswith("bhyveload: Could not open '/dev/nmdm77A'")


@pytest.mark.parametrize("option", ["-S", "-C"])
def test_memory_of_the_store_that_stays(option: str, host: StandIn, loader: Path, vmm_directory: Path) -> None:
    """madvise(2) has another name for what core dumps leave out, and there is no /proc to have them keep it."""
    done = bhyveload("--vmm=store", option, "-l", loader, "-e", "do=boot", "-m", "4M", "vm", check=0)
    assert done.messages == ""
    assert (vmm_directory / "vm" / "state.json").exists()


def test_what_was_raw_stays_raw(host: StandIn, loader: Path, tmp_path: Path) -> None:
    """Without extended attributes in Python: the user's folder of states remembers it."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    words = ("-l", loader, "-e", "do=boot", "-d", disk, "-m", "64M", "vm")
    bhyveload(*words, check=0)
    with disk.open("r+b") as file:
        file.write(b"QFI\xfb\0\0\0\3")
    done = bhyveload(*words, check=65)
    assert "was a raw disk before, and looks like qcow2 now" in done.messages


def test_a_disk_of_the_guest_can_be_looked_into(host: StandIn, tmp_path: Path) -> None:
    record = Record("current", "plain")
    (tmp_path / "disk.img").write_bytes(decompress(record.folder / "disk.img.zst"))
    done = program("bhyvedisk", "ls", "--require-sandbox", tmp_path / "disk.img", "/boot", check=0)
    assert b"kernel" in done.out


@pytest.mark.parametrize("name", ["bhyve", "bhyverun", "bhyvectl"])
def test_programs_that_freebsd_has(name: str, host: StandIn) -> None:
    if not (PROGRAMS / name).exists():
        pytest.skip(f"{name} is not installed here: run make setup")
    done = program(name, "vm")
    assert done.status in (4, 71)
    assert done.out == b""
    assert re.fullmatch(
        rf"{name}: {name} of bhyveload is for hosts without vmm\(4\) \(.*/usr/sbin/.*\)\n", done.messages
    )


def test_memory_sizes_above_the_hole(host: StandIn, loader: Path) -> None:
    bhyveload("-l", loader, "-e", "do=boot", "-m", "3080M", "vm", check=0)
    assert host.sizes("vm") == (3072 * MIB, 8 * MIB)


# Guests under QEMU are other hosts' business: their rooms and modules are not reached on FreeBSD (cli/base_system.py).
QEMU_ROOMS = {"bhyve", "guest", "handoff", "running", "saved", "pytest.py"}
# Where a name that Linux alone has is asked for first (remembered.py), or is the other half of a choice (resident.py)
CHOSEN = {("image/remembered.py", "getxattr"), ("image/remembered.py", "setxattr"), ("vm/resident.py", "MADV_DONTDUMP")}


def test_no_name_that_only_linux_has() -> None:
    """What runs on FreeBSD asks Python's modules for nothing that they lack there: also where no test comes by."""
    stand_in = ast.parse((DATA / "as_freebsd" / "sitecustomize.py").read_text())
    table = next(node.value for node in ast.walk(stand_in) if isinstance(node, ast.Assign) and is_table(node))
    assert isinstance(table, ast.Dict)
    linux = {
        (module.id, name)
        for module, names in zip(table.keys, table.values, strict=True)
        if isinstance(module, ast.Name) and isinstance(names, ast.Constant) and isinstance(names.value, str)
        for name in names.value.split()
    }
    assert ("mmap", "MADV_DONTDUMP") in linux
    source = ROOT / "src" / "bhyveload"
    used = set()
    for path in source.rglob("*.py"):
        inside = path.relative_to(source)
        for node in ast.walk(ast.parse(path.read_text())) if inside.parts[0] not in QEMU_ROOMS else ():
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if (node.value.id.lstrip("_"), node.attr) in linux:
                    used.add((str(inside), node.attr))
    assert used == CHOSEN


def is_table(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_LINUX"
