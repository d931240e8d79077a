"""Files and folders as pictures, a few at a time: a TIFF file's pages and a video's frames count as pictures."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bloodedge.data.pictures import in_threads
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.finder import FinderParameters
from bloodedge.finder.slide_scale import SlideScale
from bloodedge.imaging import Image, iterate_images, read_image
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES, OTHER_SUFFIXES, count_pictures, walk_pictures
from bloodedge_device.camera.replay import VideoCamera
from bloodedge_device.frames import BadFrame
from bloodedge_device.settings.sections import CameraSettings

VIDEO_SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}
AT_ONCE = 16
"""Pictures that are in memory at the same time."""


@dataclass(frozen=True)
class Picture:
    """One picture of a file, or why there is none."""

    path: Path
    bgr: Image | None = None
    """uint8 (H, W, 3) BGR; None where it could not be read."""
    problem: str | None = None
    """Why it could not be read, a sentence."""
    page: int | None = None
    """From 1; None where the file holds one picture."""
    frame: int | None = None
    """Of a video, from 0."""
    um_per_px: float | None = None
    """Measured over a video's frames before this one and in it; None of other pictures."""

    @property
    def name(self) -> str:
        """The file's name, with page or frame."""
        part = f" page {self.page}" if self.page else f" frame {self.frame}" if self.frame is not None else ""
        return self.path.name + part


def picture_files(paths: Iterable[Path]) -> list[Path]:
    """The files, folders replaced by the pictures and videos below them in the order of their paths, each once.

    Hidden files and folders, and those that macOS adds to zip files, are passed over. Raises UsageError for a folder
    without a picture.
    """
    files: dict[Path, None] = {}
    for path in paths:
        inside = walk_pictures(path, VIDEO_SUFFIXES)[0] if path.is_dir() else [path]
        if not inside:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
            raise UsageError(f"{path} has no picture or video ({kinds}); give a folder that has some.")
        files.update(dict.fromkeys(inside))
    return list(files)


def batches(files: Sequence[Path], *, measure: bool) -> Iterator[tuple[int, list[Picture]]]:
    """(number of files that are done with it, the next pictures), at most AT_ONCE and in the order of the files.

    measure: whether a video's scale is measured over its frames.
    """
    waiting: list[Path] = []
    for done, path in enumerate(files):
        series = _frames(path, measure=measure) if path.suffix.lower() in VIDEO_SUFFIXES else _pages(path)
        if series is None:
            waiting.append(path)
        if len(waiting) == AT_ONCE or (waiting and series is not None):
            yield done + (series is None), _images(waiting)
            waiting = []
        while series is not None and (batch := list(islice(series, AT_ONCE))):
            yield done, batch
    yield len(files), _images(waiting)


def _images(paths: Sequence[Path]) -> list[Picture]:
    """The pictures of image files of one picture each, which are read on all cores."""
    return in_threads(_read, paths)


def _read(path: Path) -> Picture:
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES:
        kind = suffix[1:].upper()
        return Picture(path, problem=f"{path} is a {kind} file, which is not read; save it as PNG or TIFF.")
    try:
        return Picture(path, read_image(path))
    except BloodedgeError as error:
        return Picture(path, problem=str(error))


def _pages(path: Path) -> Iterator[Picture] | None:
    """The pages of a file, as they are asked for; None where it holds one picture."""
    return _each_page(path) if count_pictures(path) > 1 else None


def _each_page(path: Path) -> Iterator[Picture]:
    try:
        for number, bgr in enumerate(iterate_images(path), 1):
            yield Picture(path, bgr, page=number)
    except BloodedgeError as error:
        yield Picture(path, problem=str(error))


def _frames(path: Path, *, measure: bool) -> Iterator[Picture]:
    """A video's frames; what its end says, if frames are missing, comes as a last picture with that problem."""
    if not path.is_file():
        yield Picture(path, problem=f"{path} does not exist; check its name.")
        return
    try:
        video = VideoCamera(CameraSettings(kind="replay", source=str(path)), str(path), live=False)
    except UsageError as error:
        yield Picture(path, problem=str(error))
        return
    scale = SlideScale(FinderParameters())
    came = 0
    for number, frame in enumerate(video.frames(threading.Event())):
        came += 1
        if isinstance(frame, BadFrame):
            yield Picture(path, problem=f"{path}: {frame.problem}", frame=number)
            continue
        measured = None
        if measure:
            with suppress(BloodedgeError):
                measured = scale.of(frame.bgr)
        yield Picture(path, frame.bgr, frame=number, um_per_px=measured)
    if not came or video.ending.startswith("Only"):
        yield Picture(path, problem=f"{path}: {video.ending or 'it has no frame; give a video that has some.'}")
