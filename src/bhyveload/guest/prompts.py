"""What a FreeBSD console waits for, by the last bytes that it showed.

Sources: libexec/getty/main.c, lib/libpam/modules/pam_unix, sbin/init/init.c:single_user,
sys/kern/vfs_mountroot.c:vfs_mountroot_ask, sys/ddb/db_input.c, bin/sh and tcsh's prompts.
"""

from __future__ import annotations

import re

LOGIN, PASSWORD, SHELL_PATH, SHELL = "login", "password", "shell path", "shell"
TAIL = 512  # bytes at the end that matter

_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,256}\x07|[()][0-9A-Za-z]|[=>78])|[\x00\x07]")
_ENDS = (
    (LOGIN, re.compile(rb"login: ?\Z")),
    (PASSWORD, re.compile(rb"[Pp]assword(?: for [^:\n]{1,64})?: ?\Z")),
    (SHELL_PATH, re.compile(rb"Enter full pathname of shell or RETURN for /bin/sh: ?\Z")),
    (SHELL, re.compile(rb"(?:\A|[\r\n])(?!mountroot>|db>)[^\r\n]{0,200}[#$%>] \Z")),
)
_REFUSED = re.compile(rb"[Ll]ogin incorrect")
_LOGIN_ANYWHERE = re.compile(rb"(?:\A|[\r\n])[^\r\n]{0,80}login: ?[\r\n]")


def plain(data: bytes) -> bytes:
    """``data`` without what only moves a terminal's cursor or colours it."""
    return _ESCAPES.sub(b"", data)


def waits_for(tail: bytes) -> str:
    """What a console that ends in ``tail`` waits for: one of the constants, "" for nothing that is known."""
    text = plain(tail[-TAIL:])
    return next((kind for kind, pattern in _ENDS if pattern.search(text)), "")


def hidden_login(tail: bytes) -> bool:
    """Whether there was a login prompt that a message has pushed away."""
    return _LOGIN_ANYWHERE.search(plain(tail)) is not None


def refused(text: bytes) -> bool:
    """Whether login(1) said no."""
    return _REFUSED.search(text) is not None
