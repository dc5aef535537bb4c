"""Devices for tests: what bhyveload.device.Device wants beyond bytes."""

from __future__ import annotations

from typing import Any


class Hostless:
    """The rest of a Device that has no file behind it."""

    name = "test"
    size = 0
    sector_size = 512
    read_only = True

    def descriptors(self) -> tuple[int, ...]:
        return ()

    def describe(self) -> dict[str, Any]:
        return {
            "path": f"/{self.name}",
            "format": "raw",
            "size": self.size,
            "read_only": self.read_only,
            "sector_size": self.sector_size,
        }

    def close(self) -> None:
        pass
