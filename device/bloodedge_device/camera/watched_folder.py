"""A folder that other software, such as a microscope's, writes images into."""

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from time import monotonic

from bloodedge.errors import BloodedgeError
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES
from bloodedge.text import as_text, shown
from bloodedge_device.camera import Pace
from bloodedge_device.camera.replay import FolderCamera
from bloodedge_device.frames import BadFrame, Frame, SourceFile
from bloodedge_device.settings.sections import CameraSettings

LOOK_EVERY_S = 0.5
SHARE_OF_TIME = 0.1
"""Largest share of the time spent on listing the folder: with very many files, those that are done are rarely checked.
"""

SETTLED_S = 1.0
"""A file that was not changed for so long is complete, if its content agrees."""

SETTLED_WITHOUT_END_S = 3.0
"""The same for formats whose content does not show a missing end."""

SHOWS_ITS_END = {".jpeg", ".jpg", ".png", ".webp"}

UNREADABLE_WAIT_S = 10.0
"""An unreadable file gets so long to become complete; later files wait meanwhile."""


@dataclass(frozen=True)
class _Seen:
    """A file as it looked, and since when."""

    size: int
    modified_ns: int
    since_s: float


class WatchCamera(FolderCamera):
    """Each image once, as soon as it is complete, in the order of writing, without end.

    A file that is written again is a new image if its pixels differ.
    """

    def __init__(
        self,
        settings: CameraSettings,
        folder: Path,
        begin: int,
        done: Iterable[SourceFile],
        *,
        pass_over: bool = False,
    ) -> None:
        """done: files that were taken before; pass_over: whether the first image is not to be read.

        Raises BloodedgeError when the folder does not exist.
        """
        super().__init__(settings, folder.resolve(), [], begin, pass_over=pass_over)
        self._require_folder()
        self.name = f"images written to {shown(as_text(self._folder.name))}"
        self._done = {file.path: file for file in done}
        self._seen: dict[str, _Seen] = {}
        self._wait_s = self._thorough_at_s = 0.0
        """Seconds until the next look; monotonic time from which that checks files that are done, too."""

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """New images as they come, until ``stop`` is set; raises BloodedgeError when the folder disappears."""
        pace = Pace(self._settings.rate, stop)
        index = self._begin
        while not stop.wait(self._wait_s):
            for path in self._look():
                if not self._is_settled(path):
                    break
                if not pace.wait():
                    return
                frame = self._take(index, path)
                if frame is None:
                    break
                yield frame
                index += 1

    def _look(self) -> list[str]:
        """Files that are new or were written again, oldest first; remembers since when each is unchanged."""
        began_s = monotonic()
        thorough = began_s >= self._thorough_at_s
        waiting = self._waiting(thorough, began_s)
        rest_s = (monotonic() - began_s) / SHARE_OF_TIME
        if thorough:
            self._thorough_at_s = monotonic() + rest_s
        self._wait_s = LOOK_EVERY_S if thorough else max(LOOK_EVERY_S, rest_s)
        return waiting

    def _waiting(self, thorough: bool, now_s: float) -> list[str]:
        """New files; a ``thorough`` look also finds files that were done and are written again."""
        seen: dict[str, _Seen] = {}
        for path, stat in self._files(thorough):
            if not _is_unchanged(self._done.get(path), stat):
                before = self._seen.get(path)
                if before is None or not _is_unchanged(before, stat):
                    before = _Seen(stat.st_size, stat.st_mtime_ns, now_s)
                seen[path] = before
        self._seen = seen
        return sorted(seen, key=lambda path: (seen[path].modified_ns, _natural(path)))

    def _files(self, thorough: bool) -> Iterator[tuple[str, os.stat_result]]:
        self._require_folder()
        for entry in _entries(str(self._folder)):
            if not thorough and entry.path in self._done and entry.path not in self._seen:
                continue
            name, suffix = os.path.splitext(entry.name)  # noqa: PTH122  # called for up to a hundred thousand files
            if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                with suppress(OSError):  # deleted meanwhile
                    found = entry.stat()
                    if S_ISREG(found.st_mode):
                        yield entry.path, found

    def _require_folder(self) -> None:
        if not self._folder.is_dir():
            raise BloodedgeError(f"The folder {self._folder} does not exist; make it, or connect its disk.")

    def _is_settled(self, path: str) -> bool:
        shows_its_end = Path(path).suffix.lower() in SHOWS_ITS_END
        needed_s = SETTLED_S if shows_its_end else SETTLED_WITHOUT_END_S
        return monotonic() - self._seen[path].since_s >= needed_s

    def _take(self, index: int, path: str) -> Frame | BadFrame | None:
        """The file's frame; the file is then done. None where it may be incomplete, or shows the same pixels again."""
        seen, before = self._seen[path], self._done.get(path)
        frame = self._read(index, Path(path))
        if not _is_as_seen(path, seen) or (
            isinstance(frame, BadFrame) and monotonic() - seen.since_s < UNREADABLE_WAIT_S
        ):
            return None
        sha256 = "" if isinstance(frame, BadFrame) else hashlib.sha256(frame.bgr.tobytes()).hexdigest()
        file = self._done[path] = SourceFile(path, seen.size, seen.modified_ns, sha256)
        if before is not None and before.sha256 == sha256:
            return None
        return replace(frame, capture=replace(frame.capture, file=file))


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Files of a folder and its subfolders; unreadable folders are left out."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
            else:
                yield entry


def _is_as_seen(path: str, seen: _Seen) -> bool:
    try:
        return _is_unchanged(seen, Path(path).stat())
    except OSError:  # deleted
        return False


def _is_unchanged(before: _Seen | SourceFile | None, now: os.stat_result) -> bool:
    return before is not None and (before.size, before.modified_ns) == (now.st_size, now.st_mtime_ns)


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts 2.png before 10.png."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]
