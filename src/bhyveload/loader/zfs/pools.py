"""The loader's side of ZFS: pools found on the disks, the boot file system as currdev, boot environments.

Sources: stand/userboot/userboot/main.c, stand/libsa/zfs/zfs.c, stand/common/zfs_cmd.c;
docs/errata.md, "ZFS".
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError, LoaderError
from bhyveload.freebsd_errno import EINVAL, ENXIO, EPERM, strerror
from bhyveload.fs.zfs.poolset import PoolSet
from bhyveload.libc import strtol, to_int
from bhyveload.loader.batch import lock
from bhyveload.loader.files.devices import DeviceSpec
from bhyveload.loader.state import CMD_OK
from bhyveload.loader.zfs import nvstore
from bhyveload.loader.zfs.vdev_probe import walk_disks
from bhyveload.partition.slices import PARTNONE, PARTWILD, SLICENONE, SLICEWILD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bhyveload.device import Device
    from bhyveload.fs.zfs.pool import Pool
    from bhyveload.loader.state import Loader

    SetCurrdev = Callable[[Loader, str], None]

ZFS_BE_FIRST = 4
ZFS_BE_LAST = 8
_PER_PAGE = ZFS_BE_LAST - ZFS_BE_FIRST + 1
_ENVVAL = 255  # char envval[256]
_MENU_VARIABLES = ("bootenvmenu_caption", "bootenvansi_caption", "bootenvmenu_command", "bootenv_root")


def prepare() -> None:
    """Import everything reading any pool may need.  Call before the process is confined."""
    from bhyveload.fs import zfs

    zfs.prepare()


def probe_pools(loader: Loader) -> bool:
    """zfs_dev_init: find and open every pool on every disk; whether any device belongs to a pool
    (userboot_zfs_found)."""
    found = False

    def say(line: str) -> None:
        if not loader.console.silent:
            loader.print(line + "\n")

    pools = PoolSet(loader.console.twiddle, say, loader.version)

    def probe(device: Device, name: str) -> bool:
        nonlocal found
        try:
            pools.probe(device, name)
        except FileSystemError:
            return False
        found = True
        return True

    walk_disks(loader, probe)
    pools.finish()
    for name, error in pools.dropped:
        hint = f" ({error.hint})" if error.hint else ""
        loader.notes.append(f"ZFS pool {name} cannot be used: {error.message}{hint}")
    loader.files.pools = pools
    return found


def choose_currdev(loader: Loader, set_currdev: SetCurrdev) -> None:
    """extract_currdev with a pool found: bootfs of the first pool, or what is to be booted once.

    Raises LoaderError: the boot environment that the user asked for does not exist."""
    pools = loader.files.pools
    if loader.options.boot_environment:
        _boot_environment(loader, set_currdev)
        return
    if not pools.pools:
        _without_pool(loader, set_currdev)
        return
    pool: Pool = pools.pools[0]
    root = 0
    try:
        root = pool.root_dataset
    except FileSystemError:
        loader.print("ZFS: can't find root filesystem\n")
    init_boot_options(loader, _format(loader, pool, root))
    set_currdev(loader, _format(loader, pool, root))
    try:
        device = pool.take_bootonce()
    except FileSystemError:
        device = ""
    if device:
        loader.print(f"zfs bootonce: {device}\n")
        set_currdev(loader, device)
        loader.environment.set("zfs-bootonce", device)
    nvstore.attach(loader, pool)


def _format(loader: Loader, pool: Pool, root: int) -> str:
    """zfs_fmtdev: empty when the dataset has no name."""
    if root:
        try:
            return f"zfs:{pool.dataset_name(root)}:"
        except FileSystemError:
            loader.print("ZFS: can't find filesystem by guid\n")
    return ""


def _without_pool(loader: Loader, set_currdev: SetCurrdev) -> None:
    """Devices of pools are there, but no pool can be used.  FreeBSD's loader ends without a currdev; here a disk with
    another file system is taken if there is one."""
    device = _other_disk(loader)
    if device:
        loader.print(f"no ZFS pool can be used: going on with {device}\n")
    set_currdev(loader, device)


def _other_disk(loader: Loader) -> str:
    """The first disk with a file system that can be mounted; empty: none."""
    loader.console.silent = True
    try:
        for unit in range(len(loader.host.disks)):
            spec = DeviceSpec("disk", unit, SLICEWILD, PARTWILD)
            try:
                loader.disks.open(spec)
            except FileSystemError:
                spec = DeviceSpec("disk", unit, SLICENONE, PARTNONE)
            if loader.files.holds_file_system(spec):
                return spec.format()
    finally:
        loader.console.silent = False
    return ""


def boot_from(loader: Loader, wanted: str, set_currdev: SetCurrdev) -> None:
    """--boot-device zfs:``wanted``: a pool (what its bootfs says) or a dataset.  Raises LoaderError."""
    pools = loader.files.pools
    names = ", ".join(f"zfs:{pool.name}" for pool in pools.pools) or "none that can be used"
    try:
        pool = pools.by_name(wanted.partition("/")[0])
        if "/" in wanted:
            pools.dataset(wanted)
        else:
            wanted = pool.dataset_name(pool.root_dataset)
    except FileSystemError as error:
        raise LoaderError(f"--boot-device zfs:{wanted}: {error.message}", f"there are {names}") from None
    _boot_dataset(loader, wanted, set_currdev)


def _boot_environment(loader: Loader, set_currdev: SetCurrdev) -> None:
    """The user's choice instead of bootfs (not FreeBSD's)."""
    _boot_dataset(loader, find_boot_environment(loader.files.pools, loader.options.boot_environment), set_currdev)


def _boot_dataset(loader: Loader, name: str, set_currdev: SetCurrdev) -> None:
    """Like choosing it in the menu, and vfs.root.mountfrom holds whatever loader.conf says."""
    init_boot_options(loader, f"zfs:{name}:")
    set_currdev(loader, f"zfs:{name}:")
    lock(loader, "vfs.root.mountfrom", f"zfs:{name}", restore=False)
    pool = loader.files.pools.by_name(name.partition("/")[0])
    pool.bootenv()
    nvstore.attach(loader, pool)


def find_boot_environment(pools: PoolSet, wanted: str) -> str:
    """The dataset's whole name for what a user typed: `zfs:pool/ROOT/name:`, `pool/ROOT/name` or `name`.

    Raises LoaderError: there is none, with those that are there."""
    name = wanted.removeprefix("zfs:").removesuffix(":")
    names = boot_environments(pools)
    if name in names:
        return name
    short = [other for other in names if other.rpartition("/")[2] == name]
    if len(short) == 1:
        return short[0]
    if len(short) > 1:
        raise LoaderError(f"--boot-env {wanted}: there are several: {', '.join(short)}", "give the whole name")
    try:
        pools.dataset(name)
    except FileSystemError as error:
        known = f"there are: {', '.join(names)}" if names else "there are none"
        raise LoaderError(f"--boot-env {wanted}: no such boot environment ({error.message})", known) from error
    return name


def boot_environments(pools: PoolSet) -> list[str]:
    """Whole names of the datasets beside each pool's bootfs, as the menu lists them."""
    result = []
    for pool in pools.pools:
        try:
            root = pool.dataset_name(pool.root_dataset).rpartition("/")[0] or pool.name
            result += [f"{root}/{name}" for name in _children(pool, root)]
        except FileSystemError:
            continue
    return result


