"""The hashes of blocks that few pools use: SHA-256, SHA-512/256, Skein, Edon-R and BLAKE3, three of them salted
(zio_checksum_table)."""

from __future__ import annotations

import hashlib

from bhyveload.errors import Unsupported
from bhyveload.freebsd_errno import EINVAL

from . import blake3_python, edonr, skein
from . import zfs_format as zf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .blkptr import Salt

    Buffer = bytes | memoryview

_blake3: Callable[..., Any] | None
try:
    from blake3 import blake3 as _blake3
except ImportError:
    _blake3 = None

_has_sha512_256 = "sha512_256" in hashlib.algorithms_available
if _has_sha512_256:
    hashlib.new("sha512_256", b"")  # OpenSSL looks for its algorithms at the first use


def sha256(data: Buffer) -> bytes:
    return hashlib.sha256(data).digest()


def digest(checksum: int, salt: Salt, data: Buffer) -> bytes:
    """The 32 bytes.  Raises FileSystemError (EINVAL): this host's OpenSSL lacks SHA-512/256."""
    if checksum == zf.ZIO_CHECKSUM_SHA512:
        if not _has_sha512_256:
            raise Unsupported(
                EINVAL, "ZFS: this Python's OpenSSL lacks SHA-512/256", "use an OpenSSL built with sha512-256"
            )
        return hashlib.new("sha512_256", data).digest()
    if checksum == zf.ZIO_CHECKSUM_BLAKE3:
        if _blake3 is None:
            return blake3_python.blake3_keyed(salt.salt, data)
        found: bytes = _blake3(data, key=salt.salt).digest()
        return found
    if checksum == zf.ZIO_CHECKSUM_SKEIN:
        return skein.skein_512(_state(checksum, salt, skein.keyed_state), data)
    return edonr.edonr_salted(_state(checksum, salt, edonr.salted_state), data)


def _state(checksum: int, salt: Salt, derive: Callable[[bytes], tuple[int, ...]]) -> tuple[int, ...]:
    """The hash state after the salt: the same for every block of a pool."""
    if checksum not in salt.states:
        salt.states[checksum] = derive(salt.salt)
    return salt.states[checksum]
