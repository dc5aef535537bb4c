"""What bhyve(8) makes up when nobody says it: MAC addresses, serial numbers, the UUID.

Guests remember them (a licence, a network's name, a disk's label), so they are bhyve's, bit for bit.
"""

from __future__ import annotations

import os
import struct

SERIAL_LENGTH = 20  # VTBLK_BLK_ID_BYTES, and ATA's
_HOSTNAME_BUFFER = 256  # MAXHOSTNAMELEN
_MAC_TEXT_MAX = 79  # snprintf(3) into char[80]
_FREEBSD_OUI = b"\x00\xa0\x98"  # NetApp's, whose work bhyve was


def _md5(data: bytes) -> bytes:
    try:
        from _md5 import md5  # type: ignore[import-not-found]  # hashlib brings OpenSSL
    except ImportError:
        from hashlib import md5
    digest: bytes = md5(data, usedforsecurity=False).digest()
    return digest


def mac_address(name: str, slot: int, function: int) -> str:
    """The MAC address of the VM ``name``'s interface in that slot; the bus does not count (net_utils.c:net_genmac)."""
    digest = _md5((f"{slot}-{function}-".encode() + os.fsencode(name))[:_MAC_TEXT_MAX])
    return (_FREEBSD_OUI + digest[:3]).hex(":")


def disk_serial(path: str) -> str:
    """The serial number of a disk by its path as it was written (pci_virtio_block.c, pci_ahci.c)."""
    part = _md5(os.fsencode(path))[:6].hex().upper()
    return f"BHYVE-{part[:4]}-{part[4:8]}-{part[8:]}"


def nvme_serial(slot: int, function: int) -> str:
    """pci_nvme.c:pci_nvme_init_ctrldata."""
    return f"NVME-{slot}-{function}"


def machine_uuid(name: str, hostname: str) -> str:
    """The UUID of the VM ``name`` on a host of that name (smbiostbl.c:smbios_type1_initializer).

    bhyve hashes a buffer of 256 bytes whose end it never cleared; zeros are what a fresh stack has there.
    """
    host = os.fsencode(hostname)[:_HOSTNAME_BUFFER].ljust(_HOSTNAME_BUFFER, b"\0")
    digest = bytearray(_md5(os.fsencode(name) + host))
    digest[6] = digest[6] & 0x0F | 0x30
    digest[8] = digest[8] & 0x3F | 0x80
    low, middle, high, rest = struct.unpack("<IHH8s", digest)
    return f"{low:08x}-{middle:04x}-{high:04x}-{rest[:2].hex()}-{rest[2:].hex()}"


def parse_mac(text: str) -> str | None:
    """ether_aton(3) and net_parsemac: six hexadecimal numbers; None for what is none, for multicast and zero."""
    words = text.split(":")
    digits = set("0123456789abcdefABCDEF")
    if len(words) != 6 or not all(0 < len(word) <= 2 and set(word) <= digits for word in words):
        return None
    octets = bytes(int(word, 16) for word in words)
    if octets[0] & 1 or not any(octets):
        return None
    return octets.hex(":")
