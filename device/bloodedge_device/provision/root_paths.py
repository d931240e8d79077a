"""Paths inside a root file system: links are followed as its own system would, never out of it."""

import os
import stat
from pathlib import Path

from bloodedge.errors import UsageError, disk_errors

LINK = b"link:"
"""Prefix of a link's content, before its target."""

MOST_LINKS = 40
"""Linux's limit (path_resolution(7))."""


def path_in(root: Path, path: str) -> Path:
    """The path below the root with links among its folders followed; raises UsageError for a circle.

    A link at the last part is not followed: it is content.
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
                raise UsageError(f"{root / folder} is a circle of links; correct them.")
            target = str(here.readlink())
            if target.startswith("/"):
                reached = []
            left += target.split("/")[::-1]
    return root.joinpath(*reached)


def read(root: Path, path: str) -> bytes | None:
    """A file's bytes, or LINK and a link's target; None where nothing exists. Raises UsageError for anything else."""
    found = path_in(root, path)
    try:
        if found.is_symlink():
            return LINK + os.fsencode(found.readlink())
        if not found.exists():
            return None
        if not stat.S_ISREG(found.stat().st_mode):
            raise UsageError(f"{found} is not a file; move it away.")
        return found.read_bytes()
    except PermissionError as error:
        raise needs_root(root) from error
    except OSError:
        with disk_errors(path):
            raise


def mode(root: Path, path: str) -> int | None:
    """A file's permissions; None where there is none."""
    found = path_in(root, path)
    return stat.S_IMODE(found.lstat().st_mode) if found.is_file() and not found.is_symlink() else None


def needs_root(root: Path) -> UsageError:
    """The error for a user who may not read or write the root file system."""
    return UsageError(f"Provisioning {root} needs root; run it again with sudo.")
