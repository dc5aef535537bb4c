"""Every builtin command, in the order in which userboot lists them (COMMAND_SET of each file in stand/)."""

from __future__ import annotations

from bhyveload.loader.commands import basic, boot, ls, modules
from bhyveload.loader.state import CMD_OK
from bhyveload.need import OnDemand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.commands import rare
    from bhyveload.loader.state import Command, Loader
else:
    rare = OnDemand("bhyveload.loader.commands.rare")

# (name, description); quit stands twice because two files of the loader define it
LISTING = (
    ("bcachestat", "get disk block cache stats"),
    ("quit", "exit the loader"),
    ("reboot", "reboot the system"),
    ("boot", "boot a file or loaded kernel"),
    ("autoboot", "boot automatically after a delay"),
    ("help", "detailed help"),
    ("?", "list commands"),
    ("show", "show variable(s)"),
    ("set", "set a variable"),
    ("unset", "unset a variable"),
    ("echo", "echo arguments"),
    ("read", "read input from the terminal"),
    ("more", "show contents of a file"),
    ("lsdev", "list all devices"),
    ("readtest", "Time a file read"),
    ("quit", "exit the loader"),
    ("include", "read commands from a file"),
    ("ls", "list files"),
    ("load", "load a kernel or module"),
    ("load_geli", "load a geli key"),
    ("unload", "unload all modules"),
    ("lsmod", "list loaded modules"),
    ("pnpmatch", "list matched modules based on pnpinfo"),
    ("pnpload", "load matched modules based on pnpinfo"),
    ("pnpautoload", "auto load modules based on pnpinfo"),
    ("nvstore", "manage non-volatile data"),
    ("map-vdisk", "map file as virtual disk"),
    ("unmap-vdisk", "unmap virtual disk"),
    ("lszfs", "list child datasets of a zfs dataset"),
    ("reloadbe", "refresh the list of ZFS Boot Environments"),
)
_RARE = ("nvstore", "map-vdisk", "unmap-vdisk", "lszfs", "reloadbe")


def commandlist(loader: Loader, argv: list[str]) -> int:
    """The `?` command."""
    width = 20 if loader.version == "current" else 15
    console = loader.console
    console.pager_open()
    if not console.pager_output("Available commands:\n"):
        for name, description in LISTING:
            if console.pager_output(f"  {name:{width}}  {description}\n"):
                break
    console.pager_close()
    return CMD_OK


def _rare(loader: Loader, argv: list[str]) -> int:
    return rare.COMMANDS[argv[0]](loader, argv)


def commands() -> dict[str, Command]:
    """Name -> command."""
    table: dict[str, Command] = {"?": commandlist, "ls": ls.ls}
    table.update(basic.COMMANDS)
    table.update(boot.COMMANDS)
    table.update(modules.COMMANDS)
    table.update(dict.fromkeys(_RARE, _rare))
    return table
