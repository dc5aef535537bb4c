"""Choosing without a menu: variables that the guest's scripts read but, for this run, cannot change.

--batch does what the guest does when nobody comes: scripts see an autoboot_delay of 0 (or the -1 that they set
themselves, with which no menu is drawn), a menu is drawn where nobody sees it, and its countdown ends because time does
not pass while it waits (loader/interpreter/lua_loader.py).  Only a wait for a key ends the run.  Forth's scripts see
autoboot_delay=-1 and beastie_disable=YES.  What they tried to set is put back before the guest starts, so that the
kernel gets the environment of its own configuration.
"""

from __future__ import annotations

from bhyveload.freebsd_errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.environment import Variable
    from bhyveload.loader.state import Loader


def lock_variables(loader: Loader, interpreter: str = "lua") -> None:
    """Define the variables that the run's options decide."""
    options = loader.options
    if options.batch and interpreter == "lua":
        lock(loader, "autoboot_delay", "0", restore=True, allowed="-1")
    elif options.batch:
        lock(loader, "autoboot_delay", "-1", restore=True)
        lock(loader, "beastie_disable", "YES", restore=True)
    if options.kernel:
        lock(loader, "kernel", options.kernel, restore=False)
    if options.single_user:
        lock(loader, "boot_single", "YES", restore=False)
    if options.verbose:
        lock(loader, "boot_verbose", "YES", restore=False)


def lock(loader: Loader, name: str, value: str, restore: bool, allowed: str | None = None) -> None:
    """A variable that scripts cannot change, except to ``allowed``; ``restore``: what they tried to set is put back at
    the end."""
    wanted: list[str | None] = []

    def keep(variable: Variable, text: str | None) -> int:
        wanted[:] = [text]
        variable.value = text if text is not None and text == allowed else value
        return 0

    def forget(variable: Variable) -> int:
        wanted.clear()
        return EPERM

    loader.environment.define(name, value, keep, forget)

    def give_back() -> None:
        variable = loader.environment.remove(name)
        if wanted and variable is not None:
            loader.environment.set(name, wanted[0])

    if restore:
        loader.before_exec.append(give_back)
