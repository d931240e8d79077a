"""The server's state folder, and who may write to it."""

import os
import shlex
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge.files import require_own

SERVICE_STATE = Path("/var/lib/bloodedge-fleet")
"""Of a server that runs as a service (firmware_configs/fleet); commands use it by default."""


def state_folder(given: Path | None = None) -> Path:
    """The state folder: as given, else the service's where there is one, else this user's."""
    if given is not None:
        return given
    if os.path.lexists(SERVICE_STATE):
        return SERVICE_STATE
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bloodedge-fleet"


def own_state_folder(given: Path | None = None) -> Path:
    """The state folder for writing; UsageError, which names its owner, where it is another user's."""
    folder = state_folder(given)
    require_own(folder)
    return folder


def command(words: str, state: Path) -> str:
    """The command line of a fleet command for a state folder."""
    return f"bloodedge fleet {words}" + ("" if state == state_folder() else f" --state {shlex.quote(str(state))}")


def require_readable(*paths: Path | None) -> None:
    """UsageError for the first file that cannot be read."""
    for path in filter(None, paths):
        try:
            if not path.is_fifo():  # a pipe can be read only once
                path.open("rb").close()
        except OSError as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> UsageError:
    """Why a file or folder cannot be read. It never advises root, whose files the server could not write."""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path} does not exist; correct the path.")
    if isinstance(error, IsADirectoryError):
        return UsageError(f"{path} is a folder; give the file.")
    return UsageError(f"{path} cannot be read ({error.strerror}); correct the path, or let this user read it.")
