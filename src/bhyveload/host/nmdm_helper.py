"""The process behind an nmdm pair: two pseudo-terminals, what is written to one is read from the other.

A program of its own, standard library only:  nmdm_helper.py PAIR DIRECTORY [DIRECTORY]

Descriptor 3 is the locked lock file, 4 takes "ready" or the reason why not.  It holds both terminals open itself, so
that nobody is hung up when the guest goes, and takes what one side writes whether the other listens or not: the last
64 KiB wait for it.  It ends when its links are removed, by SIGTERM, or when neither end was open for an hour.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty

LOCK, READY = 3, 4
HOLD = 1 << 16  # bytes that wait for a side that does not read
CHUNK = 4096
TICK = 30.0  # seconds between looks at the links
IDLE_TICKS = 120


class Side:
    """One pseudo-terminal.  ``waiting``: what its terminal has not taken yet."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.path = os.ttyname(self.slave)
        os.set_blocking(self.master, False)
        tty.setraw(self.slave)
        self.waiting = b""

    def read(self) -> bytes:
        try:
            return os.read(self.master, CHUNK)
        except OSError:
            return b""

    def add(self, data: bytes) -> None:
        self.waiting = (self.waiting + data)[-HOLD:]
        self.write()

    def write(self) -> None:
        try:
            while self.waiting:
                self.waiting = self.waiting[os.write(self.master, self.waiting[:CHUNK]) :]
        except OSError:
            pass  # it is full

    def alone(self) -> bool:
        """Nobody but us has the terminal open: without us, it is hung up (and what it holds unread is gone)."""
        modes = termios.tcgetattr(self.slave)
        os.close(self.slave)
        poller = select.poll()
        poller.register(self.master, select.POLLHUP)
        hung_up = bool(poller.poll(0))
        self.slave = os.open(self.path, os.O_RDWR | os.O_NOCTTY)
        if hung_up:
            termios.tcsetattr(self.slave, termios.TCSANOW, modes)
        return hung_up


def links_of(pair: str, directories: list[str], sides: tuple[Side, Side]) -> list[tuple[str, str]]:
    """(link, terminal) of every link."""
    ends = zip("AB", sides, strict=True)
    return [(os.path.join(place, pair + end), side.path) for end, side in ends for place in directories]


def make_links(links: list[tuple[str, str]]) -> None:
    """Raises OSError, FileExistsError for a name that is no link of ours."""
    for link, target in links:
        if os.path.lexists(link) and not (os.path.islink(link) and os.readlink(link).startswith("/dev/pts/")):
            raise FileExistsError(17, "something else has that name", link)
        fresh = f"{link}.new{os.getpid()}"
        os.symlink(target, fresh)
        os.rename(fresh, link)


def remove_links(links: list[tuple[str, str]]) -> None:
    for link, target in links:
        try:
            if os.readlink(link) == target:
                os.unlink(link)
        except OSError:
            pass


def in_place(links: list[tuple[str, str]]) -> bool:
    try:
        return all(os.readlink(link) == target for link, target in links)
    except OSError:
        return False


def copy(sides: tuple[Side, Side], links: list[tuple[str, str]], tick: float, idle_ticks: int) -> None:
    """Until the links are gone, or nobody has been there for ``idle_ticks`` ticks."""
    quiet = 0
    while quiet < idle_ticks:
        poller = select.poll()
        for side in sides:
            poller.register(side.master, select.POLLIN | (select.POLLOUT if side.waiting else 0))
        ready = dict(poller.poll(tick * 1000))
        if not ready:
            if not in_place(links):
                return
            quiet += 1
            if quiet == idle_ticks and not (sides[0].alone() and sides[1].alone()):
                quiet = 0
            continue
        quiet = 0
        for side, other in (sides, sides[::-1]):
            events = ready.get(side.master, 0)
            if events & select.POLLOUT:
                side.write()
            if events & select.POLLIN:
                other.add(side.read())


def stop(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def main(pair: str, directories: list[str], tick: float = TICK, idle_ticks: int = IDLE_TICKS) -> None:
    links: list[tuple[str, str]] = []
    try:
        os.chdir("/")
        with open("/proc/self/comm", "w", encoding="ascii", errors="replace") as comm:
            comm.write(pair[:15])
        sides = Side(), Side()
        links = links_of(pair, directories, sides)
        make_links(links)
        os.ftruncate(LOCK, 0)
        os.pwrite(LOCK, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        remove_links(links)
        os.write(READY, f"{error.filename or 'pseudo-terminal'}: {error.strerror}\n".encode())
        return
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        signal.signal(signal.SIGTERM, stop)
        os.write(READY, b"ready\n")
        os.close(READY)
        copy(sides, links, tick, idle_ticks)
    finally:
        remove_links(links)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
