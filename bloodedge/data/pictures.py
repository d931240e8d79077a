"""What is found in a picture file of a cell, whatever its name: digests, size, light and look."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np

from bloodedge.console import Progress
from bloodedge.data.perceptual_hash import cell_hash
from bloodedge.errors import BloodedgeError
from bloodedge.imaging import cell_on_black, read_image
from bloodedge.imaging.picture_files import OTHER_SUFFIXES
from bloodedge.text import as_text

Stamp = tuple[int, int, int]
"""A file's size in bytes and when its content and its entry last changed, in ns; another stamp is another file."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Picture:
    """A readable picture of one cell."""

    bytes_digest: str
    pixels_digest: str
    area_px: int
    brightness: float
    """Mean of the cell's pixels over the three channels, 0..255."""
    look: bytes
    """Its perceptual hash; see ``bloodedge.data.perceptual_hash``."""


Stamped = Mapping[Path, tuple[Stamp, Picture]]
"""Pictures by their paths, each with the stamp that its file had."""


class PictureStore(Protocol):
    """Keeps pictures that were read for the next time."""

    def load(self, root: Path) -> Stamped:
        """Those kept of a data folder."""
        ...

    def store(self, root: Path, pictures: Stamped) -> None:
        """Replace those kept of a data folder."""
        ...


def read_pictures(
    root: Path, paths: Sequence[Path], store: PictureStore | None = None, progress: Progress | None = None
) -> list[Picture | str]:
    """Each file's picture, or the sentence that explains why it cannot be used.

    Only files that ``store`` lacks under their stamp are opened. Faults are not kept: they are found anew each time.
    """
    stamps = {path: _stamp(path) for path in paths}
    kept = store.load(root) if store else {}
    known = {path: kept[path][1] for path in paths if path in kept and kept[path][0] == stamps[path]}
    missing = [path for path in paths if path not in known]
    found = known | dict(zip(missing, in_threads(_read_picture, missing, progress), strict=True))
    stamped = {
        path: (stamp, picture)
        for path, picture in found.items()
        if isinstance(picture, Picture) and (stamp := stamps[path])
    }
    if store and stamped != kept:
        store.store(root, stamped)
    return [found[path] for path in paths]


def _stamp(path: Path) -> Stamp | None:
    """None for a file out of reach."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_picture(path: Path) -> Picture | str:
    if path.suffix.lower() in OTHER_SUFFIXES:
        return f"The picture is a {path.suffix[1:].upper()} file, which is not read; save it as PNG or TIFF."
    try:
        image = read_image(path)
        cell = cell_on_black(image)
    except BloodedgeError as error:
        return str(error).replace(as_text(path), "The picture")
    return Picture(
        bytes_digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixels_digest=hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest(),
        area_px=cell.area_px,
        brightness=float(np.mean(cv2.mean(image, cell.mask)[:3])),
        look=cell_hash(cell),
    )


def in_threads(work: Callable[[T], R], items: Sequence[T], progress: Progress | None = None) -> list[R]:
    """``[work(item) for item in items]`` on all cores (OpenCV releases the interpreter lock)."""
    results = []
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for result in pool.map(work, items):
            results.append(result)
            if progress:
                progress(len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
