"""What is computed once and kept on disk: features of cells, and what was read of their pictures.

A file for each look at cells and for each data folder; the least used go first.
"""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge import __version__
from bloodedge.data.cut import Cut
from bloodedge.data.perceptual_hash import HASH_BYTES, hash_rows
from bloodedge.data.pictures import Picture, Source, Stamped
from bloodedge.errors import DiskError
from bloodedge.files import write_beside
from bloodedge.imaging import Light

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")

LIMIT_BYTES = 8 * 2**30
FORMAT = 1
"""Part of every key: raised when the same key would stand for other features, or pictures would be read otherwise."""


def default_folder() -> Path:
    """``bloodedge/features`` in the user's cache folder, which XDG_CACHE_HOME names."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "bloodedge" / "features"


def key_of(**what: Any) -> str:
    """A file's name: a digest of everything that its content depends on beside the pictures."""
    text = json.dumps({"format": FORMAT, **what}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class CacheFolder:
    """A folder of ``KEY.npz`` files."""

    def __init__(self, folder: Path, content: str, say: Callable[[str], None], limit_bytes: int) -> None:
        """content: what is kept, as sentences call it; say: gets one where a file is damaged or cannot be written."""
        self.folder, self.content, self.limit_bytes = folder, content, limit_bytes
        self._say, self._full = say, False
        self._used = set[Path]()

    def load(self, key: str, parse: Callable[[Arrays], T]) -> T | None:
        """What ``parse`` makes of a key's arrays; None without a file, or for a damaged one.

        parse: may raise ValueError and KeyError for a damaged one.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                found = parse(stored)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            self._say(f"{path} is damaged; its {self.content} are computed again.")
            return None
        self._used.add(path)
        with contextlib.suppress(OSError):  # somebody else's folder
            os.utime(path)
        return found

    def store(self, key: str, arrays: Arrays) -> None:
        """Replace a key's arrays; where that cannot be written, say so once and go on."""
        if self._full:
            return
        path = self._path(key)
        try:
            write_beside(path, lambda temporary: np.savez(temporary, allow_pickle=False, **arrays))
            self._used.add(path)
            self._make_room()
        except (DiskError, OSError) as error:
            self._full = True
            self._say(f"{self.content.capitalize()} are not kept for the next run. {error}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    def _make_room(self) -> None:
        """Remove the files used longest ago until the rest fit; those of this run are the last to go."""
        files = [(path in self._used, stat.st_mtime, path, stat.st_size) for path, stat in _stats(self.folder)]
        total = sum(size for *_, size in files)
        for _, _, path, size in sorted(files)[:-1]:
            if total <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            total -= size


def _stats(folder: Path) -> Sequence[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.glob("*.npz"):
        with contextlib.suppress(OSError):  # another run has just removed it
            found.append((path, path.stat()))
    return found


def silent(_: str) -> None:
    """Say nothing."""


class FeatureCache:
    """Features by the digests of pictures."""

    def __init__(self, folder: Path, say: Callable[[str], None] = silent, limit_bytes: int = LIMIT_BYTES) -> None:
        """say: gets a sentence where a file is damaged or cannot be written."""
        self._kept = CacheFolder(folder, "features", say, limit_bytes)

    def load(self, key: str, width: int) -> dict[str, Floats]:
        """Features float32 (width,) by picture; empty where there are none or the file is damaged."""

        def parse(stored: Arrays) -> dict[str, Floats]:
            digests, values = stored["digests"], stored["features"]
            _require(values, (len(digests), width), np.float32)
            return dict(zip(digests.tolist(), values, strict=True))

        return self._kept.load(key, parse) or {}

    def store(self, key: str, features: Mapping[str, Floats]) -> None:
        """Replace a key's features; where that cannot be written, say so once and go on."""
        digests = sorted(features)
        values = np.stack([features[one] for one in digests])
        self._kept.store(key, {"digests": np.array(digests), "features": values})


class PictureCache:
    """What was read of a data folder's pictures; a ``bloodedge.data.pictures.PictureStore``."""

    def __init__(self, folder: Path, say: Callable[[str], None] = silent, limit_bytes: int = LIMIT_BYTES) -> None:
        """say: gets a sentence where a file is damaged or cannot be written."""
        self._kept = CacheFolder(folder, "digests of pictures", say, limit_bytes)

    def load(self, root: Path) -> Stamped:
        """Those kept of a data folder; empty where there are none or the file is damaged."""
        return self._kept.load(_key(root), lambda stored: _unpack(root, stored)) or {}

    def store(self, root: Path, pictures: Stamped) -> None:
        """Replace those kept of a data folder; where that cannot be written, say so once and go on."""
        self._kept.store(_key(root), _pack(root, pictures))


def _key(root: Path) -> str:
    return key_of(root=root.resolve(), pages_and_cuts=1, bloodedge=__version__, opencv=cv2.__version__)


def _pack(root: Path, pictures: Stamped) -> Arrays:
    """Arrays of one row for each picture."""
    found = [picture for _, picture in pictures.values()]
    return {
        "names": np.array([os.fsencode(source.path.relative_to(root)) for source in pictures], np.bytes_),
        "pages": np.array([-1 if source.page is None else source.page for source in pictures], np.int64),
        "scales": np.array([source.um_per_px or 0.0 for source in pictures], np.float64),
        "stamps": np.array([stamp for stamp, _ in pictures.values()], np.int64).reshape(-1, 3),
        "bytes_digests": np.array([picture.bytes_digest for picture in found]),
        "pixels_digests": np.array([picture.pixels_digest for picture in found]),
        "areas_px": np.array([picture.area_px for picture in found], np.int64),
        "brightnesses": np.array([picture.brightness for picture in found], np.float64),
        "looks": hash_rows(picture.look for picture in found),
        "masks": np.array([picture.cut.mask if picture.cut else b"" for picture in found], np.bytes_),
        "lights": np.array([_light(picture) for picture in found], np.int16).reshape(-1, 3),
    }


def _unpack(root: Path, stored: Arrays) -> Stamped:
    """What ``_pack`` packed; raises ValueError or KeyError for other arrays."""
    looks, stamps = stored["looks"], stored["stamps"]
    count = len(stored["names"])
    _require(looks, (count, HASH_BYTES), np.uint8)
    _require(stamps, (count, 3), np.int64)
    columns = ("bytes_digests", "pixels_digests", "areas_px", "brightnesses")
    cuts = map(_cut, stored["masks"].tolist(), stored["lights"].tolist())
    rows = zip(*(stored[name].tolist() for name in columns), map(bytes, looks), cuts, strict=True)
    sources = [
        Source(root / os.fsdecode(name), None if page < 0 else page, scale or None)
        for name, page, scale in zip(*(stored[name].tolist() for name in ("names", "pages", "scales")), strict=True)
    ]
    return {s: (tuple(stamp), Picture(*row)) for s, stamp, row in zip(sources, stamps.tolist(), rows, strict=True)}


def _light(picture: Picture) -> Light:
    """Of the picture's cut; (-1, -1, -1) where there is none."""
    return (picture.cut and picture.cut.light) or (-1, -1, -1)


def _cut(mask: bytes, light: list[int]) -> Cut | None:
    """Of rows that ``_pack`` packed."""
    blue, green, red = light
    return Cut(mask, (blue, green, red) if blue >= 0 else None) if mask else None


def _require(values: NDArray[Any], shape: tuple[int, ...], dtype: type) -> None:
    """Raise ValueError for an array of another shape or dtype."""
    if values.shape != shape or values.dtype != dtype:
        raise ValueError(values.shape, values.dtype)
