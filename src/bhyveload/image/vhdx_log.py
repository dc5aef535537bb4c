"""The log of a VHDX image that was not closed after its last use, replayed over the file without writing to it.

Source: [MS-VHDX] 2.3.  The log is a ring of entries; the active sequence is the one with the highest sequence numbers
that is whole from the entry its last one names as tail.  Its data go over the metadata that the file has: block
allocation table, metadata, never the guest's blocks.
"""

from __future__ import annotations

from bhyveload.image.container import ReadOnlyImage
from bhyveload.image.vhdx_format import (
    DATA_DESCRIPTOR,
    DATA_SECTOR_LOW,
    DATA_SECTOR_SIZE,
    DATA_SIGNATURE,
    DESCRIPTOR_SIGNATURE,
    LOG_HEADER,
    LOG_SIGNATURE,
    MAX_CHECKED,
    MAX_LOG,
    MAX_ZEROED,
    ZERO_DESCRIPTOR,
    ZERO_SIGNATURE,
    crc32c,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bhyveload.device import Buffer, Device
    from bhyveload.image.container import Container

    Pages = dict[int, bytes]  # offset in the file -> 4096 bytes

_ZEROS = bytes(DATA_SECTOR_SIZE)


class Replayed(ReadOnlyImage):
    """The file as it is once its log has been replayed."""

    format = "vhdx"

    def __init__(self, source: Device, pages: Pages, size: int) -> None:
        super().__init__(source.name, source)
        self._source = source
        self._pages = pages
        self._first = min(pages, default=size)
        self._last = max(pages, default=-1)
        self.size = max(source.size, size, self._last + DATA_SECTOR_SIZE if pages else 0)

    def read(self, offset: int, length: int) -> Buffer:
        end = offset + length
        if end <= self._source.size and (end <= self._first or offset >= self._last + DATA_SECTOR_SIZE):
            return self._source.read(offset, length)
        there = max(0, min(length, self._source.size - offset))
        data = bytearray(length)
        data[:there] = self._source.read(offset, there) if there else b""
        first = offset // DATA_SECTOR_SIZE * DATA_SECTOR_SIZE
        span = range(first, end, DATA_SECTOR_SIZE)
        for at in span if len(span) < len(self._pages) else [page for page in self._pages if first <= page < end]:
            page = self._pages.get(at)
            if page is not None:
                begin, stop = max(at, offset), min(at + DATA_SECTOR_SIZE, end)
                data[begin - offset : stop - offset] = page[begin - at : stop - at]
        return memoryview(data)


class _Entry:
    """A sound entry: where it is in the log, its numbers, and its bytes."""

    __slots__ = ("at", "data", "descriptors", "flushed", "last", "length", "number", "tail")

    def __init__(self, at: int, data: bytes) -> None:
        self.at = at
        self.data = data
        _, _, self.length, self.tail, self.number, self.descriptors, _, _, self.flushed, self.last = (
            LOG_HEADER.unpack_from(data)
        )


class _Log:
    def __init__(self, file: Container, guid: bytes, offset: int, length: int) -> None:
        self._file = file
        self._guid = guid
        self._offset = offset
        self.length = length
        self._left = MAX_CHECKED
        self._ring = file.structure(offset, length, "the VHDX log")

    def entry(self, at: int) -> _Entry | None:
        """The entry at byte ``at`` of the log, if there is a sound one of this log.  Raises ImageError."""
        header = self._ring[at : at + LOG_HEADER.size]
        signature, checksum, length, tail, number, descriptors, _, guid, _, _ = LOG_HEADER.unpack(header)
        if signature != LOG_SIGNATURE or guid != self._guid or not number:
            return None
        if not 0 < length <= self.length or length % DATA_SECTOR_SIZE or tail >= self.length or tail % DATA_SECTOR_SIZE:
            return None
        if LOG_HEADER.size + descriptors * DATA_DESCRIPTOR.size > length:
            return None
        self._left -= length
        if self._left < 0:
            raise self._file.damaged(self._offset, "the VHDX log has too many entries, or entries within entries")
        data = bytes(self._ring[at : at + length])
        data += bytes(self._ring[: length - len(data)])
        if crc32c(data[:4] + bytes(4) + data[8:]) != checksum:
            return None
        return _Entry(at, data)

    def sequence(self, at: int) -> list[_Entry]:
        """The sound entries with consecutive numbers from ``at`` on."""
        entries: list[_Entry] = []
        size = 0
        while size < self.length:
            entry = self.entry((at + size) % self.length)
            if entry is None or (entries and entry.number != entries[-1].number + 1):
                break
            entries.append(entry)
            size += entry.length
        return entries

    def active(self) -> list[_Entry]:
        """The entries to replay, oldest first; none when there is no sequence that is whole."""
        best: list[_Entry] = []
        at = 0
        while at < self.length:
            entries = self.sequence(at)
            places = [entry.at for entry in entries]
            if entries and entries[-1].tail in places:
                if not best or entries[-1].number > best[-1].number:
                    best = entries[places.index(entries[-1].tail) :]
                at += sum(entry.length for entry in entries)
            else:
                at += DATA_SECTOR_SIZE
        return best


def replayed(file: Container, guid: bytes, offset: int, length: int) -> Device:
    """What ``file`` is after its log, which lies at ``offset``.  Raises ImageError."""
    if not 0 < length <= MAX_LOG or length % DATA_SECTOR_SIZE:
        raise file.damaged(offset, f"a VHDX log of {length} bytes")
    pages: Pages = {}
    entries = _Log(file, guid, offset, length).active()
    for entry in entries:
        if entry.flushed > file.size:
            raise file.damaged(offset + entry.at, f"the file had {entry.flushed} bytes once: it is cut short")
        _apply(file, offset + entry.at, entry, pages)
    return Replayed(file.source, pages, entries[-1].last if entries else 0)


def _apply(file: Container, place: int, entry: _Entry, pages: Pages) -> None:
    """Take the entry's descriptors, and the data sectors that follow them, into ``pages``."""
    end_of_descriptors = LOG_HEADER.size + entry.descriptors * DATA_DESCRIPTOR.size
    data_at = -(-end_of_descriptors // DATA_SECTOR_SIZE) * DATA_SECTOR_SIZE
    for at in range(LOG_HEADER.size, end_of_descriptors, DATA_DESCRIPTOR.size):
        signature = entry.data[at : at + 4]
        if signature == ZERO_SIGNATURE:
            _, _, length, target, number = ZERO_DESCRIPTOR.unpack_from(entry.data, at)
            if length % DATA_SECTOR_SIZE or length > MAX_ZEROED:
                raise file.damaged(place + at, f"the VHDX log zeroes {length} bytes")
            content = None
        elif signature == DESCRIPTOR_SIGNATURE:
            _, trailing, leading, target, number = DATA_DESCRIPTOR.unpack_from(entry.data, at)
            sector = entry.data[data_at : data_at + DATA_SECTOR_SIZE]
            data_at += DATA_SECTOR_SIZE
            length = DATA_SECTOR_SIZE
            halves = sector[4:8] + sector[-4:]  # of the number: high, low
            expected = (entry.number >> 32).to_bytes(4, "little") + (entry.number & 0xFFFFFFFF).to_bytes(4, "little")
            if sector[:4] != DATA_SIGNATURE or halves != expected:
                raise file.damaged(place + data_at, "a data sector of the VHDX log is damaged")
            content = leading + sector[8:DATA_SECTOR_LOW] + trailing
        else:
            raise file.damaged(place + at, "a descriptor of the VHDX log is damaged")
        if number != entry.number or target % DATA_SECTOR_SIZE or target + length >= 1 << 62:
            raise file.damaged(place + at, "a descriptor of the VHDX log does not belong there")
        for page in range(target, target + length, DATA_SECTOR_SIZE):
            pages[page] = _ZEROS if content is None else content
        if len(pages) * DATA_SECTOR_SIZE > MAX_ZEROED:
            raise file.damaged(place, "the VHDX log changes too much")