def _children(pool: Pool, root: str, checkpoint: bool = False) -> list[str]:
    """Names below ``root`` without the internal ones, in reverse ZAP order (zfs_belist_add)."""
    names = pool.list_children(root, checkpoint)
    return [name for name in reversed(names) if not name.startswith("$")]


def init_boot_options(loader: Loader, currdev: str) -> None:
    """init_zfs_boot_options: variables that tell scripts of the boot environments beside ``currdev``."""
    if not currdev.startswith("zfs:"):
        return
    environment = loader.environment
    active = currdev[:-1]
    environment.set("zfs_be_active", active)
    environment.set("zfs_be_currpage", "1")
    root = (active.rpartition("/")[0] or active).partition(":")[2]
    environment.set("zfs_be_root", root)
    try:
        pool = loader.files.pools.by_name(root.partition("/")[0])
    except FileSystemError:
        return
    _list_initially(loader, "bootenvs", pool, root, False)
    if pool.checkpoint is not None:
        environment.set("zpool_checkpoint", root)
        _list_initially(loader, "bootenvs_check", pool, root, True)


def _list_initially(loader: Loader, prefix: str, pool: Pool, root: str, checkpoint: bool) -> None:
    """zfs_bootenv_initial; names in a checkpoint get the `!` that the kernel understands."""
    environment = loader.environment
    try:
        number = pool.find_dataset(root.partition("/")[2], checkpoint)
    except FileSystemError:
        return
    try:
        names = pool.children_of(number, checkpoint)
    except FileSystemError:
        names = []
    names = [name for name in reversed(names) if not name.startswith("$")]
    mark = "!" if checkpoint else ""
    for index, name in enumerate(names):
        environment.set(f"{prefix}[{index}]", f"zfs:{mark}{root}/{name}"[:_ENVVAL])
    environment.set(f"{prefix}_count", str(len(names)))


