"""What stat tells about a file, for every file system.  Mode bits are POSIX's (sys/stat.h), d_type is FreeBSD's."""

from __future__ import annotations

S_IFMT = 0o170000
S_IFIFO = 0o010000
S_IFCHR = 0o020000
S_IFDIR = 0o040000
S_IFBLK = 0o060000
S_IFREG = 0o100000
S_IFLNK = 0o120000
S_IFSOCK = 0o140000

DT_UNKNOWN, DT_FIFO, DT_CHR, DT_DIR, DT_BLK, DT_REG, DT_LNK, DT_SOCK, DT_WHT = 0, 1, 2, 4, 6, 8, 10, 12, 14


class Stat:
    """``size`` is -1 where only reading to the end tells it."""

    __slots__ = ("dev", "gid", "ino", "mode", "mtime", "size", "uid")

    def __init__(
        self, mode: int, size: int, uid: int = 0, gid: int = 0, mtime: int = 0, ino: int = 0, dev: int = 0
    ) -> None:
        self.mode = mode
        self.size = size
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.ino = ino
        self.dev = dev
