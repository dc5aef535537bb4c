"""Sockets that listen for QEMU, which may not make any itself."""

from __future__ import annotations

import errno
import os
import socket

_BACKLOG = 1
_PATH_MAX = 107  # sun_path without its NUL (unix(7))


def listening(host: str, port: int) -> int:
    """A descriptor of a socket that listens on TCP ``host``:``port``.  Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        return sock.detach()


def listening_at(path: str) -> int:
    """The same at the Unix socket ``path``; one that nobody serves any more is replaced.  Raises OSError."""
    if len(os.fsencode(path)) > _PATH_MAX:  # Python's own error for it has no number and no words
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or is_served(path):
                raise
            os.unlink(path)
            sock.bind(path)
        sock.listen(_BACKLOG)
        return sock.detach()


def is_served(path: str) -> bool:
    """Whether somebody listens on the Unix socket ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        return sock.connect_ex(path) != errno.ECONNREFUSED
