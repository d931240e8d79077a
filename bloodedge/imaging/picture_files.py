"""Checks that OpenCV does not make: whether a picture file is whole, how many pictures it holds, in which colours.

OpenCV silently fills the missing part of a truncated file with grey, takes the first of many pages and reads CIELAB in
wrong colours. Bytes after a picture's end, which cameras and editors leave there, do no harm.
"""

import mmap
import os
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from stat import S_ISREG

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
OTHER_SUFFIXES = {".avif", ".czi", ".gif", ".heic", ".jp2", ".lif", ".nd2", ".ndpi", ".svs", ".vsi"}
"""Formats that are not supported: a data set's report names such files instead of skipping them."""

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = {b"II*\0": "<", b"MM\0*": ">"}
"""First bytes, and the byte order in struct's letters."""
MOST_PAGES = 10_000
PHOTOMETRIC = 262
LONG = 4
"""A tag's type: 32 bits."""
LAB = {8, 9, 10}
"""PhotometricInterpretation of CIELAB, ICCLAB and ITULAB (TIFF 6.0, and its technical notes)."""


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; hidden files, such as macOS' "._cell.png", are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


NO_FOLDERS = {"__macosx", "$recycle.bin", "@eadir"}
"""Folders that systems add to archives and disks, besides hidden ones."""


def walk_pictures(root: Path, also: Collection[str] = ()) -> tuple[list[Path], int]:
    """(sorted files under ``root`` whose names are those of pictures; how many hidden and system files were not taken).

    Files of OTHER_SUFFIXES are among them, and those of suffixes that are asked for ``also``. Links are followed, but
    never in a circle.
    """
    found: list[Path] = []
    suffixes = IMAGE_SUFFIXES.union(OTHER_SUFFIXES, also)
    hidden, seen = 0, set()
    for folder, below, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link back up
            below.clear()
            continue
        seen.add(place)
        parts = Path(folder).relative_to(root).parts
        outside = any(part.lower() in NO_FOLDERS or part.startswith(".") for part in parts)
        for path in (Path(folder) / name for name in names):
            if path.suffix.lower() in suffixes and _is_regular(path):
                if outside or path.name.startswith("."):
                    hidden += 1
                else:
                    found.append(path)
    return sorted(found), hidden


def _is_regular(path: Path) -> bool:
    """Whether a file is none of those that never end or make who opens them wait: pipes, sockets, devices."""
    try:
        return S_ISREG(path.stat().st_mode)
    except OSError:  # a link to nothing is named when it is read
        return True


def is_truncated(data: bytes) -> bool:
    """Whether a picture file ends too early by its own format; False for other formats."""
    whole = next((check for start, check in _WHOLE.items() if data.startswith(start)), None)
    try:
        return whole is not None and not whole(data)
    except struct.error:
        return True


def _bmp_length(data: bytes) -> int:
    """Bytes up to the end of a BMP's pixels. Of the size in the header some programs are two bytes off."""
    stated, start = struct.unpack_from("<I4xI", data, 2)
    width, height, _, bits, compression, size = struct.unpack_from("<iiHHII", data, 18)
    if compression in {0, 3}:
        size = (width * bits + 31) // 32 * 4 * abs(height)
    return int(start + size if size else stated)


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether a JPEG's end marker comes, after its last scan (ITU-T T.81, B.1)."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return False
        marker = data[at + 1]
        if marker == 0xD9:
            return True
        if marker == 0xFF:
            at += 1
        elif marker in {0, 1} or 0xD0 <= marker <= 0xD7:  # a byte of a scan, or a marker of its own
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _png_is_whole(data: bytes) -> bool:
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            return bool(at <= len(data))
    return False


def tiff_pages(data: bytes) -> list[bool]:
    """For each picture of a TIFF file whether its colours are CIELAB's; empty for other files.

    Raises struct.error where the file ends before its last directory.
    """
    return [tags.get(PHOTOMETRIC) in LAB for tags in tiff_directories(data)]


def tiff_directories(data: bytes | mmap.mmap) -> Iterator[dict[int, int]]:
    """Each picture's short and long numbers by their tags; none for other files. Raises struct.error as tiff_pages."""
    order = TIFF.get(data[:4])
    if order is None:
        return
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    for _ in range(MOST_PAGES):
        if at == 0:
            return
        (entries,) = struct.unpack_from(f"{order}H", data, at)
        tags = {}
        for entry in range(entries):
            tag, kind = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * entry)
            form = "I" if kind == LONG else "H"
            (tags[tag],) = struct.unpack_from(f"{order}{form}", data, at + 10 + 12 * entry)
        yield tags
        (at,) = struct.unpack_from(f"{order}I", data, at + 2 + 12 * entries)


def count_pictures(path: Path) -> int:
    """How many pictures a file holds: the pages of a TIFF file, 1 for others and for what cannot be read."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return 1
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return max(1, sum(1 for _ in tiff_directories(data)))
    except (OSError, ValueError, struct.error):  # ValueError: an empty file
        return 1


_WHOLE: dict[bytes, Callable[[bytes], bool]] = {
    b"BM": lambda data: len(data) >= _bmp_length(data),
    b"\xff\xd8": _jpeg_is_whole,
    PNG: _png_is_whole,
    b"RIFF": lambda data: len(data) >= int.from_bytes(data[4:8], "little") + 8,
    **dict.fromkeys(TIFF, lambda data: bool(tiff_pages(data))),
}
"""Whether a file is whole, by its first bytes."""
