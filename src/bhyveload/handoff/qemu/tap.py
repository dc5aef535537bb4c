"""The host's tap interfaces: QEMU gets a descriptor of one and opens nothing itself.

Source: the kernel's Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from bhyveload.errors import HandoffError

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
_IFREQ = struct.Struct("16sH22x")
_TUN_FLAGS = "/sys/class/net/{}/tun_flags"


def open_tap(interface: str) -> int:
    """A descriptor of the tap ``interface``, which is there already, and up.  Raises HandoffError."""
    try:
        with open(_TUN_FLAGS.format(interface), encoding="ascii") as file:
            flags = int(file.read(), 16)
    except (OSError, ValueError):
        there = os.path.exists(f"/sys/class/net/{interface}")
        raise HandoffError(
            f"{interface}: {'not a tap interface' if there else 'no such interface'}",
            f"ip tuntap add dev {interface} mode tap user $USER",
        ) from None
    if not flags & IFF_TAP:
        raise HandoffError(f"{interface}: a tun interface, not a tap one")
    fd = -1
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.ioctl(fd, TUNSETIFF, _IFREQ.pack(interface.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags & 0x0100))
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        hint = f"ip tuntap add dev {interface} mode tap user $USER lets you use it"
        if error.errno == errno.EBUSY:
            hint = "another program has it, perhaps another guest's QEMU: one interface for each"
        raise HandoffError(f"{interface}: {error.strerror}", hint) from None
    _bring_up(interface)
    return fd


def _bring_up(interface: str) -> None:
    """QEMU does not; where we may not, whoever made it has."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, _IFREQ.pack(interface.encode(), 0))
            _, flags = _IFREQ.unpack(answer)
            if not flags & IFF_UP:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, _IFREQ.pack(interface.encode(), flags | IFF_UP))
    except OSError:
        pass
