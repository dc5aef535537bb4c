"""Finding and loading kernels, modules and raw files: names, search path, dependencies.

Source: stand/common/module.c; docs/errata.md, "Loading".  Functions return errno numbers as in C; the loader's
message is set where the original sets it.
"""

from __future__ import annotations

from bhyveload.boot_formats.modinfo_format import MOD_DEPEND, MODINFOMD_DEPLIST
from bhyveload.errors import FileSystemError, KernelError
from bhyveload.freebsd_errno import EFTYPE, EIO, ENOENT, strerror
from bhyveload.loader.console import MODULE_VERBOSE_SILENT
from bhyveload.loader.kernel.formats import load_file
from bhyveload.loader.kernel.guest import MIB, PAGE_SIZE, read_into, refuse_if_too_small, round_up
from bhyveload.loader.kernel.metadata import find_file
from bhyveload.loader.kernel.preloaded import PreloadedFile
from bhyveload.loader.state import Absent
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.host.interface import GuestCopy
    from bhyveload.loader.files.open_file import OpenFile
    from bhyveload.loader.kernel import hints as linker_hints
    from bhyveload.loader.kernel.hints import Dependency, PnpOptions, Versions
    from bhyveload.loader.state import Loader
else:
    linker_hints = OnDemand("bhyveload.loader.kernel.hints")

DEFAULT_SEARCHPATH = "/boot/kernel;/boot/modules"
KLD_EXTENSIONS = (".ko", "", ".debug")
_HINTS_MIN, _HINTS_MAX = 8, MIB  # as hints.LINKER_HINTS_*, known before that module is needed
_MAX_DEPTH = 100


class ModuleDirectory:
    """struct moduledir: a directory of the search path and the linker.hints in it, read once."""

    __slots__ = ("_versions", "hints", "path", "tried")

    def __init__(self, path: str) -> None:
        self.path = path
        self.hints: bytes | None = None
        self.tried = False
        self._versions: Versions | None = None

    def read_hints(self, loader: Loader) -> bytes | None:
        """moduledir_readhints."""
        if not self.tried:
            self.tried = True
            path = f"{self.path}/linker.hints"
            try:
                size = loader.files.stat(path).size
            except FileSystemError:
                return None
            if _HINTS_MIN <= size <= _HINTS_MAX:
                self.hints = linker_hints.read(loader, path, size)
        return self.hints

    def find_version(self, loader: Loader, name: str, wanted: Dependency | None) -> str | None:
        """The file that linker.hints names for a module; None without hints for it."""
        records = self.read_hints(loader)
        if records is None:
            return None
        if self._versions is None:
            self._versions = linker_hints.versions(records)
        return linker_hints.find_version(self._versions, name, wanted)


def module_directories(loader: Loader) -> list[ModuleDirectory]:
    """moduledir_rebuild: the directories of $module_path; those known before keep their place and their hints."""
    value = loader.environment.get("module_path")
    text = DEFAULT_SEARCHPATH if value is None else value
    items = text.split(";")
    if items[-1] == "":  # nothing behind the last semicolon
        items.pop()
    wanted = [item[:1] + item[1:].rstrip("/") for item in items]
    known: list[ModuleDirectory] = loader.module_path or []
    directories = [directory for directory in known if directory.path in wanted]
    for path in wanted:
        if all(directory.path != path for directory in directories):
            directories.append(ModuleDirectory(path))
    loader.module_path = directories
    return directories


def has_path(loader: Loader, name: str) -> bool:
    """file_havepath: whether a name says where the file is."""
    try:
        _, path = loader.files.parse(name)
    except FileSystemError:
        return True
    return path != name or "/" in name


def lookup(loader: Loader, directory: str, name: str, extensions: tuple[str, ...] = ("",)) -> str | None:
    """file_lookup: the first of the names with an extension that is a regular file."""
    base = directory + ("/" if directory and not directory.endswith("/") else "") + name
    for extension in extensions:
        if loader.files.exists(base + extension):
            return base + extension
    return None


def search(loader: Loader, name: str, extensions: tuple[str, ...] = ("",)) -> str | None:
    """file_search: ``name`` itself when it says where it is and exists, else from the search path."""
    if not name:
        return name
    if has_path(loader, name):
        try:
            loader.files.stat(name)
        except FileSystemError:
            return None
        return name
    for directory in module_directories(loader):
        found = lookup(loader, directory.path, name, extensions)
        if found is not None:
            return found
    return None


def find_module(loader: Loader, name: str, wanted: Dependency | None) -> tuple[str, int] | None:
    """file_findmodule: the loaded module of that name: the preferred version, else the highest in range."""
    for file in loader.preloaded:
        best: tuple[str, int] | None = None
        highest = 0
        for module in file.modules:
            if module[0] != name:
                continue
            if wanted is None or module[1] == wanted[1]:
                return module
            if wanted[0] <= module[1] <= wanted[2] and module[1] > highest:
                best, highest = module, module[1]
        if best is not None:
            return best
    return None


def search_module(loader: Loader, name: str, wanted: Dependency | None) -> str | None:
    """mod_searchmodule: the file that holds a module, by linker.hints or else by its name."""
    for directory in module_directories(loader):
        in_hints = directory.find_version(loader, name, wanted)
        if in_hints is not None:
            found = lookup(loader, directory.path, in_hints)
        else:
            found = lookup(loader, directory.path, name, KLD_EXTENSIONS)
        if found is not None:
            return found
    return None


def search_device(loader: Loader, bus: str, device: str, options: PnpOptions) -> str | None:
    """mod_searchmodule_pnpinfo: the file name of a driver for ``device`` on ``bus``."""
    for directory in module_directories(loader):
        records = directory.read_hints(loader)
        if records is not None:
            found = linker_hints.find_device(loader, records, bus, device, options)
            if found is not None:
                return found
    return None


