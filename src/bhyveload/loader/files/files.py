"""Opening files as libsa does: which device, which file system, read-ahead, the mounted current device.

Sources: stand/libsa/{open,read,lseek,stat,mount}.c, stand/userboot/userboot/{conf,copy}.c;
docs/errata.md, "Twiddles".  Paths are str (latin-1) with an optional device in front.
"""

from __future__ import annotations

from bhyveload.bootable import BEYOND, COMPRESSED
from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import EILSEQ, EINVAL, EIO, EISDIR, ENOENT, ENXIO, EPERM
from bhyveload.fs.registry import DISK
from bhyveload.fs.stat import S_IFDIR, S_IFMT, S_IFREG, Stat
from bhyveload.loader.files.devices import DeviceSpec, Disks, parse_device
from bhyveload.loader.files.open_file import F_READ, CompressedView, OpenFile, RawDevice
from bhyveload.need import OnDemand, declare, need

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from bhyveload.compat import LoaderVersion
    from bhyveload.device import Device
    from bhyveload.fs import compressed, hostdir
    from bhyveload.fs.interface import File, FileSystem
    from bhyveload.fs.registry import FileSystemKind
    from bhyveload.host.callbacks import LoaderCallbacks
    from bhyveload.loader.console import LoaderConsole
    from bhyveload.loader.environment import Environment
    from bhyveload.loader.files.trail import Trail
else:
    compressed = OnDemand("bhyveload.fs.compressed")
    hostdir = OnDemand("bhyveload.fs.hostdir")

_ZSTD = "bhyveload.image.zstd"
declare(_ZSTD, "bhyveload.fs.compressed")

O_RDONLY, O_WRONLY, O_RDWR = 0, 1, 2
_COMPRESSED = (*COMPRESSED, ".split")
_OWN_DEVICES = ("host", "zfs")  # file systems that no other kind of device holds
_MAX_NOTES = 50


class _Mount:
    """An entry of libsa's mount list: the device as currdev had it, what was found there, how often it is mounted."""

    __slots__ = ("count", "device", "fs", "kind", "unit")

    def __init__(self, device: str, kind: str, unit: int, fs: FileSystem) -> None:
        self.device = device
        self.kind = kind
        self.unit = unit
        self.fs = fs
        self.count = 1


class _Probe:
    """What probing a device for one file system gave, how many twiddles that cost and what the loader then says."""

    __slots__ = ("error", "fs", "messages", "twiddles")

    def __init__(self) -> None:
        self.fs: FileSystem | None = None
        self.error: FileSystemError | None = None
        self.twiddles = 0
        self.messages: list[str] = []


