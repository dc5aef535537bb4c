"""The 27 loader callbacks for C: integers, pointers and errno numbers in front of host/callbacks.py's one class.

What userboot relies on: stand/userboot/userboot/; what bhyveload(8) answers: its cb_* functions.  Pointers come from
the loader object and are used as given: a wild one faults in the confined child, as it would in C.
Nothing may unwind through the loader's C frames, so exec, exit, swap_interpreter and every error that is no errno end
in ``leave``, which never returns.
"""

from __future__ import annotations

import ctypes
import os
import time

from bhyveload.errors import EX_SOFTWARE, DataError, FileSystemError, MemoryAccessError
from bhyveload.freebsd_errno import EBADF, EFAULT, EINVAL, EIO, EMFILE, ENAMETOOLONG
from bhyveload.host.callbacks import DIOCGSECTORSIZE, GUEST_ADDRESS_MASK, InputEnded, SwapInterpreter
from bhyveload.userboot.abi import LIBSA_NAME_MAX, FreeBSDStat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from bhyveload.device import Buffer
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.host.interface import HostFile

MAX_OPEN = 64  # libsa has SOPEN_MAX 64 descriptors
MAX_READ = 64 << 20  # more than the loader's whole heap
PATH_MAX = 1024
_NULL_POINTER = ("NULL pointer access",)  # what ctypes says
_NEWLINE = 10
_DRY_LIMIT = 16
_SPIN_POLLS = 64
_SPIN_INTERVAL = 100e-6
_SPIN_PAUSE = 0.005
_STAT_REACH, _OLD_STAT_REACH = 16, 128  # bytes between two locals of one frame
_SHOW_AFTER = 0.05  # seconds that a character may be held back

_memmove = ctypes.memmove
_string_at = ctypes.string_at
monotonic = time.monotonic


