"""Named VMs: what /dev/vmm is on FreeBSD, a directory of files here (docs/architecture.md, "What a VM is").

    DIRECTORY/NAME/memory       guest RAM, sparse: low memory, then high memory (vm/memory.py)
    DIRECTORY/NAME/state.json   sizes, registers, what was loaded (docs/state-json.md)
    DIRECTORY/NAME/lock         flock(2): one user at a time; holds the user's process id for messages

Killed at any point, a load leaves the old VM, a VM without state.json (not loaded), or the new VM.  The new memory has
no name until then (O_TMPFILE), so a killed load leaves no gigabytes behind; where a file system cannot do that it is
``memory.new``, replaced by the next load.
"""

from __future__ import annotations

import _signal
import errno
import fcntl
import os
import stat
import sys

from bhyveload.errors import (
    VmBusy,
    VmError,
    VmMemoryError,
    VmNotFound,
    VmNotLoaded,
    VmStateError,
    VmStorageError,
)
from bhyveload.jsontext import compact
from bhyveload.libc import write_all
from bhyveload.new_file import give_name, private_folder, unnamed_file
from bhyveload.vm.directory import as_operand, check_name, not_ours, prepare_directory, storage_error
from bhyveload.vm.huge_pages import ready
from bhyveload.vm.memory import GuestMemory, split_memory
from bhyveload.vm.recall import recall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.vm.registers import Registers

SCHEMA = 1
_MAX_STATE = 64 << 20
_ATTEMPTS = 100
_ENDING = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM


def destroy_machine(name: str, directory: str | None = None) -> None:
    """Remove a VM whatever its state.  Raises VmNotFound, VmBusy, VmNameError, VmStorageError."""
    check_name(name)
    vm = VirtualMachine(name, prepare_directory(directory))
    vm._take_lock(create=False)
    try:
        vm.destroy()
    finally:
        vm.close()


