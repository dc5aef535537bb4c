"""struct preloaded_file (stand/common/bootstrap.h, module.c): a file that was loaded, and what is known of it."""

from __future__ import annotations


class PreloadedFile:
    """struct preloaded_file.  ``metadata`` (type, data) and ``modules`` (name, version) have the newest entry first;
    ``loader`` is the index of the format that loaded it, -1 for a raw file."""

    __slots__ = ("_provided", "addr", "args", "loader", "metadata", "modules", "name", "size", "type")

    def __init__(self, name: str, type_: str, addr: int = 0, size: int = 0) -> None:
        self.name = name
        self.type = type_
        self.args: str | None = None
        self.addr = addr
        self.size = size
        self.metadata: list[tuple[int, bytes]] = []
        self.modules: list[tuple[str, int]] = []
        self._provided: set[tuple[str, int]] = set()
        self.loader = -1

    def add_metadata(self, type_: int, data: bytes) -> None:
        """file_addmetadata."""
        self.metadata.insert(0, (type_, data))

    def find_metadata(self, type_: int) -> bytes | None:
        """file_findmetadata: the newest of that type."""
        for number, data in self.metadata:
            if number == type_:
                return data
        return None

    def add_module(self, name: str, version: int) -> None:
        """file_addmodule: unless the file provides that version already."""
        if (name, version) not in self._provided:
            self._provided.add((name, version))
            self.modules.insert(0, (name, version))
