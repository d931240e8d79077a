"""What is found in a picture file of a cell, whatever its name: digests, size, light and look."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import cv2
import numpy as np

from bloodedge.console import Progress
from bloodedge.data.cut import Cut, central_cell, packed
from bloodedge.data.exported_cells import exported_cell
from bloodedge.data.perceptual_hash import cell_hash
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import CNMC_UM_PER_PX, Image, NotCutOutError, cell_on_black, is_on_black, read_image, read_images
from bloodedge.imaging.picture_files import OTHER_SUFFIXES
from bloodedge.text import as_text

Stamp = tuple[int, int, int]
"""A file's size in bytes and when its content and its entry last changed, in ns; another stamp is another file."""

T = TypeVar("T")
R = TypeVar("R")


class Source(NamedTuple):
    """Where a picture is, and at which scale it is read."""

    path: Path
    page: int | None = None
    """From 0, of a TIFF file of several pictures; None for other files."""
    um_per_px: float | None = None
    """None where nothing says it."""

    @property
    def scale(self) -> float:
        """Micrometres per pixel; C-NMC's where nothing says it."""
        return self.um_per_px or CNMC_UM_PER_PX

    def image(self) -> Image:
        """The picture, uint8 (H, W, 3) BGR; raises BloodedgeError as read_image."""
        return read_image(self.path) if self.page is None else read_images(self.path)[self.page]


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
    cut: Cut | None
    """Where the finder saw the cell; None for one that was cut out before."""


Stamped = Mapping[Source, tuple[Stamp, Picture]]
"""Pictures by their sources, each with the stamp that its file had."""


class PictureStore(Protocol):
    """Keeps pictures that were read for the next time."""

    def load(self, root: Path) -> Stamped:
        """Those kept of a data folder."""
        ...

    def store(self, root: Path, pictures: Stamped) -> None:
        """Replace those kept of a data folder."""
        ...


def read_pictures(
    root: Path, sources: Sequence[Source], store: PictureStore | None = None, progress: Progress | None = None
) -> list[Picture | str]:
    """Each picture, or the sentence that explains why it cannot be used.

    Only files that ``store`` lacks under their stamp are opened. Faults are not kept: they are found anew each time.
    Raises UsageError when a crop has to be cut by the finder and LiteRT, which runs it, is missing.
    """
    stamps = {source: _stamp(source.path) for source in sources}
    kept = store.load(root) if store else {}
    known = {s: kept[s][1] for s in sources if s in kept and kept[s][0] == stamps[s]}
    missing = [source for source in sources if source not in known]
    found = known | dict(zip(missing, in_threads(_read_picture, missing, progress), strict=True))
    stamped = {
        source: (stamp, picture)
        for source, picture in found.items()
        if isinstance(picture, Picture) and (stamp := stamps[source])
    }
    if store and stamped != kept:
        store.store(root, stamped)
    return [found[source] for source in sources]


def _stamp(path: Path) -> Stamp | None:
    """None for a file out of reach."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_picture(source: Source) -> Picture | str:
    path = source.path
    if path.suffix.lower() in OTHER_SUFFIXES:
        return f"The picture is a {path.suffix[1:].upper()} file, which is not read; save it as PNG or TIFF."
    try:
        image = source.image()
        cut = _cut(image, source)
        cell = cut.cell(image, source.scale) if cut else cell_on_black(image, source.scale)
    except UsageError:  # a missing package is no fault of the picture
        raise
    except BloodedgeError as error:
        return str(error).replace(as_text(path), "The picture")
    return Picture(
        bytes_digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixels_digest=hashlib.sha256(str(image.shape).encode() + image.tobytes()).hexdigest(),
        area_px=cell.area_px,
        brightness=float(np.mean(cv2.mean(cell.bgr, cell.mask)[:3])),
        look=cell_hash(cell),
        cut=cut,
    )


def _cut(image: Image, source: Source) -> Cut | None:
    """As the finder sees the cell in the middle, or as a device exported it; None where it was cut out before."""
    if (own := exported_cell(source.path)) is not None:
        return Cut(packed(own.mask), own.light)
    try:
        cell_on_black(image)
    except NotCutOutError:
        if is_on_black(image):
            raise
        return central_cell(image, source.um_per_px)
    return None


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
