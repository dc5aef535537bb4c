"""loader_main: from an empty VM to a prompt or a running kernel (stand/userboot/userboot/main.c, and
interact in stand/common/interp.c)."""

from __future__ import annotations

from bhyveload.bootable import (
    FIRST_INTERPRETER,
    LOADER_PATH,
    LUA_SCRIPT,
    MAX_LOADER_FILE,
    interpreter_marker,
    wanted_interpreter,
)
from bhyveload.errors import FileSystemError, LoaderError
from bhyveload.freebsd_errno import strerror
from bhyveload.host.callbacks import SwapInterpreter
from bhyveload.loader.commands.boot import autoboot, autoboot_maybe, run_commands
from bhyveload.loader.commands.table import commands
from bhyveload.loader.environment import no_set, no_unset
from bhyveload.loader.files.devices import DeviceSpec
from bhyveload.loader.interpreter.table import INTERPRETERS
from bhyveload.loader.prompt import print_prompt
from bhyveload.loader.state import Loader
from bhyveload.loader.zfs.vdev_probe import find_vdevs, show_label_reads
from bhyveload.need import OnDemand
from bhyveload.partition.slices import PARTNONE, PARTWILD, SLICENONE, SLICEWILD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from bhyveload.loader import boot_device, diagnosis
    from bhyveload.loader.environment import Variable
    from bhyveload.loader.zfs import pools as zfs_pools
else:
    diagnosis = OnDemand("bhyveload.loader.diagnosis")
    zfs_pools = OnDemand("bhyveload.loader.zfs.pools", "bhyveload.fs.zfs")
    boot_device = OnDemand("bhyveload.loader.boot_device")

_INPUT = 256


def loader_main(loader: Loader, interpreter: str = FIRST_INTERPRETER) -> NoReturn:
    """Run the loader; leaves by a LoaderEnd (guest ready, quit, swap, end of input) or an error of ours.

    ``interpreter``: which loader this is, a name of INTERPRETERS.  Raises LoaderError when --batch cannot boot.
    """
    environment, console, host = loader.environment, loader.console, loader.host
    loader.commands = commands()
    loader.stage("devices")
    console.probe()
    environment.define("currdev", "", lambda variable, value: _set_currdev(loader, variable, value), no_unset)
    revision = "3.0" if loader.version == "current" else "1.2"
    console.print(f"\nFreeBSD/amd64 User boot {interpreter}, Revision {revision}\n")
    environment.set("LINES", "24")
    number = 0
    while (variable := host.getenv(number)) is not None:
        environment.put(variable.decode("latin-1"))
        number += 1
    _choose_currdev(loader, _probe_pools(loader))
    _check_interpreter(loader, interpreter)
    entry = INTERPRETERS[interpreter]
    if loader.options.kernel and not (entry.scripted and _has_lua_script(loader)):
        name = loader.options.kernel  # only the Lua scripts look at the variable kernel (loader/batch.py)
        environment.set("bootfile", name if name.startswith("/") else f"/boot/{name}/kernel")
    types_nothing = loader.options.batch and not loader.options.commands
    if entry.scripted and types_nothing and not _has_lua_script(loader):
        loader.interpreter = NoScripts(loader)
    else:
        loader.interpreter = entry.start(loader)
    interact(loader)


class NoScripts:
    """The Lua interpreter of a guest without scripts, in a run that never types a line: Lua itself is not needed.

    It says and sets what the interpreter would (stand/common/interp_lua.c interp_init).
    """

    name = "lua"
    complaint = ""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def start(self) -> str:
        environment = self.loader.environment
        environment.set("script.lang", "lua")
        path = _lua_script(self.loader)
        try:
            self.loader.files.open(path)
        except FileSystemError as error:
            self.loader.print(f"ERROR: cannot open {path}: {strerror(error.errno)}.\n")
        environment.set("autoboot_delay", "NO")
        return ""  # a guest without scripts is booted without

    def run(self, line: str) -> int:
        return self.loader.fail("no interpreter")

    def include(self, path: str) -> int:
        return self.loader.fail("no interpreter")


def _lua_script(loader: Loader) -> str:
    script = loader.environment.get("loader_lua") if loader.version == "current" else None
    return script or LUA_SCRIPT


