"""The guest's serial ports: the terminal, a terminal device (null modems among them), a TCP port."""

from __future__ import annotations

from bhyveload.bhyve import devices as dev
from bhyveload.bhyve.starting import failed_start
from bhyveload.errors import HostError
from bhyveload.host.nmdm import device_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.compat import LoaderVersion
    from bhyveload.errors import BhyveError
    from bhyveload.handoff.qemu.files import QemuFiles

CONSOLE = "console"  # the chardev that the session makes


def port_arguments(
    name: str, backend: dev.Backend | None, files: QemuFiles, device: str, compat: LoaderVersion
) -> tuple[str, list[str]]:
    """(the chardev's name, what makes it) of a port called ``name``; ``device`` as bhyve's messages name it.

    Raises BhyveError: no terminal, or nobody may listen there.
    """
    if isinstance(backend, dev.Stdio):
        return CONSOLE, []
    if backend is None:
        return name, ["-chardev", f"null,id={name}"]
    if isinstance(backend, dev.TerminalPort):
        try:
            path = files.terminal(device_of(backend.path))
        except (OSError, HostError) as error:
            raise _unable(compat, backend.path, device, error) from None
        return name, ["-chardev", f"serial,id={name},path={path.replace(',', ',,')}"]
    if isinstance(backend, dev.UnixSocket):
        try:
            where = files.unix_listener(backend.path)
        except OSError as error:
            raise _unable(compat, f"unix={backend.path}", device, error) from None
        return name, ["-chardev", f"socket,id={name},{where},server=on,wait=off"]
    try:
        where = files.listener(backend.host, backend.port)
    except OSError as error:
        line = f"bhyve: bind({backend.host}:{backend.port}): {error.strerror}"
        raise _unable(compat, f"tcp={backend.host}:{backend.port}", device, error, line) from None
    return name, ["-chardev", f"socket,id={name},{where},server=on,wait=off"]


def _unable(compat: LoaderVersion, backend: str, device: str, error: OSError | HostError, *lines: str) -> BhyveError:
    reason = error.message if isinstance(error, HostError) else error.strerror or str(error)
    return failed_start(compat, reason, *lines, f"Unable to initialize backend '{backend}' for {device}")
