"""The errors that people see: one sentence that says what is wrong and what to do."""

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class BloodedgeError(Exception):
    """Something failed and the message says what to do about it (exit code 1)."""

    exit_code = 1


class UsageError(BloodedgeError):
    """The command, its arguments, its configuration or its input folder are not what they must be (exit code 2)."""

    exit_code = 2


class StoppedError(BloodedgeError):
    """A person stopped the command and the message says how to go on (exit code 130, as shells have it)."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint `` Did you mean "x"?`` with a leading space when some known word is close, else an empty string."""
    close = get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn a full or read-only disk into a sentence; ``what`` is what was being written, e.g. "the checkpoint"."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the disk is read-only; choose another folder",
            errno.EACCES: "this user may not write there; choose another folder or change its permissions",
            errno.EISDIR: "a folder of that name is in the way; choose another name",
            errno.ENOTDIR: "a file stands where a folder is needed; choose another name",
            errno.EEXIST: "a file stands where a folder is needed; choose another name",
        }
        reason = reasons.get(error.errno or 0)
        if reason is None:
            raise
        place = f" ({error.filename})" if error.filename else ""
        raise BloodedgeError(f"Could not write {what}{place}: {reason} and run the command again.") from error
