"""Choosing without a menu: variables that the guest's scripts read but, for this run, cannot change.

--batch answers the menu and the countdown before they ask: scripts see autoboot_delay=-1 and beastie_disable=YES
whatever loader.conf says.  What they tried to set is put back before the guest starts, so that the kernel gets the
environment of its own configuration.
"""

from __future__ import annotations

from bhyveload.freebsd_errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.loader.environment import Variable
    from bhyveload.loader.state import Loader


def lock_variables(loader: Loader) -> None:
    """Define the variables that the run's options decide."""
    options = loader.options
    if options.batch:
        lock(loader, "autoboot_delay", "-1", restore=True)
        lock(loader, "beastie_disable", "YES", restore=True)
    if options.kernel:
        lock(loader, "kernel", options.kernel, restore=False)
    if options.single_user:
        lock(loader, "boot_single", "YES", restore=False)
    if options.verbose:
        lock(loader, "boot_verbose", "YES", restore=False)


def lock(loader: Loader, name: str, value: str, restore: bool) -> None:
    """A variable that scripts cannot change; ``restore``: what they tried to set is put back at the end."""
    wanted: list[str | None] = []

    def keep(variable: Variable, text: str | None) -> int:
        wanted[:] = [text]
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