class VirtualMachine:
    """One named VM, locked for us until ``close``: a Machine (vm/interface.py).

    ``create`` one to load a guest, ``open`` one to run it.

    ``memory``: guest RAM; None in a VM that was never loaded.  ``state``: state.json as a dict, None when not loaded.
    ``memory_size``: bytes of guest RAM, low and high.
    """

    __slots__ = ("_lock", "_unnamed", "directory", "memory", "memory_size", "name", "path", "state")

    keeps = True
    starts_over = True

    def __init__(self, name: str, directory: str) -> None:
        """Use ``create`` or ``open``."""
        self.name = name
        self.directory = directory
        self.path = os.path.join(directory, name)
        self.memory: GuestMemory | None = None
        self.memory_size = 0
        self.state: dict[str, object] | None = None
        self._lock = -1
        self._unnamed = False  # the new memory has no name yet (O_TMPFILE)

    @property
    def memory_path(self) -> str:
        """The file that holds guest RAM once the VM is loaded."""
        return os.path.join(self.path, "memory")

    @classmethod
    def create(cls, name: str, memory_size: int, directory: str | None = None) -> VirtualMachine:
        """A VM to load a guest into, with fresh memory of ``memory_size`` bytes.

        A VM of that name that exists already keeps its memory and state until ``commit``.

        Raises VmNameError, VmMemoryError, VmBusy (another process uses it), VmStorageError.
        """
        check_name(name)
        low, high = split_memory(memory_size)
        vm = cls(name, prepare_directory(directory))
        vm._take_lock(create=True)
        try:
            vm._new_memory(low, high)
        except BaseException:
            vm.abandon()
            raise
        return vm

    @classmethod
    def open(
        cls, name: str, directory: str | None = None, *, require_loaded: bool = False, lock: bool = True
    ) -> VirtualMachine:
        """An existing VM with its memory and state.  ``lock=False`` is for looking at one that may be running:
        its memory can only be read then.

        Raises VmNameError, VmNotFound, VmBusy, VmNotLoaded (when ``require_loaded``), VmStateError (state.json or the
        memory file is damaged), VmStorageError.
        """
        check_name(name)
        vm = cls(name, prepare_directory(directory))
        vm._check_folder()
        if lock:
            vm._take_lock(create=False)
        try:
            vm._read_state(os.O_RDWR if lock else os.O_RDONLY)
            if require_loaded and vm.state is None:
                raise VmNotLoaded(
                    f"VM '{name}' holds no loaded guest", f"load one: bhyveload -d disk {as_operand(name)}"
                )
        except BaseException:
            vm.close()
            raise
        return vm

    def registers(self, vcpu: int = 0) -> Registers:
        """A vCPU's registers from ``state``.  Raises VmNotLoaded."""
        from bhyveload.vm.state import registers_of

        if self.state is None:
            raise VmNotLoaded(
                f"VM '{self.name}' holds no loaded guest", f"load one: bhyveload -d disk {as_operand(self.name)}"
            )
        return registers_of(self.state, vcpu)

    def recall(self) -> Sequence[str] | None:
        """What the load before this one needed; None: there was none."""
        return recall(self.path)

    def loading(self) -> GuestMemory:
        """The memory to load into.  Raises VmError: ``create`` made none, or it has been loaded."""
        if self.memory is None or not self.memory.fresh:
            raise VmError(
                f"VM '{self.name}' is not being loaded: it was opened, or holds a guest already",
                f"VirtualMachine.create('{self.name}', ...) takes the old guest's place when the new one is loaded",
            )
        return self.memory

    def restart(self) -> GuestMemory:
        """Fresh, zero memory for a loader that starts over (reboot, other interpreter), behind the same descriptor."""
        memory = self.loading()
        try:
            os.ftruncate(memory.fd, 0)
            os.ftruncate(memory.fd, memory.low + memory.high)
        except OSError as error:
            raise storage_error(self.path, error) from None
        self.memory = GuestMemory(memory.fd, memory.low, memory.high, huge=ready())
        return self.memory

    def commit(
        self, vcpus: Sequence[Registers], loaded: dict[str, object], extra: dict[str, object] | None = None
    ) -> None:
        """Make the new memory, registers and report the VM.

        Everything that can fail for want of space comes first.  From the removal of the old state.json to the
        appearance of the new one the VM is not loaded.  Raises VmStorageError, VmStateError (what was loaded could
        not be opened again: a register out of range, memory of another size, a report larger than 64 MiB); the old VM
        is then as before, or marked not loaded.
        """
        from bhyveload.vm.state import check_state

        memory = self.loading()
        state: dict[str, object] = {
            "schema": SCHEMA,
            "name": self.name,
            "memory": {"low": memory.low, "high": memory.high},
            "vcpus": [vcpu.as_dict() for vcpu in vcpus],
            "loaded": loaded,
        }
        for key, value in (extra or {}).items():
            state.setdefault(key, value)
        check_state(state, f"{self.path}/state.json")
        size = os.fstat(memory.fd).st_size
        if size != memory.low + memory.high:
            raise VmStateError(f"{self.path}/memory: {size} bytes were loaded, not {memory.low + memory.high}")
        text = compact(state).encode() + b"\n"
        if len(text) > _MAX_STATE:
            raise VmStateError(f"{self.path}: the load's report makes a state.json of {len(text)} bytes")
        try:
            self._write_file("state.json.new", text)
            if self._unnamed:
                self._unlink("memory.new")
                give_name(memory.fd, os.path.join(self.path, "memory.new"))
                self._unnamed = False
            # The old VM ends here and the new one begins: a signal to end comes before or after, not between
            mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING)
            try:
                self._unlink("state.json")
                self._rename("memory.new", "memory")
                self._rename("state.json.new", "state.json")
            finally:
                _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        except OSError as error:
            raise storage_error(self.path, error) from None
        self.memory = GuestMemory(memory.fd, memory.low, memory.high, fresh=False)
        self.state = state

    def abandon(self) -> None:
        """Drop what was being loaded.  An old VM stays; one that never held a guest disappears again."""
        if self.memory is not None:
            os.close(self.memory.fd)
            self.memory = None
        try:
            self._unlink("memory.new")
            self._unlink("state.json.new")
            if not self._exists("memory") and not self._exists("state.json"):
                self._remove_directory()
        except OSError:
            pass  # what failed before is what the user must hear of; the next create cleans up
        self.close()

    def destroy(self) -> None:
        """Remove the VM.  Raises VmStorageError (somebody put files of his own there)."""
        try:
            for name in ("state.json", "state.json.new", "memory", "memory.new", "control"):
                self._unlink(name)
            self._remove_directory()
        except OSError as error:
            raise storage_error(self.path, error) from None
        self.close()

    def close(self) -> None:
        """Give the VM free for others.  Calling it again does nothing."""
        if self.memory is not None:
            os.close(self.memory.fd)
            self.memory = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> VirtualMachine:
        return self

    def __exit__(self, *_: object) -> None:
        """``close``; ``abandon`` where a load was begun and nothing committed."""
        if self.memory is not None and self.memory.fresh:
            self.abandon()
        else:
            self.close()

    # Files

    def _check_folder(self) -> None:
        """Raises VmNotFound, VmStorageError: the VM's folder is not ours alone to write."""
        try:
            info = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise _not_found(self.name) from None
        except OSError as error:
            raise storage_error(self.path, error) from None
        reason, mend = not_ours(info)
        if reason:
            raise VmStorageError(f"{self.path}: not used as a VM: {reason}", f"{mend}remove it")

    def _take_lock(self, create: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        for _ in range(_ATTEMPTS):
            try:
                if create:
                    try:
                        private_folder(self.path)
                    except FileExistsError:
                        pass
                    except FileNotFoundError as error:  # a directory in which nothing can be made: /proc
                        raise storage_error(self.path, error, "cannot be made there: ") from None
                    self._check_folder()
                fd = os.open(os.path.join(self.path, "lock"), flags, 0o600)
            except (FileNotFoundError, VmNotFound):
                if create:
                    continue  # removed by another process between our two steps
                raise _not_found(self.name) from None
            except OSError as error:
                raise storage_error(self.path, error) from None
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(fd)
                os.close(fd)
                if error.errno != errno.EWOULDBLOCK:
                    raise storage_error(self.path, error) from None
                ours = f" {os.getpid()} (" in holder
                hint = "close() what this process has opened, or use it in a with" if ours else "wait for it or end it"
                raise VmBusy(f"VM '{self.name}' is in use{holder}", hint) from None
            try:
                links = os.fstat(fd).st_nlink
            except OSError as error:
                os.close(fd)
                raise storage_error(self.path, error) from None
            if links:
                self._lock = fd
                self._sign_lock()
                return
            os.close(fd)  # destroyed while we waited: that lock guards nothing any more
        raise VmBusy(f"VM '{self.name}' is being created and destroyed by others all the time")

    def _sign_lock(self) -> None:
        try:
            os.fchmod(self._lock, 0o600)
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()} {os.path.basename(sys.argv[0])}\n".encode("ascii", "replace"), 0)
        except OSError:
            pass  # only for messages

    def _new_memory(self, low: int, high: int) -> None:
        try:
            self._unlink("memory.new")
            self._unlink("state.json.new")
            fd = unnamed_file(self.path)
            self._unnamed = fd >= 0
            if not self._unnamed:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                fd = os.open(os.path.join(self.path, "memory.new"), flags, 0o600)
            try:
                os.fchmod(fd, 0o600)
                os.ftruncate(fd, low + high)
            except BaseException:
                os.close(fd)
                raise
        except OverflowError:
            raise _too_large(low + high) from None
        except OSError as error:
            if error.errno in (errno.EFBIG, errno.EINVAL):
                raise _too_large(low + high) from None
            raise storage_error(self.path, error) from None
        self.memory = GuestMemory(fd, low, high, huge=ready())
        self.memory_size = low + high

    def _read_state(self, memory_flags: int) -> None:
        from bhyveload.vm.state import memory_of, parse_state

        try:
            with open(os.path.join(self.path, "state.json"), "rb", opener=_open_regular) as file:
                text = file.read(_MAX_STATE + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(self.path, error) from None
        try:
            fd = _open_regular(self.memory_path, memory_flags)
        except FileNotFoundError:
            raise VmStateError(f"{self.memory_path} is missing", "load the guest again") from None
        except OSError as error:
            raise storage_error(self.path, error) from None
        try:
            if len(text) > _MAX_STATE:
                raise VmStateError(f"{self.path}/state.json: larger than {_MAX_STATE >> 20} MiB")
            state = parse_state(text, f"{self.path}/state.json")
            low, high = memory_of(state)
            size = os.fstat(fd).st_size
            if size != low + high:
                raise VmStateError(
                    f"{self.path}/memory: {size} bytes, state.json says {low + high}", "load the guest again"
                )
        except BaseException:
            os.close(fd)
            raise
        self.memory = GuestMemory(fd, low, high, fresh=False)
        self.memory_size = low + high
        self.state = state

    def _write_file(self, name: str, data: bytes) -> None:
        fd = os.open(
            os.path.join(self.path, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            os.fchmod(fd, 0o600)
            write_all(fd, data)
        finally:
            os.close(fd)

    def _rename(self, old: str, new: str) -> None:
        os.rename(os.path.join(self.path, old), os.path.join(self.path, new))

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self.path, name))
        except FileNotFoundError:
            pass

    def _exists(self, name: str) -> bool:
        return os.path.lexists(os.path.join(self.path, name))

    def _remove_directory(self) -> None:
        self._unlink("lock")
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            # ENOTEMPTY with a lock file: another process is creating the VM anew already
            if error.errno != errno.ENOTEMPTY or not self._exists("lock"):
                raise


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file: no link is followed, and no FIFO's other end waited for."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, f"{os.path.basename(path)} is no regular file")
    return fd


def _holder(fd: int) -> str:
    """by process N (program), as the holder of a lock wrote into it."""
    try:
        pid, _, program = os.pread(fd, 100, 0).decode("ascii", "replace").rstrip("\n").partition(" ")
    except OSError:
        return ""
    if not pid.isdecimal():
        return ""
    return f" by process {pid} ({program})" if program.isprintable() and program else f" by process {pid}"


def _not_found(name: str) -> VmNotFound:
    return VmNotFound(
        f"there is no VM '{name}'", f"load one: bhyveload -d disk {as_operand(name)}; bhyvectl --list shows all"
    )


def _too_large(size: int) -> VmMemoryError:
    return VmMemoryError(f"vm_setup_memory: Cannot allocate memory ({size} bytes)", "give less memory with -m")
