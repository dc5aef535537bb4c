"""A guest, or an image from somebody else, after the host's files: nothing is opened, by us or by the real QEMU."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bhyveload.cli import bhyveload as cli
from bhyveload.cli import bhyveload_options as options
from bhyveload.errors import HandoffError, ImageError
from bhyveload.handoff.disks import Disk, disk_from_path
from bhyveload.handoff.qemu.command import QemuOptions
from bhyveload.handoff.qemu.session import QemuSession
from bhyveload.image import remembered
from bhyveload.image.open import open_disk
from guest.loader import LoadedVm, load_probe
from support.attacks import descriptor, raw_disk_as_qcow2, raw_disk_as_vmdk
from support.end_to_end import MIB, PROGRAMS, bhyveload, load, needs_gcc, needs_qemu, program, run_guest

pytestmark = needs_gcc
SIZE = 16 * MIB


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(b"a secret of the host's".ljust(4096, b"."))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A guest's second disk, raw."""
    path = tmp_path / "data.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def own_disk(tmp_path: Path, probe_disk: Path) -> Path:
    """A copy of the guest's disk that a test may write to."""
    path = tmp_path / "own.img"
    shutil.copy(probe_disk, path)
    os.truncate(path, SIZE)
    return path


ATTACKS: dict[str, Callable[[Path, Path], None]] = {"vmdk": raw_disk_as_vmdk, "qcow2": raw_disk_as_qcow2}


@contextlib.contextmanager
def running(*words: str | Path) -> Iterator[int]:
    """QEMU's process id while bhyverun runs the VM, which spins."""
    command = [str(PROGRAMS / "bhyverun"), "--accel", "tcg", "--timeout", "60", *map(str, words), "vm"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            while b"probe=end" not in (line := process.stdout.readline()):
                assert line
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield int(children[0])
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(20)


def files_of(pid: int) -> set[str]:
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return {path for path in links if path.startswith("/") and not path.startswith(("/dev/", "/memfd:"))}


@needs_qemu
@pytest.mark.parametrize("form", ATTACKS)
def test_a_raw_disk_stays_a_raw_disk(own_disk: Path, data: Path, secret: Path, form: str) -> None:
    """Load, run, the guest rewrites its data disk, the same commands again."""
    commands = ("-d", own_disk, "-d", data, "-m", "64M", "-e", "probe.end=spin")
    load(*commands)
    ATTACKS[form](data, secret)
    memory = str(Path(os.environ["BHYVE_VMM_DIR"]) / "vm" / "memory")
    with running() as qemu:  # what was loaded still is what it was
        assert files_of(qemu) == {str(own_disk), str(data), memory}
    done = bhyveload("--batch", *commands, "vm", check=65)
    assert f"{data}: was a raw disk before, and looks like {form} now" in done.messages
    assert f"-d {data},format=raw" in done.messages and done.messages.count("\n") == 1
    assert "was a raw disk" in program("bhyverun", "--dry-run", "-d", data, "vm", check=4).messages
    load("-d", own_disk, "-d", f"{data},format=raw", "-m", "64M", "-e", "probe.end=spin")
    with running() as qemu:
        assert files_of(qemu) == {str(own_disk), str(data), memory}
    assert secret.read_bytes().startswith(b"a secret of the host's.")


def test_the_user_s_word_is_not_enough_for_what_contradicts_itself(data: Path, secret: Path) -> None:
    raw_disk_as_vmdk(data, secret)
    done = bhyveload("--batch", "-d", f"{data},format=vmdk", "vm", check=65)
    assert "the footer and the first header contradict each other" in done.messages


def test_backing_is_of_one_disk(own_disk: Path, data: Path, secret: Path) -> None:
    raw_disk_as_qcow2(data, secret)
    done = bhyveload("--batch", "--allow-backing", "-d", own_disk, "-d", data, "vm", check=64)
    assert "-d PATH,backing" in done.messages
    done = bhyveload("--batch", "-d", f"{own_disk},backing", "-d", data, "vm", check=65)
    assert "which is not followed" in done.messages
    program("bhyverun", "--allow-backing", "-d", own_disk, "-d", data, "vm", check=4)


@needs_qemu
@pytest.mark.parametrize(
    "line", ['RW\t8 FLAT "{}" 0', 'RW\v8 FLAT "{}" 0', 'RW 8 FLAT "{}" 0', '# x\fRW 8 FLAT "{}" 0']
)
def test_lines_that_another_reader_obeys(tmp_path: Path, own_disk: Path, secret: Path, line: str) -> None:
    image = descriptor(tmp_path / "disk.vmdk", "RW 32768 ZERO\n" + line.format(secret))
    bhyveload("--batch", "-d", own_disk, "-d", image, "vm", check=65)
    load("-d", own_disk, "-m", "64M")
    program("bhyverun", "--accel", "tcg", "-d", image, "vm", check=4)


@needs_qemu
def test_a_neighbour_is_no_extent(tmp_path: Path, own_disk: Path, secret: Path) -> None:
    folder = tmp_path / "appliance"
    folder.mkdir()
    shutil.copy(secret, folder / ".bashrc")
    shutil.copy(own_disk, folder / "appliance-flat.vmdk")
    image = descriptor(
        folder / "appliance.vmdk", f'RW {SIZE // 512} FLAT "appliance-flat.vmdk" 0\nRW 8 FLAT ".bashrc" 0'
    )
    assert "does not have its name" in bhyveload("--batch", "-d", image, "vm", check=65).messages
    descriptor(image, f'RW {SIZE // 512} FLAT "appliance-flat.vmdk" 0')
    load("-d", image, "-m", "64M", "-e", "probe.end=spin")
    with running() as qemu:
        opened = files_of(qemu)
    assert not any(path.startswith(str(folder)) for path in opened)  # QEMU has a copy, in the cache, and only reads it
    assert len(opened) == 3  # with the memory and what the guest writes


# QEMU itself, had we let such an image through


@pytest.fixture
def vm(tmp_path: Path, probe_kernel: Path) -> Iterator[LoadedVm]:
    machine = load_probe(tmp_path / "probe", probe_kernel, 64 * MIB, {"probe.end": "spin"})
    machine.state.setdefault("loaded", {"disks": []})
    yield machine
    machine.close()


@needs_qemu
def test_qemu_does_not_follow_a_backing_file_that_it_was_not_given(vm: LoadedVm, data: Path, secret: Path) -> None:
    raw_disk_as_qcow2(data, secret)
    with contextlib.closing(QemuSession(vm, QemuOptions([Disk(str(data), format="qcow2")]))) as session:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            session.loop.turn(0.1)
            assert str(secret) not in files_of(session.pid)
        session.stop()


@needs_qemu
@pytest.mark.parametrize("box", [(), ("--no-sandbox",)])
def test_an_image_whose_data_is_elsewhere_since_it_was_loaded(
    tmp_path: Path, own_disk: Path, secret: Path, box: tuple[str, ...]
) -> None:
    """What a guest could make of its image's header that once had broken out of QEMU."""
    image, before = tmp_path / "image.qcow2", secret.read_bytes()
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", own_disk, image], check=True)
    load("-d", image, "-m", "64M", "-e", "probe.end=spin")
    other = secret.with_name("s" * len(secret.name))
    words = ["-o", f"data_file={other},data_file_raw=on", str(image), str(own_disk.stat().st_size)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words], check=True)
    image.write_bytes(image.read_bytes().replace(str(other).encode(), str(secret).encode()))
    done = program("bhyverun", "--accel", "tcg", "--timeout", "20", *box, "vm", check=4)
    assert f"{image}: keeps its data in another file, which is not followed" in done.messages
    assert secret.read_bytes() == before