def _has_lua_script(loader: Loader) -> bool:
    """Whether the first Lua script can be opened; looking shows no twiddles."""
    loader.console.silent = True
    try:
        loader.files.open(_lua_script(loader))
        return True
    except FileSystemError:
        return False
    finally:
        loader.console.silent = False


def interact(loader: Loader) -> NoReturn:
    """The interpreter's scripts, autoboot, then the prompt for ever."""
    assert loader.interpreter is not None
    loader.stage("scripts")
    failure = loader.interpreter.start()
    if failure and loader.options.batch and (loader.interpreter.name != "lua" or _has_lua_script(loader)):
        if loader.diagnosis:  # they could not load what they wanted
            raise LoaderError(*diagnosis.explain(loader))
        # FreeBSD's loader would wait at its prompt now; the bare kernel, without loader.conf, is not what was asked for
        raise LoaderError(
            f"the guest's boot script failed: {failure}", "run it without --batch to look around at the loader's prompt"
        )
    loader.stage("boot")
    loader.print("\n")
    run_commands(loader)
    if loader.options.batch:
        autoboot(loader, -2, None)
        raise LoaderError(*diagnosis.explain(loader))
    autoboot_maybe(loader)
    loader.print("\nType '?' for a list of commands, 'help' for more detailed help.\n")
    environment = loader.environment
    environment.set("prompt", "${interpret}", overwrite=False)
    environment.set("interpret", "OK", overwrite=False)
    while True:
        print_prompt(loader)
        loader.interpreter.run(loader.console.gets(_INPUT))


def _probe_pools(loader: Loader) -> bool:
    """Look for ZFS on every disk; whether there is any.  The ZFS reader is loaded only when a label is in sight (it
    costs milliseconds)."""
    if find_vdevs(loader):
        return zfs_pools.probe_pools(loader)
    show_label_reads(loader)
    return False


def _choose_currdev(loader: Loader, zfs_found: bool) -> None:
    """extract_currdev: ZFS, else disk 0's best partition or disk 0 itself, else the host directory."""
    if loader.options.boot_environment and not zfs_found:
        raise LoaderError(f"--boot-env {loader.options.boot_environment}: there is no ZFS pool on the disks")
    if loader.options.boot_device:
        boot_device.boot_from(loader, loader.options.boot_device, set_currdev)
        return
    if zfs_found:
        zfs_pools.choose_currdev(loader, set_currdev)
        return
    if loader.host.disks:
        spec = DeviceSpec("disk", 0, SLICEWILD, PARTWILD)
        try:
            loader.disks.open(spec)
        except FileSystemError:
            spec = DeviceSpec("disk", 0, SLICENONE, PARTNONE)
    else:
        spec = DeviceSpec("host", 0)
    set_currdev(loader, spec.format())


def set_currdev(loader: Loader, device: str) -> None:
    """Set currdev through its hook and loaddev for good."""
    loader.environment.set("currdev", device)
    loader.environment.define("loaddev", device, no_set, no_unset, hook=False)


def _set_currdev(loader: Loader, variable: Variable, value: str | None) -> int:
    """gen_setcurrdev: the name must parse; what it names becomes the mounted root, whether that works or not."""
    device = value or ""
    try:
        loader.files.parse_device(device)
    except FileSystemError as error:
        return error.errno
    loader.files.mount(device)
    if variable.value is not None:
        loader.files.unmount(variable.value)
    variable.value = device
    return 0


def _check_interpreter(loader: Loader, interpreter: str) -> None:
    """check_interpreter: the guest's own /boot/loader says what its scripts are written for (bootable.py)."""
    wanted = wanted_interpreter(_marker(loader), interpreter, lambda: _has_lua_script(loader))
    if wanted != interpreter:
        raise SwapInterpreter(wanted.encode("latin-1"))


def _marker(loader: Loader) -> str | None:
    """What /boot/loader says; None when the file cannot be read whole."""
    try:
        size = loader.files.stat(LOADER_PATH).size
        if not 0 <= size <= MAX_LOADER_FILE:
            return None
        data = loader.files.open(LOADER_PATH).read(size)
    except FileSystemError:
        return None
    return None if len(data) < size else interpreter_marker(data)
