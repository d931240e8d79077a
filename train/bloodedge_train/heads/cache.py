"""Features on disk, so that they are computed once: a file for each look at cells, the least used go first."""

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import DiskError
from bloodedge.files import write_beside

Floats = NDArray[np.float32]

LIMIT_BYTES = 8 * 2**30
FORMAT = 1
"""Part of every key: raised when the same key would stand for other features."""


def default_folder() -> Path:
    """``bloodedge/features`` in the user's cache folder, which XDG_CACHE_HOME names."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "bloodedge" / "features"


def key_of(**what: Any) -> str:
    """A file's name: a digest of everything that its features depend on beside the pictures."""
    text = json.dumps({"format": FORMAT, **what}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class FeatureCache:
    """A folder of ``KEY.npz`` files, each with the digests of pictures and their features."""

    def __init__(
        self, folder: Path, say: Callable[[str], None] = lambda _: None, limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """say: gets a sentence where a file is damaged or cannot be written."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._say, self._full = say, False
        self._used = set[Path]()

    def load(self, key: str, width: int) -> dict[str, Floats]:
        """Features float32 (width,) by picture; empty where there are none or the file is damaged."""
        path = self._path(key)
        if not path.is_file():
            return {}
        try:
            with np.load(path, allow_pickle=False) as stored:
                digests, values = stored["digests"], stored["features"]
            if values.shape != (len(digests), width) or values.dtype != np.float32:
                raise ValueError(values.shape)  # noqa: TRY301
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            self._say(f"{path} is damaged; its features are computed again.")
            return {}
        self._used.add(path)
        with contextlib.suppress(OSError):  # somebody else's folder
            os.utime(path)
        return dict(zip(digests.tolist(), values, strict=True))

    def store(self, key: str, features: Mapping[str, Floats]) -> None:
        """Replace a key's features; where that cannot be written, say so once and go on."""
        if self._full:
            return
        digests, path = sorted(features), self._path(key)

        def write(temporary: Path) -> None:
            np.savez(temporary, digests=np.array(digests), features=np.stack([features[one] for one in digests]))

        try:
            write_beside(path, write)
            self._used.add(path)
            self._make_room()
        except (DiskError, OSError) as error:
            self._full = True
            self._say(f"Features are not kept for the next run. {error}")

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
