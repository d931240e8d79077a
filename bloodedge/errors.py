"""Errors for people: one sentence with the fault and its cure."""

import errno
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from bloodedge.text import as_text, shown


class BloodedgeError(Exception):
    """Something failed; the message says what to do (exit code 1)."""

    exit_code = 1

    def __init__(self, sentence: str = "") -> None:
        """The sentence may hold a name from outside; it is kept as text that can be stored, sent and shown.

        Control characters are replaced, except for the ends of lines.
        """
        super().__init__("\n".join(shown(line) for line in as_text(sentence).split("\n")))


class UsageError(BloodedgeError):
    """The command, its arguments, its configuration or its input folder is wrong (exit code 2)."""

    exit_code = 2


class DiskError(BloodedgeError):
    """A file could not be written, perhaps only for now; the data are still whole."""


class StoppedError(BloodedgeError):
    """A person stopped the command; the message says how to continue (exit code 130, as shells have it)."""

    exit_code = 130


def quoted(path: Path) -> str:
    """A path quoted for a shell, for commands in messages."""
    return shlex.quote(str(path))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint `` Did you mean "x"?`` with a leading space when some known word is close, else an empty string."""
    close = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into a DiskError; ``what`` is what was being written, e.g. "the checkpoint"."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the disk is read-only; choose another folder",
            errno.EACCES: "this user may not write there; choose another folder or change its permissions",
            errno.EISDIR: "a folder of that name is in the way; choose another name",
            errno.ENOTDIR: "a file is where a folder is needed; choose another name",
            errno.EEXIST: "a file is where a folder is needed; choose another name",
            errno.EIO: "the disk failed; check it and its cable",
            errno.EMFILE: "this process has too many files open; raise its limit (ulimit -n)",
            errno.ENFILE: "the machine has too many files open; end other programs",
            errno.ENOMEM: "memory is used up; end other programs",
        }
        reason = reasons.get(error.errno or 0)
        if reason is None:
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise DiskError(f"Could not write {what}{place}: {reason} and run the command again.") from error


CURES = {
    errno.ENOENT: "check its name, or choose another folder",
    errno.ENOTDIR: "a file is where a folder is needed; choose another name",
    errno.EISDIR: "a folder of that name is in the way; choose another name",
    errno.EEXIST: "choose another name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "free some space and run the command again",
    errno.EDQUOT: "free some space and run the command again",
    errno.EROFS: "choose another folder",
    errno.EIO: "check the disk and its cable, and run the command again",
}
"""What to do where the operating system refuses a path."""

OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Faults of the disk, even where the system names no path."""


def system_sentence(error: OSError) -> str | None:
    """A sentence about what the operating system refused, with its path; None for what is more likely a bug."""
    if error.errno is None:
        return None
    if not isinstance(error.filename, str | bytes):
        cure = CURES.get(error.errno, "")
        return f"The disk refused a write ({error.strerror}); {cure}." if error.errno in OF_THE_DISK else None
    path = os.fsdecode(error.filename)
    if isinstance(error, PermissionError):
        cure = f"{as_owner(Path(path))}, or give another file or folder"
    else:
        cure = CURES.get(error.errno, "remove the cause and run the command again")
    return f"{path} cannot be used ({error.strerror}); {cure}."


def unreadable(path: Path, error: OSError) -> str:
    """The sentence for a file that cannot be read, with its owner where permissions are the cause."""
    cure = as_owner(path) if isinstance(error, PermissionError) else "check its name and permissions"
    return f"{path} cannot be read ({error.strerror}); {cure}."


def as_owner(path: Path, command: str = "bloodedge ...") -> str:
    """What to do about a path that this user may not use: run the command as its owner."""
    owner = _owner(path)
    if owner is None or owner == os.geteuid():
        return "change its permissions"
    if owner == 0:
        return f"run the command as root (sudo {command})"
    return f"run the command as its owner (sudo -u {user_name(owner)} {command})"


def _owner(path: Path) -> int | None:
    """The owner of the path, or of the nearest folder above it that this user can see; None if unknown."""
    if not hasattr(os, "geteuid"):  # Windows
        return None
    for place in (path.absolute(), *path.absolute().parents):
        try:
            return place.stat().st_uid
        except OSError:
            continue
    return None


def user_name(user: int) -> str:
    """A user's name, or number, as ``sudo -u`` takes it in a shell."""
    import pwd

    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"'#{user}'"
