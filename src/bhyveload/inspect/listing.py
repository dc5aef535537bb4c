"""Lines about files: as ls(1) and as sha256sum(1) print them."""

from __future__ import annotations

import time

from bhyveload.fs.stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK
from bhyveload.printable import escape_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.inspect.tree import Member, Named

_KINDS = {S_IFREG: "-", S_IFDIR: "d", S_IFLNK: "l", S_IFCHR: "c", S_IFBLK: "b", S_IFIFO: "p", S_IFSOCK: "s"}
_LAST_SECOND = 253402300799  # of the year 9999
# What sha256sum writes for these bytes in a name; the line then begins with a backslash.
_CHECKSUM_ESCAPES = ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\r", b"\\r"))


def shown(name: bytes) -> str:
    """A guest's name as printable ASCII; the name can be had back from it."""
    return escape_bytes(name, backslash=True)


def long_line(member: Member | Named, name: bytes, link: bytes | None) -> str:
    """Type and permissions, owner, group, size, time (UTC), name, and where a symbolic link points.

    Raises FileSystemError.
    """
    stat = member.stat()
    size = str(stat.size)
    line = f"{mode_text(stat.mode)} {stat.uid:>5} {stat.gid:>5} {size:>11} {time_text(stat.mtime)} {shown(name)}"
    return line if link is None else f"{line} -> {shown(link)}"


def mode_text(mode: int) -> str:
    """strmode(3) without its blank at the end."""
    letters = [_KINDS.get(mode & 0o170000, "?")]
    for shift, special, letter in ((6, 0o4000, "s"), (3, 0o2000, "s"), (0, 0o1000, "t")):
        bits = mode >> shift & 7
        letters.append("r" if bits & 4 else "-")
        letters.append("w" if bits & 2 else "-")
        runs = bits & 1
        if mode & special:
            letters.append(letter if runs else letter.upper())
        else:
            letters.append("x" if runs else "-")
    return "".join(letters)


def time_text(seconds: int) -> str:
    """A time in UTC; its number where it is not one of this calendar."""
    if not 0 <= seconds <= _LAST_SECOND:
        return f"{seconds:>16}"
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def checksum_line(digest: str, path: bytes, terminal: bool) -> bytes:
    """``digest  path`` to the byte as sha256sum(1) of GNU coreutils 9 prints it; for a terminal made printable."""
    if terminal:
        return f"{digest}  {shown(path)}".encode("ascii")
    mark = b""
    for byte, escaped in _CHECKSUM_ESCAPES:
        if byte in path:
            mark = b"\\"
            path = path.replace(byte, escaped)
    return mark + digest.encode("ascii") + b"  " + path