def load_module(
    loader: Loader, name: str, wanted: Dependency | None = None, args: list[str] | None = None, depth: int = 0
) -> int:
    """mod_load: load the module ``name`` unless something loaded provides it; 0 or errno."""
    if has_path(loader, name):
        loader.print(f"Warning: mod_load() called instead of mod_loadkld() for module '{name}'\n")
        return load_kernel_or_module(loader, name, args, depth)
    provided = find_module(loader, name, wanted)
    if provided is not None:
        loader.fail_with(f"warning: module '{provided[0]}' already loaded")
        return 0
    path = search_module(loader, name, wanted)
    if path is None:
        return _not_found(loader, name)
    return load_kernel_or_module(loader, path, args, depth)


def _not_found(loader: Loader, name: str) -> int:
    loader.fail_with(f"can't find '{name}'")
    reason = loader.files.reason
    if reason is not None and reason.errno != ENOENT:
        loader.diagnosis = reason.message
    elif not loader.diagnosis or isinstance(loader.diagnosis, Absent):
        # Scripts try one name of the kernel after the other: what kept an existing one from being loaded says more.
        loader.diagnosis = Absent(f"there is no file {name}")
    return ENOENT


def load_kernel_or_module(loader: Loader, name: str, args: list[str] | None = None, depth: int = 0) -> int:
    """mod_loadkld: load a kernel or module file and what it depends on; 0 or errno."""
    path = search(loader, name, KLD_EXTENSIONS)
    if path is None:
        return _not_found(loader, name)
    if find_file(loader.preloaded, path) is not None:
        loader.fail_with(f"warning: KLD '{path}' already loaded")
        return 0
    error, file = load_file(loader, path, loader.loadaddr)
    if file is None:
        if error == EFTYPE:
            loader.fail_with(f"don't know how to load module '{path}'")
        return error
    file.args = " ".join(args) if args else None
    before = loader.loadaddr
    loader.loadaddr = file.addr + file.size
    place = len(loader.preloaded)
    loader.preloaded.append(file)
    if not _load_dependencies(loader, file, depth):
        # The newer loader's way; 13.2 leaves freed dependencies in its list and crashes later
        del loader.preloaded[place:]
        loader.loadaddr = before
        return ENOENT
    return 0


def _load_dependencies(loader: Loader, file: PreloadedFile, depth: int) -> bool:
    """file_load_dependencies: newest record first (docs/errata.md, "Order of dependencies")."""
    for kind, data in file.metadata:
        if kind != MODINFOMD_DEPLIST:
            continue
        wanted: Dependency = MOD_DEPEND.unpack_from(data)
        name = data[MOD_DEPEND.size : -1].decode("latin-1")
        if find_module(loader, name, wanted) is not None:
            continue
        if loader.console.module_verbose > MODULE_VERBOSE_SILENT:
            loader.print(f"loading required module '{name}'\n")
        if depth >= _MAX_DEPTH:
            loader.fail_with(f"can't load '{name}': too many modules need each other")
            return False
        if load_module(loader, name, wanted, depth=depth + 1) != 0:
            return False
        if find_module(loader, name, wanted) is None:
            loader.fail_with(f"module '{name}' exists but with wrong version")
            loader.diagnosis = f"{file.name} needs {name} version {wanted[0]} to {wanted[2]}, which is not there"
            return False
    return True


def load_raw(loader: Loader, name: str, type_: str) -> bool:
    """file_loadraw: put a file into memory as it is; False with the loader's message set."""
    if find_file(loader.preloaded) is None:
        loader.fail("can't load file before kernel")
        return False
    path = search(loader, name)
    if path is None:
        _not_found(loader, name)
        return False
    try:
        file = loader.files.open(path)
    except FileSystemError as error:
        loader.fail_with(f"can't open '{path}': {strerror(error.errno)}")
        return False
    start = round_up(loader.loadaddr, PAGE_SIZE) if loader.version == "current" else loader.loadaddr
    talk = loader.console.module_verbose > MODULE_VERBOSE_SILENT
    if talk:
        loader.print(f"{path} ")
    try:
        size = _read_raw(loader.host, file, path, start)
    except KernelError as error:
        loader.diagnosis = f"{error.message}: {error.hint}" if error.hint else error.message
        loader.fail_with(f"error reading '{path}': {strerror(error.errno)}")
        return False
    finally:
        file.close()
    if talk:
        loader.print(f"size={size:#x}\n" if size else "size=0\n")
    preloaded = PreloadedFile(path, type_, start, size)
    loader.loadaddr = start + size
    loader.preloaded.append(preloaded)
    return True


def _read_raw(guest: GuestCopy, file: OpenFile, path: str, start: int) -> int:
    """Copy a whole file to ``start``; its size.  Raises KernelError: EIO, ENOMEM (memory too small for it)."""
    size = file.file.size
    refuse_if_too_small(guest, f"file {path}", start + max(0, size), MIB)
    low, _ = guest.getmem()
    done = read_into(guest, file, start, low - start)
    try:
        more = size < 0 and done == low - start and file.read(1)
    except FileSystemError:
        more = b""
        done = -1
    if done < 0:
        raise KernelError(EIO, f"{path} cannot be read")
    if more:
        refuse_if_too_small(guest, f"file {path}", low + 1, MIB)
    return done


def unload(loader: Loader) -> None:
    """Forget everything that was loaded."""
    loader.preloaded.clear()
    loader.loadaddr = 0
    loader.environment.unset("kernelname")
