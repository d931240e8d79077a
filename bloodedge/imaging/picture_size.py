"""The size that a picture file states, read without decoding it: a small file may state a huge picture."""

import struct
from collections.abc import Callable, Iterator

from bloodedge.imaging.picture_files import PNG, TIFF, tiff_directories

Size = tuple[int, int]
"""Width and height in pixels."""

WIDTH, HEIGHT = 256, 257
"""Tags of TIFF."""
NO_FRAME = {0xC4, 0xC8, 0xCC}
"""Markers among JPEG's start-of-frame markers that start no frame (ITU-T T.81, table B.1)."""


def stated_sizes(data: bytes) -> list[Size]:
    """The size of each picture in a bmp, jpg, png, tif or webp file; empty for other files and where none is stated."""
    found = next((sizes for start, sizes in _SIZES.items() if data.startswith(start)), None)
    try:
        return [] if found is None else list(found(data))
    except struct.error:
        return []


def _bmp(data: bytes) -> Iterator[Size]:
    width, height = struct.unpack_from("<ii", data, 18)
    yield abs(width), abs(height)


def _png(data: bytes) -> Iterator[Size]:
    yield struct.unpack_from(">II", data, 16)


def _jpeg(data: bytes) -> Iterator[Size]:
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1] if at + 1 < len(data) else 0xD9
        if marker == 0xD9:
            return
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            yield width, height
            return
        if marker == 0xFF:
            at += 1
        elif marker in {0, 1} or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _tiff(data: bytes) -> Iterator[Size]:
    for tags in tiff_directories(data):
        yield tags.get(WIDTH, 0), tags.get(HEIGHT, 0)


def _webp(data: bytes) -> Iterator[Size]:
    """Of RFC 9649: the canvas of an extended file, else the one picture's size."""
    match data[8:16]:
        case b"WEBPVP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"WEBPVP8L":
            bits = struct.unpack_from("<I", data, 21)[0]
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"WEBPVP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case _:
            return
    yield width, height


_SIZES: dict[bytes, Callable[[bytes], Iterator[Size]]] = {
    b"BM": _bmp,
    b"\xff\xd8": _jpeg,
    PNG: _png,
    b"RIFF": _webp,
    **dict.fromkeys(TIFF, _tiff),
}
"""By a file's first bytes."""