class Bridge:
    """Callbacks over ``host``.  ``image`` is a view of the mapped object at ``address``: most pointers lie in it, and
    slices of it are the fastest way to copy.  ``old``: it uses the table without diskwrite (vintage.py).  ``leave`` is
    set before C runs."""

    def __init__(self, host: LoaderCallbacks, address: int, image: memoryview, old: bool = False) -> None:
        self.host = host
        self.leave: Callable[[BaseException], object] | None = None
        self._stat_reach = _OLD_STAT_REACH if old else _STAT_REACH
        self._address = address
        self._image = image
        self._files: dict[int, HostFile] = {}
        self._next_handle = 1
        self._environment: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._dry = 0
        self._spins = 0
        self._polled = 0.0

    def functions(self) -> dict[str, Any]:
        """Member of struct loader_callbacks -> Python function with the C parameters."""
        host = self.host
        return {
            "getc": self._guard(self._getc),
            "putc": self._putc(),
            "poll": self._guard(self._poll),
            "open": self._guard(self._open),
            "close": self._guard(self._close),
            "isdir": self._guard(lambda _arg, handle: host.isdir(self._file(handle))),
            "read": self._guard(self._read),
            "readdir": self._guard(self._readdir),
            "seek": self._guard(self._seek),
            "stat": self._guard(self._stat),
            "diskread": self._diskread(),
            "diskwrite": self._guard(self._diskwrite),
            "copyin": self._copyin(),
            "copyout": self._guard(self._copyout),
            "setreg": self._guard(lambda _arg, register, value: host.setreg(register, value)),
            "setmsr": self._guard(lambda _arg, msr, value: host.setmsr(msr, value)),
            "setcr": self._guard(lambda _arg, cr, value: host.setcr(cr, value)),
            "setgdt": self._guard(lambda _arg, base, size: host.setgdt(base, size)),
            "exec": self._guard(lambda _arg, pc: host.exec(pc)),
            "delay": self._guard(lambda _arg, usec: host.delay(usec)),
            "exit": self._guard(lambda _arg, code: host.exit(code)),
            "getmem": self._guard(self._getmem),
            "diskioctl": self._guard(self._diskioctl),
            "getenv": self._guard(self._getenv),
            "vm_set_register": self._guard(lambda _arg, vcpu, reg, value: host.vm_set_register(vcpu, reg, value)),
            "vm_set_desc": self._guard(
                lambda _arg, vcpu, reg, base, limit, access: host.vm_set_desc(vcpu, reg, base, limit, access)
            ),
            "swap_interpreter": self._guard(self._swap_interpreter),
        }

    # Errors

    def _guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with errors as C wants them: an errno as result, everything else leaves."""

        def guarded(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except BaseException as error:
                return self._failed(error)

        return guarded

    def _failed(self, error: BaseException) -> int:
        """The errno for C to see.  Does not return when ``error`` has none."""
        number = _errno_of(error)
        if number is None:
            self.end(error)
        return number

    def end(self, error: BaseException) -> NoReturn:
        """Leave the loader for good: it ended, or something went wrong that it cannot be told."""
        try:
            if self.leave is not None:
                self.leave(error)
        finally:
            os._exit(EX_SOFTWARE)

    # Memory of the loader object

    def _store(self, destination: int | None, data: Buffer) -> None:
        """Copy ``data`` to the pointer ``destination``.  Raises FileSystemError(EFAULT) for NULL."""
        length = len(data)
        if not length:
            return
        if destination is None:
            raise FileSystemError(EFAULT, "loader object: a null pointer for data")
        at = destination - self._address
        if 0 <= at <= len(self._image) - length:
            self._image[at : at + length] = data
        else:
            _memmove(destination, bytes(data), length)

    def _fetch(self, source: int | None, length: int) -> Buffer:
        """``length`` bytes at the pointer ``source``; the caller has bounded ``length``."""
        if not length:
            return b""
        if source is None:
            raise FileSystemError(EFAULT, "loader object: a null pointer for data")
        at = source - self._address
        if 0 <= at <= len(self._image) - length:
            return self._image[at : at + length]
        return _string_at(source, length)

    # Console

    def _putc(self) -> Callable[[int | None, int], None]:
        putc, flush, failed = self.host.putc, self.host.console.flush, self._failed

        shown = 0.0

        def callback(_arg: int | None, ch: int) -> None:
            nonlocal shown
            try:
                putc(ch)
                if ch == _NEWLINE or monotonic() - shown > _SHOW_AFTER:
                    flush()  # whole lines at once, for a crash must not swallow them; twiddles while they turn
                    shown = monotonic()
            except BaseException as error:
                failed(error)

        return callback

    def _getc(self, _arg: int | None) -> int:
        """The loader asks again and again while there is nothing; when nothing can ever come, that has to end."""
        value = self.host.getc()
        if value != -1:
            self._dry = 0
            return value
        self._dry += 1
        if self._dry > _DRY_LIMIT:
            if self.host.console.at_end:
                raise InputEnded
            time.sleep(_SPIN_PAUSE)  # a device (-c) that is silent: the loader would keep the processor busy
        return value

    def _poll(self, _arg: int | None) -> int:
        """autoboot's countdown polls without pause (its clock is time(3)): give the processor away meanwhile."""
        ready = self.host.poll()
        if not ready:
            self.host.console.flush()
        now = monotonic()
        self._spins = 0 if ready or now - self._polled > _SPIN_INTERVAL else self._spins + 1
        if self._spins > _SPIN_POLLS:
            time.sleep(_SPIN_PAUSE)
            now = monotonic()
        self._polled = now
        return ready

    # Host directory

    def _file(self, handle: int | None) -> HostFile:
        file = self._files.get(handle or 0)
        if file is None:
            raise FileSystemError(EBADF, "loader object: no such file handle")
        return file

    def _open(self, _arg: int | None, name: bytes | None, handle_return: Any) -> int:
        if name is None:
            return EFAULT
        if len(name) >= PATH_MAX:
            return ENAMETOOLONG
        if len(self._files) >= MAX_OPEN:
            return EMFILE
        file = self.host.open(name)
        handle = self._next_handle
        self._next_handle += 1
        self._files[handle] = file
        handle_return[0] = handle
        return 0

    def _close(self, _arg: int | None, handle: int | None) -> int:
        file = self._file(handle)
        del self._files[handle or 0]
        self.host.close(file)
        return 0

    def _read(self, _arg: int | None, handle: int | None, destination: int | None, size: int, resid: Any) -> int:
        file = self._file(handle)
        if destination is None and size:
            return EINVAL  # cb_read's answer to every failure of read(2)
        data = self.host.read(file, min(size, MAX_READ))
        self._store(destination, data)
        if resid:
            resid[0] = size - len(data)
        return 0

    def _readdir(
        self, _arg: int | None, handle: int | None, fileno: Any, kind: Any, namelen: Any, name_return: int | None
    ) -> int:
        number, d_type, name = self.host.readdir(self._file(handle))
        name = name[:LIBSA_NAME_MAX]
        fileno[0] = number & 0xFFFFFFFF
        kind[0] = d_type
        namelen[0] = len(name)
        self._store(name_return, name + b"\0")
        return 0

    def _seek(self, _arg: int | None, handle: int | None, offset: int, whence: int) -> int:
        """0: userboot takes the result for the new offset, as it does upstream."""
        self.host.seek(self._file(handle), offset, whence)
        return 0

    def _stat(
        self,
        _arg: int | None,
        handle: int | None,
        destination: int | None,
        uid: int | None,
        gid: int | None,
        size: int | None,
    ) -> int:
        """Only what bhyveload fills; the rest of the 224 bytes is zero."""
        file = self._file(handle)
        if _together((destination, uid, gid, size), self._stat_reach):
            values = (destination, file.mode, 4), (uid, file.uid, 4), (gid, file.gid, 4), (size, file.size, 8)
            for pointer, value, length in values:
                self._store(pointer, value.to_bytes(length, "little"))
            return 0
        stat = FreeBSDStat(
            st_dev=file.dev, st_ino=file.ino, st_mode=file.mode, st_uid=file.uid, st_gid=file.gid, st_size=file.size
        )
        stat.st_mtim.tv_sec = file.mtime
        self._store(destination, bytes(stat))
        return 0

    # Disks

    def _diskread(self) -> Callable[..., int]:
        diskread, failed, store = self.host.diskread, self._failed, self._store
        address, image = self._address, self._image
        span = len(image)

        def callback(_arg: int | None, unit: int, offset: int, destination: int, size: int, resid: Any) -> int:
            try:
                data = diskread(unit, offset, min(size, MAX_READ))
                length = len(data)
                at = (destination or 0) - address
                if 0 <= at <= span - length:
                    image[at : at + length] = data
                else:
                    store(destination, data)
                if resid:
                    resid[0] = size - length
                return 0
            except BaseException as error:
                return failed(error)

        return callback

    def _diskwrite(self, _arg: int | None, unit: int, offset: int, source: int | None, size: int, resid: Any) -> int:
        disks = self.host.disks
        limit = disks[unit].size if 0 <= unit < len(disks) else 0
        length = max(0, min(size, limit - offset, MAX_READ)) if offset >= 0 else 0
        done = self.host.diskwrite(unit, offset, self._fetch(source, length))
        if resid:
            resid[0] = size - done
        return 0

    def _diskioctl(self, _arg: int | None, unit: int, cmd: int, destination: int | None) -> int:
        value = self.host.diskioctl(unit, cmd)
        self._store(destination, value.to_bytes(4 if cmd == DIOCGSECTORSIZE else 8, "little"))
        return 0

    # Guest memory

    def _copyin(self) -> Callable[..., int]:
        copyin, failed, fetch = self.host.copyin, self._failed, self._fetch
        check = self.host.memory.check

        def callback(_arg: int | None, source: int | None, to: int, size: int) -> int:
            try:
                check(to & GUEST_ADDRESS_MASK, size)  # before `size` bytes are looked at
                copyin(fetch(source, size), to)
                return 0
            except BaseException as error:
                return failed(error)

        return callback

    def _copyout(self, _arg: int | None, source: int, to: int | None, size: int) -> int:
        self._store(to, self.host.copyout(source, size))
        return 0

    def _getmem(self, _arg: int | None, low: Any, high: Any) -> None:
        low[0], high[0] = self.host.getmem()

    # The rest

    def _getenv(self, _arg: int | None, number: int) -> int | None:
        """A string that stays where it is: C copies it after we returned."""
        text = self.host.getenv(number)
        if text is None:
            return None
        kept = self._environment.get(number)
        if kept is None:
            kept = self._environment[number] = ctypes.create_string_buffer(text)
        return ctypes.addressof(kept)

    def _swap_interpreter(self, _arg: int | None, name: bytes | None) -> None:
        if not name:
            raise SwapInterpreter(b"")  # the caller refuses it: "guest failed to request an interpreter"
        self.host.swap_interpreter(name)


def _errno_of(error: BaseException) -> int | None:
    if isinstance(error, FileSystemError):
        return error.errno
    if isinstance(error, MemoryAccessError):
        return EFAULT
    if isinstance(error, DataError):
        return EIO  # a damaged container: the loader says "input/output error" in its own words
    if isinstance(error, ValueError) and error.args == _NULL_POINTER:
        return EFAULT  # a pointer to write a result through
    return None


def _together(pointers: tuple[int | None, ...], reach: int) -> bool:
    """Whether these are pointers to the local variables mode, uid, gid and size of one function.

    Before 2018 stat was called with those four (userboot.h of FreeBSD 10); now it has one pointer, and what ctypes
    finds in the other registers is what was left there.
    """
    places = sorted(pointer or 0 for pointer in pointers)
    steps = [places[i + 1] - places[i] for i in range(3)]
    return places[0] > 0 and all(4 <= step <= reach and step % 4 == 0 for step in steps)
