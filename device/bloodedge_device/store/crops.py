"""Cells' images: written atomically, and deleted from the oldest when the disk is full.

An image is a PNG: the camera's own pixels of the cell and its surroundings, and the cell's mask in the alpha channel.
So an exported cell gives training the bytes that the network had. Earlier versions wrote JPEG, without a mask.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from bloodedge.files import fsync_folder
from bloodedge.imaging import Image, as_image


def write_crops(root: Path, crops: Mapping[str, Image]) -> bool:
    """Write, sync and rename each image below ``root``; False, and none written, when the disk has no room.

    Raises OSError where there is no file descriptor, which passes.
    """
    try:
        for folder in {(root / name).parent for name in crops}:
            _make_synced(folder)
        for name, crop in crops.items():
            _write_synced(root / f"{name}.partial", crop)
        for name in crops:
            (root / f"{name}.partial").replace(root / name)
        for folder in {(root / name).parent for name in crops}:
            fsync_folder(folder)
    except OSError as error:
        for name in crops:
            with suppress(OSError):
                (root / f"{name}.partial").unlink(missing_ok=True)
                (root / name).unlink(missing_ok=True)
        if error.errno in {errno.EMFILE, errno.ENFILE}:
            raise
        return False
    return True


def _make_synced(folder: Path) -> None:
    """Make a folder, synced to the disk."""
    if not folder.is_dir():
        _make_synced(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def _write_synced(path: Path, crop: Image) -> None:
    ok, data = cv2.imencode(".png", crop)
    assert ok
    with path.open("wb") as handle:
        handle.write(data.tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def with_mask(crop: Image, mask: Image | None) -> Image:
    """A crop uint8 (h, w, 3) BGR with its mask, where it is known, as a fourth channel."""
    return crop if mask is None else as_image(np.dstack([crop, mask]))


def for_people(data: bytes) -> bytes:
    """A stored image as the JPEG that pages show, with all of the cell's surroundings; empty for a damaged file."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None or image.ndim != 3:
        return b""
    if data.startswith(b"\xff\xd8"):
        return data
    return cv2.imencode(".jpg", image[:, :, :3], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def shown_image(path: Path) -> bytes:
    """As ``for_people``, of a stored file; empty where it was deleted meanwhile, too."""
    try:
        return for_people(path.read_bytes())
    except OSError:
        return b""


OURS = re.compile(r"\d+/(\d{4,}/)?\d{7,}-\d{3,}\.(png|jpg)(\.partial)?")
"""Names of the writer's images below their folder; other files there are never deleted."""


def is_ours(root: Path, path: Path) -> bool:
    """Whether a file below ``root`` has the name of one of the writer's images."""
    return OURS.fullmatch(path.relative_to(root).as_posix()) is not None


def remove_partial(root: Path) -> None:
    """Delete half-written images of a power cut."""
    for path in root.rglob("*.partial"):
        if is_ours(root, path):
            path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of ``folder``; 0 where it is gone."""
    try:
        return shutil.disk_usage(folder).free
    except FileNotFoundError:
        return 0


KEPT_FILES, KEPT_SHARE = 2000, 20
"""So many further files, or one in so many of a small disk's, are kept free: every image is a file of its own."""


def lacks_files(folder: Path, wanted: int | None = None) -> bool:
    """Whether fewer than ``wanted`` further files (default: KEPT_FILES) fit on the disk; False where it counts none."""
    try:
        disk = os.statvfs(folder)
    except FileNotFoundError:
        return False
    if wanted is None:
        wanted = min(KEPT_FILES, disk.f_files // KEPT_SHARE)
    return disk.f_files > 0 and disk.f_favail < wanted


def remove_oldest(root: Path, until_free: int, most: int, until_files: int | None = None) -> list[str]:
    """Delete the oldest images, at most ``most``, until there is room; returns their names.

    until_free: bytes to be free; until_files: further files that are to fit, see ``lacks_files``.

    Folders are listed one by one, and only while space is needed: a slide may have a million images.
    """
    removed: list[str] = []

    def has_room() -> bool:
        return free_bytes(root) >= until_free and not lacks_files(root, until_files)

    if not root.is_dir() or has_room():
        return removed
    for path in _oldest_first(root):
        if not is_ours(root, path):
            continue
        path.unlink(missing_ok=True)
        removed.append(path.relative_to(root).as_posix())
        if len(removed) == most or has_room():
            break
    return removed


def remove_before(folder: Path, frame: int | None, most: int, *, in_use: bool) -> list[Path]:
    """Delete a slide's images of frames numbered below ``frame`` (None: all), oldest first, at most ``most``.

    Empty folders are deleted too, except the newest of a slide ``in_use``, where the next image may go. Returns the
    deleted paths.
    """
    removed: list[Path] = []
    for path in _oldest_first(folder, newest=in_use):
        if not is_ours(folder.parent, path):
            continue
        number = path.name.partition("-")[0]
        if len(removed) == most or (frame is not None and int(number) >= frame):
            return removed
        path.unlink(missing_ok=True)
        removed.append(path)
    if not in_use and folder.is_dir():
        with suppress(OSError):  # it has other files
            folder.rmdir()
    return removed


def _oldest_first(folder: Path, *, newest: bool = True) -> Iterator[Path]:
    """Images in the order of capture; deletes empty folders, except the newest, which may be in use."""
    inside = sorted(folder.iterdir(), key=lambda path: (path.is_dir(), len(path.name), path.name))
    for path in inside:
        if path.is_dir():
            in_use = newest and path is inside[-1]
            yield from _oldest_first(path, newest=in_use)
            if not in_use:
                with suppress(OSError):  # it has other files
                    path.rmdir()
        elif path.suffix in {".png", ".jpg"}:
            yield path
