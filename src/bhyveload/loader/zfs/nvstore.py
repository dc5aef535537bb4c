"""Variables kept in a pool's labels, and the command nvstore (stand/common/nvstore.c, stand/libsa/zfs/zfs.c).

Sources: stand/common/nvstore.c, stand/libsa/nvstore.c, zfs_nvstore_* of stand/libsa/zfs/zfs.c.
"""

from __future__ import annotations

from bhyveload.errors import FileSystemError
from bhyveload.freebsd_errno import ENXIO, EOPNOTSUPP, strerror
from bhyveload.fs.zfs import bootenv
from bhyveload.loader.commands.options import options
from bhyveload.loader.state import CMD_ERROR, CMD_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.fs.zfs.nvlist import Pair
    from bhyveload.fs.zfs.pool import Pool
    from bhyveload.loader.environment import Variable
    from bhyveload.loader.state import Loader

_USAGE = (
    "Usage:\tnvstore -l\n"
    "\tnvstore store -l\n"
    "\tnvstore store [-t type] key value\n"
    "\tnvstore store -g key\n"
    "\tnvstore store -d key\n"
)


def attach(loader: Loader, pool: Pool) -> None:
    """zfs_attach_nvstore: the pool's stored variables become loader variables that write themselves back."""
    if not pool.has_nvstore:
        return
    loader.files.pools.nvstore = pool
    try:
        pairs = pool.nvstore()
    except FileSystemError:
        return  # no variables yet
    for pair in pairs:
        if _import(loader, pair):
            break


def _import(loader: Loader, pair: Pair) -> int:
    """zfs_nvstore_setenv: one variable; an errno when its type cannot be shown."""

    def write_back(variable: Variable, value: str | None) -> int:
        try:
            pool = _current_pool(loader)
        except FileSystemError as error:
            return error.errno
        return store(loader, pool, variable.name, value or "", None)

    def drop(variable: Variable) -> int:
        try:
            _current_pool(loader).nvstore_unset(variable.name)
        except FileSystemError as error:
            return error.errno
        return 0

    try:
        value = bootenv.value_text(pair)
    except FileSystemError as error:
        return error.errno
    name = pair.name.partition(b"\0")[0].decode("latin-1")
    loader.environment.define(name, value, write_back, drop, hook=False)
    return 0


def _current_pool(loader: Loader) -> Pool:
    """The pool of currdev.  Raises FileSystemError: ENXIO, EOPNOTSUPP for a device that is none."""
    device, _ = loader.files.parse_device(loader.environment.get("currdev") or "")
    if device.kind != "zfs":
        raise FileSystemError(EOPNOTSUPP, "nvstore: the current device is no ZFS pool")
    pool: Pool = loader.files.pools.by_name(device.pool)
    return pool


def store(loader: Loader, pool: Pool, name: str, text: str, type_name: str | None) -> int:
    """zfs_nvstore_setter_str: write a variable to the labels and show it; 0 or an errno."""
    try:
        result = pool.nvstore_set(name, text, type_name)
        stored = pool.nvstore_find(name)
    except FileSystemError as error:
        return error.errno
    return (_import(loader, stored) if stored is not None else ENXIO) or result


def nvstore(loader: Loader, argv: list[str]) -> int:
    """The command."""
    pool: Pool | None = loader.files.pools.nvstore if loader.files.pools is not None else None
    parsed = options(loader, argv, "l")
    if parsed is None:
        return CMD_ERROR
    listing, words = bool(parsed[0]), parsed[1]
    if not words:
        if not listing:
            loader.print(_USAGE)
            return CMD_ERROR
        loader.print(
            f"List of configured nvstores:\n\t{pool.name}\n" if pool is not None else "No configured nvstores\n"
        )
        return CMD_OK
    if listing or pool is None or words[0] != pool.name:
        loader.print(_USAGE)
        return CMD_ERROR
    return _on_store(loader, pool, words)


def _on_store(loader: Loader, pool: Pool, words: list[str]) -> int:
    actions: set[str] = set()

    def conflicts(letter: str, _: str) -> bool:
        actions.update({letter} & set("dgl"))
        return len(actions) > 1

    parsed = options(loader, words, "d:g:lt:", conflicts)
    if len(actions) > 1:
        loader.print(_USAGE)
    if parsed is None:
        return CMD_ERROR
    key = next((value for letter, value in reversed(parsed[0]) if letter in "dg"), "")
    if "l" in actions:
        _print_all(loader, pool)
    elif "d" in actions:
        _delete(loader, pool, key)
    elif "g" in actions:
        _print_one(loader, pool, key)
    elif len(parsed[1]) == 2:
        type_name = next((value for letter, value in reversed(parsed[0]) if letter == "t"), None)
        name, text = parsed[1]
        error = store(loader, pool, name, text, type_name)
        if error:
            loader.print(f"error: {strerror(error)}\n")
            return CMD_ERROR
    else:
        loader.print(_USAGE)
    return CMD_OK


def _print_all(loader: Loader, pool: Pool) -> None:
    try:
        pairs = pool.nvstore()
    except FileSystemError:
        return
    for pair in pairs:
        loader.print(bootenv.pair_text(pair))


def _print_one(loader: Loader, pool: Pool, key: str) -> None:
    try:
        pairs = pool.nvstore()
    except FileSystemError:
        return
    for pair in pairs:
        if pair.name.decode("latin-1") == key and isinstance(pair.value, bytes) and bootenv.is_string(pair):
            value = pair.value.partition(b"\0")[0].decode("latin-1")
            loader.print(f"{key} = {value}\n")
            return


def _delete(loader: Loader, pool: Pool, key: str) -> None:
    """zfs_nvstore_unset_impl: where anything is stored the loader's variable goes, whether stored or not."""
    try:
        pool.nvstore()
    except FileSystemError:
        return
    try:
        pool.nvstore_unset(key)
    except FileSystemError:
        pass  # the command says nothing
    loader.environment.remove(key)
