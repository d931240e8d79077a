"""Cells' images: whole or not there, and the oldest gone first when the disk fills."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import cv2

from bloodedge.files import fsync_folder
from bloodedge.imaging import Image


def write_crops(root: Path, crops: Mapping[str, Image]) -> bool:
    """Write, sync and rename each image below ``root``; False, and none of them, when the disk does not take them."""
    try:
        for folder in {(root / name).parent for name in crops}:
            folder.mkdir(parents=True, exist_ok=True)
        for name, crop in crops.items():
            _write_synced(root / f"{name}.partial", crop)
        for name in crops:
            (root / f"{name}.partial").replace(root / name)
        for folder in {(root / name).parent for name in crops}:
            fsync_folder(folder)
    except OSError:
        for name in crops:
            with suppress(OSError):
                (root / f"{name}.partial").unlink(missing_ok=True)
                (root / name).unlink(missing_ok=True)
        return False
    return True


def _write_synced(path: Path, crop: Image) -> None:
    ok, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert ok
    with path.open("wb") as handle:
        handle.write(data.tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def remove_partial(root: Path) -> None:
    """Remove what a power cut left half-written."""
    for path in root.glob("*/*.partial"):
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written where ``folder`` lies."""
    return shutil.disk_usage(folder).free


def remove_oldest(root: Path, until_free: int, most: int) -> list[str]:
    """Remove oldest images, at most ``most``, until ``until_free`` bytes are free; names of those removed."""
    removed: list[str] = []
    for path in _oldest_first(root):
        if len(removed) == most or free_bytes(root) >= until_free:
            break
        path.unlink(missing_ok=True)
        removed.append(path.relative_to(root).as_posix())
    return removed


def _oldest_first(root: Path) -> Iterator[Path]:
    """Images by slide, then by frame: in the order in which they were taken."""
    slides = sorted((p for p in root.iterdir() if p.name.isdigit()), key=lambda p: int(p.name)) if root.is_dir() else []
    for slide in slides:
        images = sorted(slide.glob("*.jpg"), key=lambda p: (len(p.name), p.name))  # longer numbers are larger ones
        yield from images
        if images and not any(slide.iterdir()):
            slide.rmdir()
