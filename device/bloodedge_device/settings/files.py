"""Whether the files that the settings name are there, and readable for this user."""

import grp
import os
import shlex
import stat
from pathlib import Path

from bloodedge.errors import UsageError, as_owner, quoted, user_name
from bloodedge.files import file_mode
from bloodedge_device.settings.model import DeviceSettings
from bloodedge_device.settings.sections import is_stream

FILES = {"web": ("certificate", "key"), "mqtt": ("password_file", "ca", "certificate", "key")}
"""Keys of tables that name files."""


def readable(state: Path, command: str = "...") -> Path:
    """The state folder itself; UsageError for a user who may not read it, with the ``command`` for its owner."""
    try:
        closed = stat.S_ISDIR(file_mode(state)) and not os.access(state, os.R_OK | os.X_OK, effective_ids=True)
    except PermissionError:
        closed = True
    if closed:
        raise UsageError(f"{state} cannot be read by this user; {as_owner(state, f'bloodedge device {command}')}.")
    return state


def missing_files(settings: DeviceSettings) -> list[str]:
    """One sentence for each file that the settings name and that is missing, or not readable for this user."""
    found = []
    source = settings.camera.source
    if settings.bundle is not None and not file_mode(settings.bundle):
        found.append(f"bundle: {settings.bundle} does not exist; correct the path or make it with bloodedge convert.")
    if settings.camera.kind == "replay" and source and not is_stream(source) and not file_mode(Path(source)):
        found.append(f"camera.source: {source} does not exist; correct the path.")
    for name, keys in FILES.items():
        for key in keys:
            path: Path | None = getattr(getattr(settings, name), key)
            if path is not None and (problem := _problem(path, settings.state)):
                found.append(f"{name}.{key}: {path} {problem}.")
    return found


def _problem(path: Path, state: Path) -> str | None:
    """Why this user cannot read a file, and what to do; None where it can be read."""
    try:
        exists = stat.S_ISREG(file_mode(path))
    except PermissionError:
        exists = True
    if not exists:
        return "does not exist; correct the path"
    if os.access(path, os.R_OK, effective_ids=True):
        return None
    sentence = f"cannot be read by {user_name(os.geteuid())}"
    if _is_another_users(state):  # whose daemon needs the file; this user's group may not
        return f"{sentence}, and {state} is another user's; {as_owner(state)}"
    group = shlex.quote(_own_group())
    return f"{sentence}; allow it: sudo chgrp {group} {quoted(path)}, then sudo chmod g+r {quoted(path)}"


def _is_another_users(folder: Path) -> bool:
    try:
        return folder.stat().st_uid != os.geteuid()
    except PermissionError:
        return True
    except OSError:  # not made yet
        return False


def _own_group() -> str:
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())