def test_qemu_gets_no_vmdk(vm: LoadedVm, data: Path, secret: Path) -> None:
    raw_disk_as_vmdk(data, secret)
    with pytest.raises(HandoffError, match="cannot use a disk image of format vmdk"):
        QemuSession(vm, QemuOptions([Disk(str(data), format="vmdk")]))


# Where the format is remembered


def test_where_there_are_no_extended_attributes(
    tmp_path: Path, data: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> bytes:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "getxattr", none)
    monkeypatch.setattr(os, "setxattr", none)
    open_disk(str(data)).close()
    (entry,) = (tmp_path / "state" / "bhyveload" / "formats").iterdir()
    status = data.stat()
    assert entry.name == f"{status.st_dev:x}-{status.st_ino:x}" and entry.read_text() == "raw"
    raw_disk_as_qcow2(data, secret)
    moved = data.rename(tmp_path / "elsewhere.img")
    with pytest.raises(ImageError, match="was a raw disk before"):
        open_disk(str(moved))
    (tmp_path / "state" / "bhyveload" / "formats").chmod(0o777)
    new = tmp_path / "new.img"
    new.write_bytes(bytes(512))
    for words, forgotten in (({}, True), ({"read_only": True}, False), ({"format": "raw"}, False)):
        file = open_disk(str(new), **words)
        assert file.forgotten == forgotten
        file.close()
    told: list[str] = []
    disk_from_path(str(new), tell=told.append)
    disk_from_path(f"{new},format=raw", tell=told.append)
    request = options.LoadRequest([])
    request.files = [options._open_disk(str(new), False), options._open_disk(f"{moved},format=raw", False)]
    monkeypatch.setattr(cli, "warn", lambda name, text: told.append(text))
    for disk in cli._disks("bhyveload", request, sandbox=True):
        disk.close()
    assert told == [remembered.forgotten_warning(str(new), "raw")] * 2


