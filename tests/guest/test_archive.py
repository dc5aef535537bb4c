"""What a guest's tar(1) wrote, and what a hostile guest wrote in its place: streams of Python's tarfile and the host's
tar, taken apart by ours."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhyveload.errors import GuestError, HostError
from bhyveload.guest.archive import Archive
from bhyveload.guest.extract import extract

PAX = tarfile.PAX_FORMAT


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


_open: list[int] = []  # of the test that runs


def archive_of(data: bytes, room: int = 1 << 20) -> Archive:
    """``data`` on a disk, zeros behind it."""
    fd = os.memfd_create("disk")
    _open.append(fd)
    os.write(fd, data)
    os.ftruncate(fd, max(room, len(data)))
    return Archive(fd, max(room, len(data)))


def info(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    for member, value in more.items():
        setattr(entry, member, value)
    return entry


def stream(*entries: tarfile.TarInfo, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Entries as they are, regular ones with as many x as they are to have."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.isreg() else None)
    return file.getvalue()


def tree(folder: Path) -> dict[str, object]:
    """Everything below it: kind, permissions, time, content."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        what: object = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_bytes()
        mode = 0 if path.is_symlink() else status.st_mode & 0o777
        found[str(path.relative_to(folder))] = mode, 0 if path.is_symlink() else int(status.st_mtime), what
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "deep" / ("n" * 120) / ("m" * 200)).mkdir(parents=True)
    (folder / "deep" / ("n" * 120) / ("m" * 200) / ("l" * 150)).write_bytes(os.urandom(70_000))
    (folder / "empty").touch()
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o750)
    (folder / "hard").hardlink_to(folder / "run")
    (folder / "deep" / "link").symlink_to("../run")
    (folder / "far").symlink_to("deep/" + "n" * 120)
    (folder / os.fsdecode(b"name \xff\n\xc3\xa4")).write_text("x")
    (folder / "read-only").mkdir()
    (folder / "read-only" / "file").write_text("y")
    (folder / "read-only").chmod(0o555)
    os.utime(folder / "run", (1_000_000_000, 1_000_000_000))
    return folder


@pytest.fixture(autouse=True)
def writable(tmp_path: Path) -> Iterator[None]:
    """pytest has to remove it all, and its process may have only so many files open."""
    yield
    while _open:
        os.close(_open.pop())
    for path in tmp_path.rglob("read-only"):
        path.chmod(0o755)


def test_a_link_to_no_name(target: Path) -> None:
    """Found by fuzzing: the operating system knows no such name."""
    named = stream(info("l", tarfile.SYMTYPE, pax_headers={"linkpath": "a"}), form=PAX)
    left_out = extract(archive_of(named.replace(b"linkpath=a\n", b"linkpath=\0\n")), str(target))
    assert len(left_out) == 1 and left_out[0].startswith("l: a link out of the folder, to")
    assert os.listdir(target) == []


