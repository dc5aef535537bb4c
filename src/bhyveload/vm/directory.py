"""The directory of VMs: where it is, whose it has to be, and what a VM may be called."""

from __future__ import annotations

import errno
import os
import stat
import sys

from bhyveload.errors import VmNameError, VmStorageError
from bhyveload.new_file import private_folder

NAME_LIMIT = 229  # VM_MAX_NAMELEN: SPECNAMELEN 255 less "/dev/vmm.io/" and suffixes (sys/amd64/include/vmm.h)
DEV_VMM = "/dev/vmm"  # where FreeBSD's VMs are, and where their managers look
_TAKE_AWAY = "take that right away (chmod go-w), or "


def default_directory() -> str:
    """Where VMs are kept: $BHYVE_VMM_DIR, or /dev/shm/vmm-<uid>; for root /dev/vmm where it has made that a directory,
    or a link to one (docs/callers.md).  FreeBSD (``--vmm=store``) has no /dev/shm: /tmp/vmm-<uid>."""
    named = os.environ.get("BHYVE_VMM_DIR")
    if named:
        return named
    if os.geteuid() == 0 and sys.platform == "linux" and os.path.isdir(DEV_VMM) and os.access(DEV_VMM, os.W_OK):
        return os.path.realpath(DEV_VMM)
    return f"{'/tmp' if sys.platform.startswith('freebsd') else '/dev/shm'}/vmm-{os.geteuid()}"


def prepare_directory(directory: str | None = None) -> str:
    """The absolute path of the directory of VMs, created (mode 0700) when absent.

    Raises VmStorageError when it cannot be created or is not ours alone to write: then somebody else could choose what
    our guests execute.
    """
    path = os.path.abspath(directory or default_directory())
    try:
        private_folder(path, exist_ok=True)
        info = os.lstat(path)
    except OSError as error:
        raise storage_error(path, error) from None
    reason, mend = not_ours(info)
    if reason:
        hint = f"{mend}point BHYVE_VMM_DIR to a directory of your own"
        raise VmStorageError(f"{path}: not used as the VM directory: {reason}", hint)
    return path


def not_ours(info: os.stat_result) -> tuple[str, str]:
    """Why a directory is not ours alone to write, "" when it is; and how a hint begins that says what mends it."""
    if stat.S_ISLNK(info.st_mode):
        return "it is a symbolic link", ""
    if not stat.S_ISDIR(info.st_mode):
        return "it is no directory", ""
    if info.st_uid != os.geteuid():
        return f"it belongs to user {info.st_uid}", ""
    if info.st_mode & stat.S_IWOTH:
        return "everybody may write to it", _TAKE_AWAY
    if info.st_mode & stat.S_IWGRP:
        return f"group {info.st_gid} may write to it", _TAKE_AWAY
    return "", ""


def check_name(name: str) -> None:
    """Raises VmNameError unless ``name`` can be a VM's name, TypeError unless it is a text."""
    if not isinstance(name, str):
        raise TypeError(f"name: a VM's is a text, not {name!r}")
    reason, hint = refused_name(name)
    if reason:
        raise VmNameError(f"vm_create: {reason}", hint)


def refused_name(name: str) -> tuple[str, str]:
    """What vmm(4) has against a VM's ``name``, and what it should be like: 1 to 229 bytes, printable, no "/", not "."
    or "..".  ("", ""): nothing."""
    if len(os.fsencode(name)) > NAME_LIMIT:
        return "File name too long", f"a VM's name has at most {NAME_LIMIT} bytes"
    if not name or name in (".", "..") or "/" in name or not name.isprintable():
        return "Invalid argument", "a VM's name is not empty, has no '/', and is printable UTF-8"
    return "", ""


def as_operand(name: str) -> str:
    """``name`` as a shell's command line has it behind a program's options."""
    word = name
    if not all(character.isalnum() or character in "%+,-./:=@_" for character in name):
        word = "'" + name.replace("'", "'\\''") + "'"
    return f"-- {word}" if name.startswith("-") else word


def list_machines(directory: str | None = None) -> list[str]:
    """The names of all VMs, sorted.  Raises VmStorageError."""
    path = prepare_directory(directory)
    try:
        with os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise storage_error(path, error) from None


def storage_error(path: str, error: OSError, what: str = "") -> VmStorageError:
    """What the host says of ``path``, with what to do about it."""
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room in the VM directory or point BHYVE_VMM_DIR elsewhere"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
        hint = "point BHYVE_VMM_DIR to a directory of your own"
    return VmStorageError(f"{path}: {what}{error.strerror or error}", hint)
