"""An empty root directory for this process, where the kernel gives it one: no name of the host's means anything then.

    enter(folder, user_namespace)

A new mount namespace (in a new user namespace, for who may not have one otherwise), in it a file system of its own
with nothing in it, which is never attached to anything: there is no way up from its root.  The folder given with -h
becomes a read-only clone of its own tree, detached as well, behind the same descriptor: `..` ends at the folder.

What this adds to Landlock: a name cannot even be asked for (O_PATH opens nothing, so Landlock lets it pass), and what
an older Landlock does not know (truncating by open(2), before Linux 6.2) fails with EROFS.  Linux 5.12 for all of it.
"""

from __future__ import annotations

import os
import struct

from bhyveload.syscall import call, checked

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
SYS_UNSHARE = {"x86_64": 272, "aarch64": 97}
# The same numbers on every architecture: include/uapi/asm-generic/unistd.h.
SYS_OPEN_TREE, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT, SYS_MOUNT_SETATTR = 428, 430, 431, 432, 442
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC, FSCONFIG_CMD_CREATE = 1, 1, 1, 6
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
READ_ONLY = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
MOUNT_ATTR = struct.Struct("=QQQQ")  # attr_set, attr_clr, propagation, userns_fd


def enter(machine: str, folder: int, user_namespace: bool) -> bool:
    """Whether this process has an empty root now.  ``folder``: a descriptor (O_PATH) or -1.

    The process has one thread.  In a user namespace it holds every capability there afterwards: drop them.
    """
    number = SYS_UNSHARE.get(machine)
    if number is None:
        return False
    try:
        ids = os.geteuid(), os.getegid()
        if folder >= 0:
            os.fchdir(folder)  # the new namespace has copies of all mounts: it takes the working directory along
        checked(call(number, CLONE_NEWNS | (CLONE_NEWUSER if user_namespace else 0)))
        if user_namespace:
            _keep_ids(*ids)
        if folder >= 0:
            _make_folder_read_only(folder)
        root = _empty_file_system()
        try:
            os.fchdir(root)
            os.chroot(".")
        finally:
            os.close(root)
    except OSError:
        return False  # an old kernel, a container, a policy: the other layers stand by themselves
    return True


def _keep_ids(uid: int, gid: int) -> None:
    """The process stays who it is, and so do its files where somebody asks for their owner."""
    try:
        for path, text in (("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1")):
            fd = os.open(f"/proc/self/{path}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
    except OSError:
        pass  # without /proc everybody is the overflow user, which changes no right


def _make_folder_read_only(folder: int) -> None:
    """Put a detached, read-only clone of the working directory's tree behind the descriptor ``folder``."""
    try:
        tree = checked(call(SYS_OPEN_TREE, AT_FDCWD, b".", OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC))
    except OSError:
        return  # a folder of another namespace
    try:
        attributes = MOUNT_ATTR.pack(READ_ONLY, 0, 0, 0)
        flags = AT_EMPTY_PATH | AT_RECURSIVE
        checked(call(SYS_MOUNT_SETATTR, tree, b"", flags, attributes, len(attributes)))
        os.dup2(tree, folder, inheritable=False)
    finally:
        os.close(tree)


def _empty_file_system() -> int:
    context = checked(call(SYS_FSOPEN, b"tmpfs", FSOPEN_CLOEXEC))
    try:
        checked(call(SYS_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0))
        return checked(call(SYS_FSMOUNT, context, FSMOUNT_CLOEXEC, READ_ONLY))
    finally:
        os.close(context)
