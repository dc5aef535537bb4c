"""Pages and pictures as a browser draws them: Chromium's screenshots, read without a library."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
    ),
)

Colour = tuple[int, int, int]


class Screenshot:
    """What is to be seen: ``width`` by ``height`` pixels."""

    def __init__(self, png: bytes) -> None:
        self.width, self.height, self._step, self._lines = _decoded(png)

    def at(self, x: float, y: float) -> Colour:
        line = self._lines[int(y)]
        place = int(x) * self._step
        return line[place], line[place + 1], line[place + 2]

    def is_plain(self, x: float, y: float, width: float, height: float) -> bool:
        """Whether that part is of one colour: nothing is written there."""
        first, last = int(x) * self._step, int(x + width) * self._step
        pixel = self._lines[int(y)][first : first + self._step]
        wanted = bytes(pixel) * ((last - first) // self._step)
        return all(self._lines[row][first:last] == wanted for row in range(int(y), int(y + height)))


def screenshot(page: Path, folder: Path, width: int, height: int, dark: bool = False) -> Screenshot:
    """``page`` in a window of that size.  Skips the test where there is no Chromium."""
    browser = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no chromium is installed (it is optional: make setup does not install it)")
    picture = folder / f"{page.stem}-{'dark' if dark else 'light'}.png"
    # 0 is dark, 1 is light: blink::mojom::PreferredColorScheme
    words = [*_OPTIONS, f"--user-data-dir={folder / 'browser'}", f"--window-size={width},{height}"]
    words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}", page.as_uri()]
    done = subprocess.run([browser, *words], capture_output=True, timeout=120, check=False)
    assert picture.exists(), done.stderr[-2000:].decode(errors="replace")
    return Screenshot(picture.read_bytes())


def _decoded(png: bytes) -> tuple[int, int, int, list[bytearray]]:
    """(width, height, bytes a pixel, lines) of a PNG with 8 bits a channel, not interlaced (ISO 15948, 9 and 10)."""
    at, data = 8, b""
    width = height = step = 0
    while at < len(png):
        (size,), kind = struct.unpack_from(">I", png, at), png[at + 4 : at + 8]
        body = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, interlaced) == (8, 0)
            step = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        at += 12 + size
    raw = zlib.decompress(data)
    lines: list[bytearray] = []
    above = bytearray(width * step)
    for number in range(height):
        begin = number * (width * step + 1)
        above = _unfiltered(raw[begin], bytearray(raw[begin + 1 : begin + 1 + width * step]), above, step)
        lines.append(above)
    return width, height, step, lines


def _unfiltered(filter: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    if filter == 2:
        return bytearray((value + up) & 0xFF for value, up in zip(line, above, strict=True))
    if filter == 0:
        return line
    for at in range(len(line)):
        left = line[at - step] if at >= step else 0
        corner = above[at - step] if at >= step else 0
        if filter == 1:
            guess = left
        elif filter == 3:
            guess = (left + above[at]) // 2
        else:
            guess = _paeth(left, above[at], corner)
        line[at] = (line[at] + guess) & 0xFF
    return line


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    return min((left, up, corner), key=lambda value: abs(guess - value))