def lszfs(loader: Loader, name: str) -> int:
    """zfs_list: the datasets right below ``name``, internal ones included."""
    pool_name, _, dataset = name.partition("/")
    try:
        pool: Pool = loader.files.pools.by_name(pool_name)
        number = pool.find_dataset(dataset)
    except FileSystemError as error:
        return loader.fail(strerror(error.errno))
    try:
        children = pool.children_of(number)
    except FileSystemError:
        return loader.fail(strerror(EPERM))  # zap_list(...) != 0, that is 1
    for child in children:
        loader.print(f"{child}\n")
    return CMD_OK


def reloadbe(loader: Loader, name: str | None) -> int:
    """The menu's variables of one page of boot environments (zfs_bootenv, zfs_set_env)."""
    environment = loader.environment
    root = environment.get("zfs_be_root")
    if root is None:
        return CMD_OK if name is None else loader.fail(strerror(EINVAL))
    if name is None:
        name = root
    elif name != root:
        environment.set("zfs_be_root", name)
    pools = loader.files.pools
    if pools is None:
        return loader.fail(strerror(ENXIO))
    error = 0
    try:
        pool: Pool = pools.by_name(name.partition("/")[0])
        number = pool.find_dataset(name.partition("/")[2])
    except FileSystemError as failure:
        return loader.fail(strerror(failure.errno))
    try:
        names = pool.children_of(number)
    except FileSystemError as failure:
        names, error = [], failure.errno
    names = [child for child in reversed(names) if not child.startswith("$")]
    pages = -(-len(names) // _PER_PAGE)
    environment.set("zfs_be_pages", str(pages)[:3])
    page = to_int(strtol(environment.get("zfs_be_currpage") or "", 10)[0])
    if page > pages:
        environment.set("zfs_be_currpage", "1")
    page = to_int(strtol(environment.get("zfs_be_currpage") or "1", 10)[0])
    first = max(0, _PER_PAGE * (page - 1))
    shown = names[first : first + _PER_PAGE]
    for index, child in enumerate(shown, ZFS_BE_FIRST):
        values = child[:_ENVVAL], child[:_ENVVAL], "set_bootenv", f"zfs:{name}/{child}"[:_ENVVAL]
        for variable, value in zip(_MENU_VARIABLES, values, strict=True):
            environment.set(f"{variable}[{index}]", value)
    for index in range(ZFS_BE_FIRST + len(shown), ZFS_BE_LAST + 1):
        for variable in _MENU_VARIABLES:
            environment.unset(f"{variable}[{index}]")
    return loader.fail(strerror(error)) if error else CMD_OK
