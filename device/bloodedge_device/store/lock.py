"""The lock of a state folder, which one daemon holds at a time."""

import fcntl
import os
from pathlib import Path
from typing import IO

from bloodedge.errors import BloodedgeError
from bloodedge.files import make_private_folder


class StateInUseError(BloodedgeError):
    """Another process writes to the state folder."""


def lock_state(state: Path, held: IO[str] | None = None) -> IO[str]:
    """The state folder's lock, held until it is closed; makes the folder. ``held`` itself, if it is that lock still.

    Raises StateInUseError when another process holds it, BloodedgeError when the folder cannot be written.
    """
    try:
        make_private_folder(state)
        handle = _lock_file(state).open("a")
    except OSError as error:
        raise BloodedgeError(
            f"Results cannot be written to {state} ({error.strerror}); choose another folder with --state."
        ) from error
    if held is not None and os.path.sameopenfile(held.fileno(), handle.fileno()):
        handle.close()
        return held
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise StateInUseError(
            f"Another bloodedge device writes to {state}; stop it, or choose another folder with --state."
        ) from error
    return handle


def is_running(state: Path) -> bool:
    """Whether a daemon holds the state folder's lock."""
    try:
        with _lock_file(state).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock_file(state: Path) -> Path:
    return state / "lock"
