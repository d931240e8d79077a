"""Paths of a root file system as the system in it sees them: its links lead where they lead there, never out."""

import os
import stat
from pathlib import Path

from bloodedge.errors import UsageError, disk_errors

LINK = b"link:"
"""What a link's content begins with; its target follows."""

MOST_LINKS = 40
"""As many does Linux follow (path_resolution(7))."""


def place(root: Path, path: str) -> Path:
    """The path below the root, every link among its folders followed within the root; raises UsageError for a circle.

    The last part is not followed: a link there is content of its own.
    """
    folder, _, name = path.rpartition("/")
    return _followed(root, folder) / name


def _followed(root: Path, folder: str) -> Path:
    left = folder.split("/")[::-1]
    reached: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            reached = reached[:-1]
        elif part not in {"", "."}:
            here = root.joinpath(*reached, part)
            if not here.is_symlink():
                reached.append(part)
                continue
            links += 1
            if links > MOST_LINKS:
                raise UsageError(f"{root / folder} leads round in a circle by its links; mend them.")
            target = str(here.readlink())
            if target.startswith("/"):
                reached = []
            left += target.split("/")[::-1]
    return root.joinpath(*reached)


def read(root: Path, path: str) -> bytes | None:
    """A file's bytes, or LINK and a link's target; None where nothing is. Raises UsageError for anything else."""
    found = place(root, path)
    try:
        if found.is_symlink():
            return LINK + os.fsencode(found.readlink())
        if not found.exists():
            return None
        if not stat.S_ISREG(found.stat().st_mode):
            raise UsageError(f"{found} is no file; move it away.")
        return found.read_bytes()
    except PermissionError as error:
        raise needs_root(root) from error
    except OSError:
        with disk_errors(path):
            raise


def mode(root: Path, path: str) -> int | None:
    """A file's permissions; None where there is no file."""
    found = place(root, path)
    return stat.S_IMODE(found.lstat().st_mode) if found.is_file() and not found.is_symlink() else None


def needs_root(root: Path) -> UsageError:
    """For a user who may not read or write what a root file system holds."""
    return UsageError(f"Provisioning {root} needs root; run it again with sudo.")
