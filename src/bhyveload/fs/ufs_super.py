"""Finding a UFS superblock and believing it (ffs_sbget in sys/ufs/ffs/ffs_subr.c).

What is needed to read safely is required; where FreeBSD's loader asks for more, the file system is read all the same
and a note says that the loader would have refused it.
"""

from __future__ import annotations

import struct

from bhyveload.errors import FileSystemError, NoFileSystem
from bhyveload.freebsd_errno import EILSEQ, EINVAL, EIO, ENOENT
from bhyveload.fs.ufs_format import (
    CK_SUPERBLOCK,
    CK_SUPPORTED,
    CSUM_SIZE,
    DEV_BSIZE,
    FS_BAD_MAGIC,
    FS_CKHASH_OFFSET,
    FS_FLAGS_MASK,
    FS_FLAGS_OFFSET,
    FS_FLAGS_UPDATED,
    FS_MAGIC_OFFSET,
    FS_METACKHASH,
    FS_METACKHASH_OFFSET,
    FS_UFS1_MAGIC,
    FS_UFS2_MAGIC,
    MAXBSIZE,
    MAXFRAG,
    MINBSIZE,
    SBLOCK_UFS1,
    SBLOCK_UFS2,
    SBLOCKSEARCH,
    SBLOCKSIZE,
    SUPERBLOCK_FIELDS,
    SUPERBLOCK_SIZE,
    UFS1_DINODE_SIZE,
    UFS1_MAXSYMLINKLEN,
    UFS2_DINODE_SIZE,
    UFS2_MAXSYMLINKLEN,
    VOLNAME_OFFSET,
    VOLNAME_SIZE,
    calculate_crc32c,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.device import Device

ENDIAN_MISMATCH = "UFS superblock failed due to endian mismatch between machine and filesystem"


class Superblock:
    """A superblock that passed its checks: FreeBSD's names without `fs_`, sizes in bytes, addresses in fragments."""

    __slots__ = (
        "bshift",
        "bsize",
        "check_hash_message",
        "clean",
        "csaddr",
        "cssize",
        "dev",
        "dinode_size",
        "fpg",
        "frag",
        "fshift",
        "fsize",
        "iblkno",
        "inopb",
        "ipg",
        "location",
        "maxsymlinklen",
        "ncg",
        "nindir",
        "old_cgmask",
        "old_cgoffset",
        "refusal",
        "size",
        "version",
        "volname",
    )

    def __init__(self, raw: bytes, fields: dict[str, int], location: int) -> None:
        self.version = 1 if fields["magic"] == FS_UFS1_MAGIC else 2
        self.location = location
        self.bsize = fields["bsize"]
        self.bshift = fields["bshift"]
        self.fsize = fields["fsize"]
        self.fshift = fields["fshift"]
        self.frag = fields["frag"]
        self.ncg = fields["ncg"]
        self.fpg = fields["fpg"]
        self.ipg = fields["ipg"]
        self.inopb = fields["inopb"]
        self.nindir = fields["nindir"]
        self.iblkno = fields["iblkno"]
        self.old_cgoffset = fields["old_cgoffset"]
        self.old_cgmask = fields["old_cgmask"]
        self.size = fields["size"]
        self.csaddr = fields["csaddr"]
        self.cssize = fields["cssize"]
        self.maxsymlinklen = fields["maxsymlinklen"]
        self.clean = fields["clean"] != 0
        self.dinode_size = self.bsize // self.inopb
        self.dev = fields["id0"] ^ fields["id1"]  # what ufs_stat gives as st_dev
        self.volname = raw[VOLNAME_OFFSET : VOLNAME_OFFSET + VOLNAME_SIZE].partition(b"\0")[0]
        self.check_hash_message = _check_hash_message(raw, fields)
        self.refusal = _refusal(fields)

    def cgstart(self, cg: int) -> int:
        """First fragment of cylinder group ``cg``'s own structures."""
        if self.version == 1:
            return self.fpg * cg + self.old_cgoffset * (cg & ~self.old_cgmask)
        return self.fpg * cg

    def inode_offset(self, ino: int) -> int:
        """Byte of inode ``ino``.  Raises FileSystemError(EIO) when the file system has no such inode."""
        cg, within = divmod(ino, self.ipg)
        if ino < 0 or cg >= self.ncg:
            raise FileSystemError(EIO, f"ufs: there is no inode {ino}: damaged directory")
        block, index = divmod(within, self.inopb)
        fragment = self.cgstart(cg) + self.iblkno + block * self.frag
        if not 0 <= fragment < self.size:
            raise FileSystemError(EIO, f"ufs: inode {ino} lies outside the file system: damaged superblock")
        return (fragment << self.fshift) + index * self.dinode_size


def find_superblock(device: Device) -> Superblock:
    """The superblock that FreeBSD's loader would use.

    Raises FileSystemError: ENOENT no UFS here, EINVAL newfs was interrupted, EILSEQ big-endian, EIO cannot be read.
    """
    why = ""
    for location in SBLOCKSEARCH:
        try:
            raw = bytes(device.read(location, SBLOCKSIZE))
        except FileSystemError:
            if location + SBLOCKSIZE > device.size:  # a partition may end before the disk does
                continue
            raise
        magic = int.from_bytes(raw[FS_MAGIC_OFFSET : FS_MAGIC_OFFSET + 4], "little")
        if magic == FS_BAD_MAGIC:
            raise FileSystemError(EINVAL, "ufs: newfs on this file system has not finished", "run newfs again")
        if magic in _SWAPPED_MAGICS:
            raise FileSystemError(EILSEQ, ENDIAN_MISMATCH, "the file system was made for a big-endian machine")
        if magic not in (FS_UFS1_MAGIC, FS_UFS2_MAGIC):
            continue
        fields = _fields(raw)
        why = _unusable(fields) or _misplaced(fields, location)
        if not why:
            return Superblock(raw, fields, location)
    if why:
        raise FileSystemError(ENOENT, f"ufs: the superblock is damaged: {why}", "fsck_ffs(8) can use a backup")
    raise NoFileSystem(ENOENT, "ufs: no UFS file system here")


def check_summary(device: Device, superblock: Superblock) -> None:
    """The loader reads the cylinder summary and drops it: all that shows is whether it can be read.

    Raises FileSystemError(EIO).
    """
    length = -(-superblock.cssize // superblock.fsize) * superblock.fsize
    end = (superblock.csaddr << superblock.fshift) + length
    try:
        if superblock.csaddr >= 0 and (end <= device.size or device.read(end - 1, 1)):
            return
    except FileSystemError:
        pass
    raise FileSystemError(EIO, "ufs: the cylinder summary lies outside the disk: truncated or damaged image")


_SWAPPED_MAGICS = tuple(
    int.from_bytes(magic.to_bytes(4, "big"), "little") for magic in (FS_UFS1_MAGIC, FS_UFS2_MAGIC, FS_BAD_MAGIC)
)


def _fields(raw: bytes) -> dict[str, int]:
    fields: dict[str, int] = {
        name: struct.unpack_from("<" + code, raw, offset)[0] for name, (offset, code) in SUPERBLOCK_FIELDS.items()
    }
    if fields["magic"] == FS_UFS1_MAGIC:
        # File systems from before UFS2 have these only as 32-bit fields (ffs_oldfscompat_read).
        if fields["maxbsize"] != fields["bsize"]:
            fields["maxbsize"] = fields["bsize"]
            fields["size"] = fields["old_size"]
            fields["csaddr"] = fields["old_csaddr"]
        if not fields["old_flags"] & FS_FLAGS_UPDATED:
            fields["flags"] = fields["old_flags"]
    if not fields["flags"] & FS_METACKHASH:
        fields["metackhash"] = 0
    fields["metackhash"] &= CK_SUPPORTED
    fields["flags"] &= FS_FLAGS_MASK
    return fields


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


def _unusable(f: dict[str, int]) -> str:
    """Why these numbers cannot be used at all; empty when they can."""
    ufs1 = f["magic"] == FS_UFS1_MAGIC
    bsize, fsize, frag = f["bsize"], f["fsize"], f["frag"]
    if not (_is_power_of_two(bsize) and MINBSIZE <= bsize <= MAXBSIZE):
        return f"block size {bsize}"
    if not (1 <= frag <= MAXFRAG and _is_power_of_two(fsize) and fsize >= DEV_BSIZE and fsize * frag == bsize):
        return f"fragment size {fsize}, {frag} a block"
    if (f["bshift"], f["fshift"], f["fragshift"]) != (_log2(bsize), _log2(fsize), _log2(frag)):
        return "shifts that do not go with the block size"
    if not SUPERBLOCK_SIZE <= f["sbsize"] <= SBLOCKSIZE:
        return f"superblock size {f['sbsize']}"
    dinode_size, pointer_size = (UFS1_DINODE_SIZE, 4) if ufs1 else (UFS2_DINODE_SIZE, 8)
    if f["nindir"] != bsize // pointer_size or f["inopb"] != bsize // dinode_size:
        return "pointers or inodes a block"
    ncg, ipg, fpg, inopb = f["ncg"], f["ipg"], f["fpg"], f["inopb"]
    if ncg < 1 or ipg < inopb or ipg % inopb or fpg < 3 * frag:
        return f"{ncg} cylinder groups of {ipg} inodes and {fpg} fragments"
    if not 0 < f["iblkno"] <= fpg - ipg // inopb * frag:
        return f"inodes at fragment {f['iblkno']}"
    if not (8 * frag <= f["size"] and (ncg - 1) * fpg < f["size"] <= ncg * fpg):
        return f"size of {f['size']} fragments"
    if f["cssize"] < 0 or f["old_cgoffset"] < 0:
        return "cylinder group summary"
    if f["maxsymlinklen"] > (UFS1_MAXSYMLINKLEN if ufs1 else UFS2_MAXSYMLINKLEN):
        return f"short links of {f['maxsymlinklen']} bytes"
    return ""


def _misplaced(f: dict[str, int], location: int) -> str:
    """Whether this is only a copy of a superblock: then the search goes on."""
    if f["magic"] == FS_UFS1_MAGIC:
        # With 64 KiB blocks the first backup of UFS1 is where UFS2's superblock is looked for.
        return "only a backup of UFS1" if location == SBLOCK_UFS2 and f["bsize"] == MAXBSIZE else ""
    return "" if f["sblockloc"] == location else f"it says that its place is {f['sblockloc']}, not {location}"


def _refusal(f: dict[str, int]) -> str:
    """The first check of FreeBSD's loader (13.2's, the strictest) that fails; empty when it reads this one too."""
    ufs1 = f["magic"] == FS_UFS1_MAGIC
    bsize, fsize, frag = f["bsize"], f["fsize"], f["frag"]
    sblkno = _round_up(-(-(f["sblockloc"] + SBLOCKSIZE) // fsize), frag)
    cblkno = sblkno + _round_up(-(-SBLOCKSIZE // fsize), frag)
    iblkno = cblkno + frag
    masks = (f["bmask"], f["fmask"], f["fsbtodb"])
    checks = (
        ("sblockloc", 0 <= f["sblockloc"] <= SBLOCK_UFS1 if ufs1 else f["sblockloc"] == SBLOCK_UFS2),
        ("sblockactualloc", f["sblockactualloc"] <= SBLOCK_UFS1 if ufs1 else f["sblockactualloc"] in (0, SBLOCK_UFS2)),
        ("maxbsize", f["maxbsize"] >= bsize and _is_power_of_two(f["maxbsize"]) and f["maxbsize"] <= 16 * bsize),
        ("bmask, fmask, fsbtodb", masks == (-bsize, -fsize, _log2(fsize // DEV_BSIZE))),
        ("sbsize", f["sbsize"] % DEV_BSIZE == 0),
        ("sblkno", f["sblkno"] == sblkno),
        ("cblkno", f["cblkno"] == cblkno),
        ("iblkno", f["iblkno"] == iblkno),
        ("dblkno", f["dblkno"] == iblkno + f["ipg"] // f["inopb"] * frag),
        ("cgsize", fsize <= f["cgsize"] <= bsize and f["cgsize"] % fsize == 0),
        ("metaspace", 0 <= f["metaspace"] <= f["fpg"] // 2),
        ("cssize", f["cssize"] == _round_up(CSUM_SIZE * f["ncg"], fsize)),
        ("maxsymlinklen", f["maxsymlinklen"] == (UFS1_MAXSYMLINKLEN if ufs1 else UFS2_MAXSYMLINKLEN)),
    )
    return next((name for name, passed in checks if not passed), "")


def _check_hash_message(raw: bytes, f: dict[str, int]) -> str:
    """What the loader prints about a check hash that is wrong; it uses the superblock all the same."""
    if not f["metackhash"] & CK_SUPERBLOCK:
        return ""
    checked = bytearray(raw[: f["sbsize"]])
    # The hash covers the superblock as the reader holds it: its own field zero, unknown flags dropped.
    struct.pack_into("<I", checked, FS_CKHASH_OFFSET, 0)
    struct.pack_into("<I", checked, FS_METACKHASH_OFFSET, f["metackhash"])
    struct.pack_into("<I", checked, FS_FLAGS_OFFSET, f["flags"])
    computed = calculate_crc32c(bytes(checked))
    if computed == f["ckhash"]:
        return ""
    return (
        f"Superblock check-hash failed: recorded check-hash 0x{f['ckhash']:x} != "
        f"computed check-hash 0x{computed:x} (Ignored)"
    )


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