class Files:
    """The open-file layer of one loader run."""

    def __init__(
        self,
        host: LoaderCallbacks,
        console: LoaderConsole,
        environment: Environment,
        disks: Disks,
        version: LoaderVersion,
    ) -> None:
        self.host = host
        self.console = console
        self.environment = environment
        self.disks = disks
        self.version = version
        self.pools: Any = None  # fs.zfs PoolSet once disks were probed
        self.reason: FileSystemError | None = None  # why the last open failed, more telling than ENOENT
        self.notes: list[str] = []  # what the user should know about the disks
        self.trail: Trail | None = None  # hears what is opened, for --explain
        self._mounts: list[_Mount] = []
        self._parsed: tuple[str | None, str, int, int, int] = (None, "", 0, 0, 0)  # currdev and the disk that it names
        self._probes: dict[tuple[str, str], _Probe] = {}

    def note(self, text: str) -> None:
        """Keep something worth telling, once."""
        if text not in self.notes and len(self.notes) < _MAX_NOTES:
            self.notes.append(text)

    @property
    def mounted(self) -> str | None:
        """The kind of file system that currdev holds, None when it holds none."""
        return self._mounts[-1].kind if self._mounts else None

    # Names

    def parse(self, spec: str) -> tuple[DeviceSpec, str]:
        """archsw.arch_getdev: (device, path); without a colon or with a leading slash the current device's.

        Raises FileSystemError as devparse does.
        """
        if spec.startswith("/") or ":" not in spec:
            return self._current(self.environment.get("currdev") or ""), spec
        return self.parse_device(spec)

    def _current(self, currdev: str) -> DeviceSpec:
        """As parse_device; that of a disk is remembered."""
        known, kind, unit, slice_, partition = self._parsed
        if known == currdev:
            return DeviceSpec(kind, unit, slice_, partition)
        device, _ = self.parse_device(currdev)
        if device.kind in ("disk", "vdisk"):
            self._parsed = currdev, device.kind, device.unit, device.slice, device.partition
        return device

    def parse_device(self, spec: str) -> tuple[DeviceSpec, str]:
        device, path = parse_device(spec, self.version)
        if device.kind == "zfs":
            if self.pools is None:
                raise FileSystemError(ENXIO, f"{spec}: no such pool")
            device.root = self.pools.by_name(device.pool).find_dataset(device.dataset)
        return device, path

    def qualified(self, path: str) -> str:
        """``path`` with its device in front, for reports."""
        if ":" in path and not path.startswith("/"):
            return path
        return (self.environment.get("currdev") or "") + path

    # Opening

    def open(self, path: str, mode: int = O_RDONLY) -> OpenFile:
        """libsa's open.  Raises FileSystemError with the errno that libsa reports; ``self.reason`` then holds the
        most telling error met on the way (libsa nearly always ends in ENOENT: the compressed names come last)."""
        try:
            file = self._open(path, mode)
        except FileSystemError as error:
            self._note(path, self.reason or error)
            raise
        self._note(path, None)
        return file

    def _note(self, path: str, error: FileSystemError | None) -> None:
        if self.trail is not None and not self.console.silent:  # what is looked at silently is not the loader's look
            self.trail.note(self.qualified(path), error)

    def _open(self, path: str, mode: int = O_RDONLY) -> OpenFile:
        self.reason = None
        spec, name = self.parse(path)
        device = self._open_device(spec)
        if spec.kind == "zfs":
            try:
                spec.opendata = self._open_dataset(spec)
            except FileSystemError as error:
                self.reason = error
                raise
        flags = mode + 1
        if not name:
            return OpenFile(self, path, flags, RawDevice(device, path, self), None)
        best = FileSystemError(ENOENT, f"{path}: no such file or directory")
        telling: FileSystemError | None = None
        for kind in ("host", *DISK, "zfs"):  # file_system[] of stand/userboot/userboot/conf.c
            if kind in _OWN_DEVICES and kind != spec.kind:
                continue  # EINVAL, which counts as little
            try:
                fs, node = self._lookup(kind, spec, device, name)
            except FileSystemError as error:
                if error.errno != EINVAL:
                    best = error
                    own = device is not None or kind == spec.kind  # not what a disk's file system says of host0:
                    if own and error.errno not in (ENOENT, ENXIO) and telling is None:
                        telling = error
                continue
            return OpenFile(self, path, flags, fs, node)
        for suffix in COMPRESSED:
            try:
                return self._open_compressed(name, suffix, path, flags)
            except FileSystemError as error:
                best = error
        beyond = self._open_beyond(spec, device, name, path) if flags == F_READ else None
        if beyond is not None:
            return beyond
        self.reason = telling or best
        raise FileSystemError(best.errno, f"{path}: {(telling or best).message}")

    def _open_device(self, spec: DeviceSpec) -> Device | None:
        if spec.kind in ("disk", "vdisk"):
            return self.disks.open(spec)
        return None

    def _lookup(
        self, kind: FileSystemKind | str, spec: DeviceSpec, device: Device | None, name: str
    ) -> tuple[FileSystem, Any]:
        path = name.encode("latin-1", "replace")
        if kind == "zfs":
            assert spec.opendata is not None
            return spec.opendata, spec.opendata.lookup(path)
        if kind == "host":
            fs = self._host()
        else:
            assert not isinstance(kind, str)
            fs = self._probe(kind, spec, device)
        return fs, fs.lookup(path)

    def _host(self) -> FileSystem:
        return hostdir.HostFileSystem(self.host)

    def _open_dataset(self, spec: DeviceSpec) -> FileSystem:
        """zfs_dev_open.  A mounted dataset of the pool stands for every dataset of it."""
        for mount in self._mounts:
            if mount.kind == "zfs" and parse_device(mount.device, self.version)[0].pool == spec.pool:
                return mount.fs
        pool = self.pools.by_name(spec.pool)
        pool.dataset_name(spec.root)  # devformat
        return self._mount_dataset(spec)

    def _mount_dataset(self, spec: DeviceSpec) -> FileSystem:
        """zfs_mount."""
        pool = self.pools.by_name(spec.pool)
        fs: FileSystem = pool.mount(pool.find_dataset(spec.dataset))
        return fs

    def _mount_for(self, kind: FileSystemKind, spec: DeviceSpec, name: str) -> _Mount | None:
        """The mount that ufs_open takes the superblock from, or cd9660_open the root's record: for UFS it has the
        device's name, for ISO 9660 only its unit."""
        for mount in self._mounts:
            if mount.kind == kind.name and (mount.unit == spec.unit if kind.by_unit else mount.device == name):
                return mount
        return None

    def _probe(self, kind: FileSystemKind, spec: DeviceSpec, device: Device | None, again: bool = False) -> FileSystem:
        """The device's file system of that kind, with the twiddles that finding it costs.
        ``again``: they are not saved by a mount."""
        name = spec.format()
        on_disk = not kind.by_unit or spec.kind in ("disk", "vdisk")
        mount = self._mount_for(kind, spec, name) if on_disk and not again else None
        mounted = mount is not None
        if device is None:
            if not kind.by_unit and spec.kind == "zfs":
                self.pools.by_name(spec.pool).dataset_name(spec.root)  # devformat
            if not mounted:
                self.console.twiddle(1)
            raise FileSystemError(EIO, f"{name} has no sectors")
        if mount is not None and kind.by_unit and mount.device != name:
            return self._under(kind, mount, name, device)
        key = kind.name, name
        known = self._probes.get(key)
        if known is None:
            known = self._probes[key] = self._probe_device(kind, name, device)
        if not mounted:
            self.console.twiddle(1, known.twiddles)
            for message in known.messages:
                self.console.print(message + "\n")
        if known.fs is None:
            assert known.error is not None
            raise known.error.with_traceback(None)  # else every raise adds to what the one before left
        return known.fs

    def forget(self, kind: str) -> None:
        """What was found on devices of that kind: one of its numbers is going to be another disk's."""
        for key in [key for key in self._probes if key[1].startswith(kind)]:
            del self._probes[key]

    def _under(self, kind: FileSystemKind, mount: _Mount, name: str, device: Device) -> FileSystem:
        """What cd9660_open takes another device of the unit of a mounted ISO 9660 for: it has the same root."""
        key = mount.device, name
        known = self._probes.get(key)
        if known is None:
            module: Any = kind.load()
            known = self._probes[key] = _Probe()
            known.fs = module.with_root_of(mount.fs, device)
        assert known.fs is not None
        return known.fs

    def _probe_device(self, kind: FileSystemKind, name: str, device: Device) -> _Probe:
        found = _Probe()
        counting = True

        def twiddle(divisor: int) -> None:
            if counting:
                found.twiddles += 1
            else:
                self.console.twiddle(divisor)

        try:
            found.fs = fs = kind.probe(device, twiddle, strict=True)
            found.messages = fs.messages
            for note in fs.notes:
                self.note(f"{name} {note}")
        except FileSystemError as error:
            found.error = error
            if error.errno == EILSEQ and self.version == "current":  # 13.2 finds no magic and says nothing
                found.messages = [error.message]
        counting = False
        return found

    def _open_compressed(self, name: str, suffix: str, path: str, flags: int) -> OpenFile:
        """zf_open, bzf_open: the name without its device plus the suffix, so always on the current device."""
        if flags != F_READ:
            raise FileSystemError(EPERM, f"{path}: compressed files cannot be written")
        _, dot, extension = name.rpartition(".")
        if dot and "." + extension in _COMPRESSED:
            raise FileSystemError(ENOENT, f"{path}: no such file or directory")
        inner = self._open(name + suffix)
        opener, caller = (compressed.open_gzip, "zf") if suffix == ".gz" else (compressed.open_bzip2, "bzf")
        try:
            mode = inner.stat().mode
        except FileSystemError:
            self.console.print(f"{caller}_open: stat failed\n")
            raise FileSystemError(ENOENT, f"{path}: no such file or directory") from None
        if mode & S_IFMT != S_IFREG:
            self.console.print(f"{caller}_open: not a file\n")
            raise FileSystemError(EISDIR, f"{path}{suffix}: not a regular file")
        file: File = opener(inner.file, self.console.print)
        return OpenFile(self, path, flags, CompressedView(inner, file), inner.node)

    def _open_beyond(self, spec: DeviceSpec, device: Device | None, name: str, path: str) -> OpenFile | None:
        """``name``.zst or .xz on the same device, decompressed.  A file that is not there leaves no trace: the twiddles
        and words of a failing open stay those of FreeBSD's loader."""
        if name.endswith(_COMPRESSED + BEYOND):
            return None
        for suffix in BEYOND:
            inner = self._find_silently(spec, device, name + suffix)
            if inner is None or inner.stat().mode & S_IFMT != S_IFREG:
                continue
            if suffix == ".zst":
                need(_ZSTD)
            opener = compressed.open_zstd if suffix == ".zst" else compressed.open_xz
            try:
                file: File = opener(inner.file, self.console.print)
            except FileSystemError:
                continue
            return OpenFile(self, path, F_READ, CompressedView(inner, file), inner.node)
        return None

    def _find_silently(self, spec: DeviceSpec, device: Device | None, name: str) -> OpenFile | None:
        before = self.console.silent
        self.console.silent = True
        try:
            for kind in DISK if device is not None else (spec.kind,):
                try:
                    fs, node = self._lookup(kind, spec, device, name)
                    return OpenFile(self, name, F_READ, fs, node)
                except FileSystemError:
                    continue
            return None
        finally:
            self.console.silent = before

    def holds_file_system(self, spec: DeviceSpec) -> bool:
        """Whether the disk or partition has a file system that it could be booted from."""
        for kind in DISK:
            try:
                self._probe(kind, spec, self._open_device(spec))
            except FileSystemError:
                continue
            return True
        return False

    def stat(self, path: str) -> Stat:
        """libsa's stat: open, fstat, close.  Raises FileSystemError."""
        return self.open(path).stat()

    def exists(self, path: str) -> bool:
        """Whether stat would succeed on a regular file."""
        try:
            return self.stat(path).mode & S_IFMT == S_IFREG
        except FileSystemError:
            return False

    # The mounted current device (stand/libsa/mount.c, ufs_mount, cd9660_mount, zfs_mount)

    def mount(self, device: str) -> None:
        """Mount ``device`` as the current device: each file system that can is tried by opening its root folder.

        What is mounted already is only counted.
        """
        for mount in self._mounts:
            if mount.device == device:
                mount.count += 1
                return
        try:
            spec, _ = parse_device(device, self.version)
        except FileSystemError:
            return
        for kind in (*DISK, None):
            try:
                if kind is not None:
                    fs = self.open(f"{device}/").fs
                elif spec.kind == "zfs":
                    fs = self._mount_dataset(spec)
                else:
                    continue
            except FileSystemError:
                continue
            if fs.name == ("zfs" if kind is None else kind.name):
                if kind is not None and kind.by_unit:  # cd9660_mount reads the descriptors in any case
                    spec, _ = self.parse(f"{device}/")
                    try:
                        fs = self._probe(kind, spec, self._open_device(spec), again=True)
                    except FileSystemError:
                        return  # opened with another volume's root: FreeBSD's loader goes on with freed memory
                self._mounts.append(_Mount(device, fs.name, spec.unit, fs))
                return

    def unmount(self, device: str) -> None:
        for index, mount in enumerate(self._mounts):
            if mount.device == device:
                mount.count -= 1
                if mount.count == 0:
                    del self._mounts[index]
                return


def is_directory(stat: Stat) -> bool:
    return stat.mode & S_IFMT == S_IFDIR
