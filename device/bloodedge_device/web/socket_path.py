"""Where the command line reaches the daemon."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "control.sock"


@contextmanager
def short_path(state: Path) -> Iterator[str]:
    """A path to the state folder's socket that fits into a socket's address (108 bytes), however deep the folder."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
