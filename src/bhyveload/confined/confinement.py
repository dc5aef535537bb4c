"""What a confined child is given, and how it is shut in."""

from __future__ import annotations

from bhyveload import need
from bhyveload.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from bhyveload.device import Device
    from bhyveload.host.interface import HeldConsole, HostDirectory
    from bhyveload.sandbox import Sandbox
    from bhyveload.vm.interface import Memory


class Subject:
    """Who a child is in messages, what it holds, and how it is shut in.

    ``name``: "the loader"; ``consequence``: the hint when it dies, "nothing was loaded".  ``sandbox`` None: it is not
    confined.  ``others``: descriptors that it may use besides those of console, memory, disks and host directory.
    Raises HostError: a host directory that the sandbox would not let it read.
    """

    __slots__ = ("_disks", "_host_directory", "_memory", "_others", "_sandbox", "consequence", "console", "name")

    def __init__(
        self,
        name: str,
        sandbox: Sandbox | None,
        *,
        console: HeldConsole | None = None,
        memory: Memory | None = None,
        disks: Sequence[Device] = (),
        host_directory: HostDirectory | None = None,
        others: Sequence[int] = (),
        consequence: str = "",
    ) -> None:
        walks = host_directory is not None and host_directory.walks
        if sandbox is not None and walks and not sandbox.may_walk:
            raise HostError(
                "-h needs openat2(2) (Linux 5.6) or Landlock, and this kernel or container has neither",
                "--no-sandbox reads the folder with all your rights",
            )
        self.name = name
        self.console = console
        self.consequence = consequence
        self._sandbox = sandbox
        self._memory = memory
        self._disks = disks
        self._host_directory = host_directory
        self._others = others

    def confine(self, report: int) -> None:
        """Confine this process to these and to ``report``, the descriptor that its report goes to.

        Everything must be opened and imported by now.  A late import is an internal error from here on, or
        ModulesNeeded where it goes through need.need().
        Raises SandboxError.
        """
        if self._sandbox is None:
            return
        descriptors = [2, report, *self._others]
        if self.console is not None:
            descriptors += self.console.descriptors()
        if self._memory is not None:
            descriptors += self._memory.descriptors()
        written = []
        for disk in self._disks:
            descriptors += disk.descriptors()
            if not disk.read_only:
                written += [(fd, disk.size) for fd in disk.descriptors()]
        folder = self._host_directory
        fd, walks = (-1, False) if folder is None else (folder.fd, folder.walks)
        self._sandbox.enter(descriptors, fd, written, walks)
        need.confine()