def test_headers_without_end(target: Path) -> None:
    """All of them would be kept until an entry comes."""
    names = iter(range(10**6))
    one = stream(info("f", pax_headers={"x0000000": "v" * 300_000}), form=PAX)[: -(-300_000 // 512 + -3) * 512]
    header = one[: 512 + -(-300_020 // 512) * 512]
    many = b"".join(header.replace(b"x0000000", b"x%07d" % next(names)) for _ in range(8))
    with pytest.raises(GuestError, match="headers without end"):
        extract(archive_of(many, len(many) + 1024), str(target))


def test_sparse_files_of_very_many_pieces(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bhyveload.guest.extract._PIECES_MAX", 1000)
    content = ("600\n" + "0\n0\n" * 600).encode().ljust(3072, b"\0")
    entry = info("s", size=len(content))
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "0"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=PAX) as archive:
        for _ in range(2):
            archive.addfile(entry, io.BytesIO(content))
    data = file.getvalue()
    with pytest.raises(GuestError, match="sparse files of more than 1000 pieces"):
        extract(archive_of(data, len(data)), str(target))


@pytest.mark.parametrize("form", ["pax", "gnu", "posix"])
def test_what_tar_wrote(source: Path, target: Path, form: str) -> None:
    done = subprocess.run(["tar", "-cf", "-", "--format", form, "-C", source, "."], check=True, stdout=subprocess.PIPE)
    steps: list[tuple[int, int]] = []
    assert extract(archive_of(done.stdout), str(target), lambda *step: steps.append(step)) == []
    assert tree(target) == tree(source)
    assert (target / "hard").samefile(target / "run")
    assert steps[-1][0] == steps[-1][1] == 70_000 + 10 + 1 + 1


def test_what_python_wrote(source: Path, target: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=PAX) as archive:
        archive.add(source, ".")
    assert extract(archive_of(file.getvalue()), str(target)) == []
    assert tree(target) == tree(source)


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_sparse_files(tmp_path: Path, target: Path, program: str) -> None:
    """libarchive writes GNU's format 1.0, too; a map that is longer than a block."""
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / "file").open("wb") as file:
        for number in range(200):
            file.seek(number << 17)
            file.write(bytes([number + 1]) * 5000)
        file.truncate(30 << 20)
    tar = shutil.which(program)
    if tar is None:
        pytest.skip(f"{program} is not installed")
    words = ["-cSf", "-", "--format=pax", "--sparse-version=1.0"] if program == "tar" else ["-cf", "-"]
    done = subprocess.run([tar, *words, "-C", str(tmp_path / "s"), "."], check=True, stdout=subprocess.PIPE)
    assert len(done.stdout) < 10 << 20
    assert extract(archive_of(done.stdout), str(target)) == []
    assert (target / "file").read_bytes() == (tmp_path / "s" / "file").read_bytes()
    assert (target / "file").stat().st_blocks < 20 << 11


@pytest.mark.parametrize("form", [PAX, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_times(target: Path, form: int) -> None:
    old = [info("old", mtime=-5.5)] if form == PAX else [info("old", mtime=-5)] if form == tarfile.GNU_FORMAT else []
    data = stream(info("new", mtime=1_700_000_000), info("far", mtime=(1 << 33) - 1), *old, form=form)
    assert extract(archive_of(data), str(target)) == []
    found = {path.name: int(path.stat().st_mtime) for path in target.iterdir()}
    assert found == {"new": 1_700_000_000, "far": (1 << 33) - 1} | ({"old": 0} if old else {})


def test_a_folder_that_is_there_is_filled(source: Path, target: Path, tmp_path: Path) -> None:
    """Files are replaced, not written through: neither links of the user's nor other names of a file."""
    (tmp_path / "outside").write_text("mine")
    target.mkdir()
    (target / "a").symlink_to(tmp_path / "outside")
    (target / "b").hardlink_to(tmp_path / "outside")
    assert extract(archive_of(stream(info("a", size=2), info("b", size=3))), str(target)) == []
    assert (target / "a").read_bytes() == b"xx" and (target / "b").read_bytes() == b"xxx"
    assert (tmp_path / "outside").read_text() == "mine"


LEFT_OUT = {
    "absolute": (info("l", tarfile.SYMTYPE, linkname="/etc/passwd"), "l: a link out of the folder, to /etc/passwd"),
    "upwards": (info("d/l", tarfile.SYMTYPE, linkname="../../x"), "d/l: a link out of the folder"),
    "behind a name": (info("d/l", tarfile.SYMTYPE, linkname="x/../y"), "d/l: a link out of the folder"),
    "itself": (info("l", tarfile.SYMTYPE, linkname=".."), "l: a link out of the folder"),
    "character": (info("c", tarfile.CHRTYPE), "c: a character device"),
    "block": (info("b", tarfile.BLKTYPE), "b: a block device"),
    "pipe": (info("p", tarfile.FIFOTYPE), "p: a pipe"),
    "unknown": (info("u", b"V"), "u: a something unknown"),
    "the folder": (info(".", size=1), ": a file in place of the folder"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_left_out(target: Path, kind: str) -> None:
    entry, reason = LEFT_OUT[kind]
    (line,) = extract(archive_of(stream(entry, info("d/ok", size=1))), str(target))
    assert line.startswith(reason)
    assert [path.name for path in target.rglob("*") if not path.is_dir()] == ["ok"]


def test_links_inside_stay(target: Path) -> None:
    entries = [info("a/b/c", tarfile.DIRTYPE, mode=0o755)]
    entries += [info("a/b/up", tarfile.SYMTYPE, linkname="../.."), info("top", tarfile.SYMTYPE, linkname="a//b/./c")]
    assert extract(archive_of(stream(*entries)), str(target)) == []
    assert (target / "a/b/up").resolve() == target and (target / "top").resolve() == target / "a/b/c"


def changed(data: bytes, at: int, value: bytes) -> bytes:
    """A header's field replaced and its checksum made right."""
    header = bytearray(data[:512])
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


FILE = stream(info("file", size=600))


def pax(**records: str) -> bytes:
    entry = info("file", size=600)
    entry.pax_headers = records
    return stream(entry, form=PAX)


def sparse(text: str, real: str = "600") -> bytes:
    entry = info("file", size=1024)
    entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": real}
    return stream(entry, form=PAX).replace(b"x" * 1024, text.encode().ljust(1024, b"\0"))


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "there is none"),
    "noise": (b"\xff" * 2048, "a number"),
    "checksum": (FILE[:20] + b"!" + FILE[21:], "a header's checksum"),
    "absolute": (stream(info("/etc/x", size=1)), "the path /etc/x"),
    "upwards": (stream(info("a/../../x", size=1)), "the path a/../../x"),
    "deep": (stream(info("a/" * 200 + "x", size=1), form=PAX), "the path a/a/"),
    "long name": (stream(info("n" * 256, size=1), form=PAX), "the path nnn"),
    "long path": (stream(info("n/" * 3000, size=1), form=PAX), "the path n/n"),
    "NUL": (pax(path="a\0b"), "the path a"),
    "too large": (changed(FILE, 124, b"77777777777\0"), "a file of 8589934591 bytes"),
    "negative": (changed(FILE, 124, b"\xff" * 12), "a number"),
    "huge": (changed(FILE, 124, b"\x80" + b"\x7f" * 11), "a number"),
    "no number": (changed(FILE, 124, b"9999        "), "a number"),
    "huge header": (changed(pax(x="y"), 124, b"00010000000\0"), "a header of 2097152 bytes"),
    "pax size": (pax(size="9" * 18), "a file of 999999999999999999 bytes"),
    "pax no size": (pax(size="-1"), "a number"),
    "pax record": (pax(a="b", c="1234567").replace(b" c=1234567", b"Xc=1234567"), "a header's record"),
    "pax length": (pax(a="b").replace(b"6 a=b\n", b"9 a=b\n"), "a header's record"),
    "hard link out": (stream(info("h", tarfile.LNKTYPE, linkname="../x")), "the path ../x"),
    "hard link to a folder": (
        stream(info("d", tarfile.DIRTYPE), info("h", tarfile.LNKTYPE, linkname="d")),
        "a hard link to no file",
    ),
    "sparse version": (pax(**{"GNU.sparse.major": "2"}), "a sparse file of an unknown version"),
    "sparse size": (sparse("0\n", "9" * 19), "a sparse file's size"),
    "sparse map": (sparse("1\n500\n200\n"), "a sparse file's map"),
    "sparse order": (sparse("2\n100\n10\n50\n10\n"), "a sparse file's map"),
    "sparse data": (sparse("1\n0\n600\n"), "a sparse file's map"),
    "sparse count": (sparse("9999999\n"), "a sparse file's size"),
    "sparse without an end": (sparse("1" * 1000), "a sparse file's map"),
    "sparse text": (sparse("x\n"), "a number"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused(tmp_path: Path, target: Path, kind: str) -> None:
    data, reason = HOSTILE[kind]
    archive = archive_of(data, 1 << 16)
    with pytest.raises(GuestError) as caught:
        extract(archive, str(target))
    assert reason in caught.value.message, caught.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file()] in ([], [target / "file"])


def test_through_a_link_of_its_own(target: Path, tmp_path: Path) -> None:
    """A link to a folder, then a file below it: the link is not followed, not even one that was there before."""
    inside = stream(info("d", tarfile.DIRTYPE), info("l", tarfile.SYMTYPE, linkname="d"), info("l/x", size=1))
    with pytest.raises(HostError, match="l/x: Not a directory"):
        extract(archive_of(inside), str(target))
    (target / "m").symlink_to(tmp_path)
    with pytest.raises(HostError, match="m/x: Not a directory"):
        extract(archive_of(stream(info("m/x", size=1))), str(target))
    assert not (tmp_path / "x").exists()
    with pytest.raises(HostError, match="No such file"):
        extract(archive_of(stream(info("h", tarfile.LNKTYPE, linkname="absent"))), str(target))


def test_no_special_permissions(target: Path) -> None:
    extract(archive_of(stream(info("s", size=1, mode=0o6755))), str(target))
    assert (target / "s").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("_ENTRIES_MAX", "more than 2 entries"), ("_APPARENT_MAX", "files are too large")],
)
def test_bounds(target: Path, monkeypatch: pytest.MonkeyPatch, limit: str, reason: str) -> None:
    monkeypatch.setattr(f"bhyveload.guest.extract.{limit}", 2)
    with pytest.raises(GuestError, match=reason):
        extract(archive_of(stream(*(info(name, size=1) for name in "abc"))), str(target))


def test_random_damage_is_refused_or_harmless(tmp_path: Path, source: Path) -> None:
    """Bytes of headers changed at random places: an answer each time, nothing outside of the target."""
    import random

    done = subprocess.run(["tar", "-cf", "-", "--format=pax", "-C", source, "."], check=True, stdout=subprocess.PIPE)
    chance = random.Random(16)
    for number in range(150):
        data = bytearray(done.stdout)
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        folder = tmp_path / "out" / str(number)
        folder.mkdir(parents=True)
        archive, before = archive_of(bytes(data)), len(os.listdir("/proc/self/fd"))
        with contextlib.suppress(GuestError, HostError):
            extract(archive, str(folder / "in"), lambda done, total: None)
        assert len(os.listdir("/proc/self/fd")) == before
        assert [path.name for path in folder.iterdir()] == ["in"]
        for path in folder.rglob("read-only"):
            path.chmod(0o755)
