"""Target: a folder that a guest sends as a tar stream, taken apart in the host's (guest/archive.py, extract.py)."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bhyveload.guest import archive as module
from bhyveload.guest.archive import Archive
from bhyveload.guest.extract import extract
from fuzzing import Run, Target

_MEMORY = "/dev/shm"
_SENTINEL = b"not the guest's"


def _archive() -> Run:
    """With every header's checksum taken for right: the guest writes right ones.  Nothing outside of the folder may
    change, and no link in it may lead out."""
    archive: Any = module
    archive._check_sum = lambda header: None
    place = Path(tempfile.mkdtemp(dir=_MEMORY if os.path.isdir(_MEMORY) else None))
    outside, inside = place / "outside", place / "in"
    outside.write_bytes(_SENTINEL)
    fd = os.memfd_create("stream")

    descriptors = len(os.listdir("/proc/self/fd"))

    def run(data: bytes) -> None:
        os.ftruncate(fd, 0)
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, -(-len(data) // 512) * 512 + 1024)
        try:
            extract(Archive(fd, os.fstat(fd).st_size), str(inside), lambda done, total: None)
        finally:
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert sorted(os.listdir(place)) in (["in", "outside"], ["outside"])
            assert outside.read_bytes() == _SENTINEL and os.stat(outside).st_nlink == 1
            if inside.exists():
                _check(inside)
                shutil.rmtree(inside)

    return run


def _check(inside: Path) -> None:
    for folder, folders, files in os.walk(inside):
        os.chmod(folder, 0o700)
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            assert os.path.realpath(path).startswith(f"{inside}/") or os.path.realpath(path) == str(inside), path
            assert not os.lstat(path).st_mode & 0o7000


def _archive_seeds() -> Iterator[bytes]:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        yield _packed(
            form, [("d", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, ""), ("d/l", tarfile.SYMTYPE, "../d/f")]
        )
        yield _packed(form, [("f", tarfile.REGTYPE, ""), ("h", tarfile.LNKTYPE, "f"), ("p", tarfile.FIFOTYPE, "")])
    yield _packed(tarfile.PAX_FORMAT, [("n" * 150 + "/" + "m" * 120, tarfile.REGTYPE, "")])
    yield _packed(tarfile.GNU_FORMAT, [("n" * 150 + "/" + "m" * 120, tarfile.SYMTYPE, "t" * 150)])
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "9000"}
    yield _packed(
        tarfile.PAX_FORMAT, [("s", tarfile.REGTYPE, "")], sparse, b"1\n8000\n5\n".ljust(512, b"\0") + b"hello"
    )


def _packed(
    form: int, members: list[tuple[str, bytes, str]], headers: dict[str, str] | None = None, content: bytes = b"hello"
) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mtime = kind, target, 1
            info.pax_headers = dict(headers or {})
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue().rstrip(b"\0")


TARGETS = [Target("archive", _archive, _archive_seeds, rounds=300, size=8192)]