def test_a_disk_that_no_guest_can_write_is_not_marked(data: Path) -> None:
    open_disk(str(data), read_only=True).close()
    assert remembered.ATTRIBUTE not in os.listxattr(data)
    open_disk(str(data)).close()
    assert os.getxattr(data, remembered.ATTRIBUTE) == b"raw"


def test_a_raw_disk_below_an_image_that_does_not_name_its_format(tmp_path: Path, data: Path, secret: Path) -> None:
    """Old overlays do not say what they stand on: its guest must not."""
    top = tmp_path / "top"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", data, "-F", "raw", top], check=True)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", data, "-F", "", top], check=False, capture_output=True)
    content = bytearray(top.read_bytes())
    at = content.find(b"\xe2\x79\x2a\xca")  # the extension that names it
    if at >= 0:
        content[at : at + 4] = b"\0\0\0\1"  # one that nobody knows
    top.write_bytes(content)
    open_disk(str(data)).close()
    open_disk(str(top), allow_backing=True, sandbox=False).close()
    raw_disk_as_qcow2(data, secret)
    with pytest.raises(ImageError, match="was a raw disk before"):
        open_disk(str(top), allow_backing=True, sandbox=False)


@pytest.mark.parametrize(
    ("at", "magic"), [(0, b"QFI\xfb"), (0, b"KDMV"), (0, b"\xfd7zXZ\0"), (0, b"PK\3\4"), (257, b"ustar")]
)
@pytest.mark.parametrize("form", ["raw", "vpc"])
def test_the_first_bytes_of_a_guest_decide_nothing(tmp_path: Path, form: str, at: int, magic: bytes) -> None:
    """A fixed VHD's are the guest's, too, and what helps with a file of another kind is not for the guest to say."""
    disk = tmp_path / "disk"
    more = ["-o", "subformat=fixed"] if form == "vpc" else []
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *more, disk, "1M"], check=True)
    open_disk(str(disk), sandbox=False).close()
    with disk.open("r+b") as file:
        file.seek(at)
        file.write(magic)
    known = {"raw": "raw", "vpc": "vhd"}[form]
    with pytest.raises(ImageError, match=f"was a {known} disk before") as error:
        open_disk(str(disk), sandbox=False)
    assert f"-d {disk},format={known}" in error.value.hint
    opened = open_disk(str(disk), format=known, sandbox=False)
    assert opened.describe()["format"] == known
    opened.close()


def test_an_image_may_become_raw(tmp_path: Path) -> None:
    """Only what was raw could have been written by a guest."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M"], check=True)
    open_disk(str(tmp_path / "disk"), sandbox=False).close()
    assert os.getxattr(tmp_path / "disk", remembered.ATTRIBUTE) == b"qcow2"
    with (tmp_path / "disk").open("r+b") as file:
        file.write(bytes(1 << 16))
    open_disk(str(tmp_path / "disk")).close()
    assert os.getxattr(tmp_path / "disk", remembered.ATTRIBUTE) == b"raw"


# How a disk is named


@pytest.mark.parametrize(
    ("text", "path", "form", "backing", "read_only"),
    [
        ("a.img", "a.img", "", False, False),
        ("a.img,format=raw", "a.img", "raw", False, False),
        ("a.img,format=vpc,ro", "a.img", "vhd", False, True),
        ("a,b.img,backing", "a,b.img", "", True, False),
        ("a.img,backing,format=qcow2", "a.img", "qcow2", True, False),
        ("a.img,backing,b", "a.img,backing,b", "", False, False),
        ("a,", "a,", "", False, False),
    ],
)
def test_words_behind_a_disk(text: str, path: str, form: str, backing: bool, read_only: bool) -> None:
    from bhyveload.image.named import named_disk

    named = named_disk(text)
    assert (named.path, named.format, named.backing, named.read_only) == (path, form, backing, read_only)


def test_a_file_with_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bhyveload.image.named import named_disk

    monkeypatch.chdir(tmp_path)
    Path("a.img,ro").write_bytes(b"")
    assert named_disk("a.img,ro").path == "a.img,ro"
    assert "the format 'qed' is not known" in bhyveload("-d", "a.img,format=qed", "vm", check=64).messages


def test_a_disk_given_twice(own_disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    os.link(own_disk, other)
    done = bhyveload("--batch", "-d", own_disk, "-d", other, "vm", check=64)
    assert f"{other}: is the same disk as one given before ({own_disk})" in done.messages
    load("-d", f"{own_disk},ro", "-d", f"{other},ro", "-m", "64M")
    assert run_guest()["probe"] == "end"
