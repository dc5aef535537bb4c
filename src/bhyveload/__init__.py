"""bhyveload: load a FreeBSD guest into a virtual machine on Linux, without firmware and without root.

The library is ``bhyveload.api``; its names are to be had from here, too, and imported when they are first used
(docs/library.md).  The programs in ``bhyveload.cli`` are thin users of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.api import BhyveloadError as BhyveloadError
    from bhyveload.api import DataError as DataError
    from bhyveload.api import FileSystemError as FileSystemError
    from bhyveload.api import Finished as Finished
    from bhyveload.api import Guest as Guest
    from bhyveload.api import GuestEnded as GuestEnded
    from bhyveload.api import GuestError as GuestError
    from bhyveload.api import GuestTimedOut as GuestTimedOut
    from bhyveload.api import HandoffError as HandoffError
    from bhyveload.api import HostError as HostError
    from bhyveload.api import ImageError as ImageError
    from bhyveload.api import InputError as InputError
    from bhyveload.api import KernelError as KernelError
    from bhyveload.api import LoaderCrashed as LoaderCrashed
    from bhyveload.api import LoaderError as LoaderError
    from bhyveload.api import LoadReport as LoadReport
    from bhyveload.api import MemoryAccessError as MemoryAccessError
    from bhyveload.api import NoFileSystem as NoFileSystem
    from bhyveload.api import Options as Options
    from bhyveload.api import PartitionError as PartitionError
    from bhyveload.api import PathError as PathError
    from bhyveload.api import ReportError as ReportError
    from bhyveload.api import RunResult as RunResult
    from bhyveload.api import Sandbox as Sandbox
    from bhyveload.api import SandboxError as SandboxError
    from bhyveload.api import ScratchMachine as ScratchMachine
    from bhyveload.api import Unsupported as Unsupported
    from bhyveload.api import UsageError as UsageError
    from bhyveload.api import VirtualMachine as VirtualMachine
    from bhyveload.api import VmBusy as VmBusy
    from bhyveload.api import VmError as VmError
    from bhyveload.api import VmMemoryError as VmMemoryError
    from bhyveload.api import VmNameError as VmNameError
    from bhyveload.api import VmNotFound as VmNotFound
    from bhyveload.api import VmNotLoaded as VmNotLoaded
    from bhyveload.api import VmStateError as VmStateError
    from bhyveload.api import VmStorageError as VmStorageError
    from bhyveload.api import boot as boot
    from bhyveload.api import load as load
    from bhyveload.api import load_image as load_image
    from bhyveload.api import open_disk as open_disk
    from bhyveload.api import restore as restore
    from bhyveload.api import run as run
    from bhyveload.api import start as start

__version__ = "0.1.0"
__all__ = [
    "BhyveloadError",
    "DataError",
    "FileSystemError",
    "Finished",
    "Guest",
    "GuestEnded",
    "GuestError",
    "GuestTimedOut",
    "HandoffError",
    "HostError",
    "ImageError",
    "InputError",
    "KernelError",
    "LoadReport",
    "LoaderCrashed",
    "LoaderError",
    "MemoryAccessError",
    "NoFileSystem",
    "Options",
    "PartitionError",
    "PathError",
    "ReportError",
    "RunResult",
    "Sandbox",
    "SandboxError",
    "ScratchMachine",
    "Unsupported",
    "UsageError",
    "VirtualMachine",
    "VmBusy",
    "VmError",
    "VmMemoryError",
    "VmNameError",
    "VmNotFound",
    "VmNotLoaded",
    "VmStateError",
    "VmStorageError",
    "boot",
    "load",
    "load_image",
    "open_disk",
    "restore",
    "run",
    "start",
]


def __getattr__(name: str) -> object:
    """What bhyveload.api has of that name; exceptions without importing it."""
    if not name.startswith("_"):
        import bhyveload.errors  # not "from bhyveload import": that asks here again

        found = vars(bhyveload.errors).get(name)
        if isinstance(found, type):
            return found
        if name in __all__:
            import bhyveload.api

            return getattr(bhyveload.api, name)
    raise AttributeError(f"bhyveload has no {name}")


def __dir__() -> list[str]:
    """For completion at Python's prompt."""
    return sorted({*globals(), *__all__})
