"""Space set aside, so that results can still be stored for a while when something else fills the disk."""

from os import posix_fallocate
from pathlib import Path

from bloodedge_device.store.crops import free_bytes
from bloodedge_device.store.database import MEGABYTE

RESERVE = "reserve"
"""A file of zeros that is deleted when the disk is full."""


class Reserve:
    """The reserve of a state folder, of ``size_mb`` megabytes; 0: none."""

    def __init__(self, state: Path, size_mb: int) -> None:
        self._path, self._size = state / RESERVE, size_mb * MEGABYTE

    @property
    def exists(self) -> bool:
        """Whether the reserve is set aside, or the settings ask for none."""
        return not self._size or self._path.exists()

    def restore(self) -> None:
        """Set the reserve aside again, where there is room for it twice."""
        if self.exists or free_bytes(self._path.parent) < 2 * self._size:
            return
        partial = self._path.with_suffix(".partial")
        try:
            with partial.open("wb") as handle:
                posix_fallocate(handle.fileno(), 0, self._size)
            partial.replace(self._path)
        except OSError:
            partial.unlink(missing_ok=True)

    def release(self) -> bool:
        """Delete the reserve; False where there is none."""
        if not self._is_ours():
            return False
        self._path.unlink()
        return True

    def _is_ours(self) -> bool:
        """Whether the file holds whole megabytes of zeros: other files of that name are never deleted."""
        if not self._path.is_file() or not self._path.stat().st_size or self._path.stat().st_size % MEGABYTE:
            return False
        with self._path.open("rb") as handle:
            return not any(handle.read(MEGABYTE))
