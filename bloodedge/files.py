"""Reading edited files, and writing files so that each is either the old one or the whole new one."""

import codecs
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bloodedge.errors import UsageError, disk_errors, user_name
from bloodedge.text import as_text


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_beside(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` with a path beside ``path`` (same suffix), sync it and rename it to ``path``.

    Raises BloodedgeError when the disk is full or not writable; ``path`` then still holds what it held before.
    """
    with disk_errors(path.name), temporary_beside(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        put_in_place(temporary, path)


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` (same suffix); what is there at the end of the block is removed."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a file and rename it to ``path``, which a power cut leaves as it was or makes the whole new file."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def write_bytes(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace ``path`` with ``data``, whole or not at all; mode: its permissions from the first moment on."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        if mode is not None:
            temporary.chmod(mode)

    write_beside(path, write)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with ``text`` in UTF-8, whole or not at all; for names in it see ``as_text``."""
    write_bytes(path, as_text(text).encode())


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def folder_beside(final: Path) -> Iterator[Path]:
    """A fresh folder beside ``final``, renamed to it at the end of the block, or removed after an error.

    An existing ``final`` is replaced only at the very end.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.partial")
    with disk_errors(final.name):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    with path.open("rb") as handle:
                        os.fsync(handle.fileno())
            if final.is_dir():
                old = final.with_name(f".{final.name}.{os.getpid()}.old")
                final.rename(old)
                temporary.rename(final)
                shutil.rmtree(old)
            else:
                temporary.rename(final)
            fsync_folder(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_free(folder: Path, names: Iterable[str]) -> None:
    """UsageError if ``folder`` already has one of the names that a command is about to write."""
    existing = next((name for name in names if os.path.lexists(folder / name)), None)
    if existing is not None:
        raise UsageError(
            f"{folder} holds {existing}, which this command did not make; choose another folder with --out."
        )


def require_apart(folder: Path, inputs: Iterable[Path], option: str) -> None:
    """UsageError if pictures would be written into a folder of input images and could replace them."""
    if folder.resolve() in {path.resolve().parent for path in inputs}:
        raise UsageError(f"{option} {folder} holds the images themselves, which could be overwritten; choose another.")


SQLITE_ENDINGS = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database."""


def make_private(database: Path) -> None:
    """Make a SQLite database readable by its user alone (0600), creating an empty one if it is missing.

    SQLite gives the files that it makes beside it the same permissions. Errors are left to SQLite, whose
    messages are better.
    """
    with suppress(OSError):
        database.touch(0o600)
        for path in (database, *(database.with_name(database.name + ending) for ending in SQLITE_ENDINGS)):
            if path.exists():
                path.chmod(0o600)


def make_private_folder(folder: Path) -> None:
    """Make a folder, and its parents where they are missing, for this user alone (0700); what exists stays as it is."""
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)


MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
"""Byte-order marks, which editors and shells (above all on Windows) put before a text, with their encodings."""


def read_edited(path: Path) -> bytes:
    """The bytes of an edited file; a text with a byte-order mark comes without it, in UTF-8."""
    data = path.read_bytes()
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding, "replace").encode()
    return data


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a file, at most ``most``; OSError for a larger one, and for a pipe, a socket or a device.

    Those have no end, or make who opens them wait.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if found.st_size > most or len(data := file.read(most + 1)) > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return data


def read_text(path: Path) -> str:
    """An edited text file, with or without a byte-order mark; UnicodeDecodeError when it is not UTF-8."""
    return read_edited(path).decode()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_mode(path: Path) -> int:
    """Kind and permissions of what is there (``stat``), 0 where nothing is.

    Raises PermissionError where this user may not look, which ``Path.is_dir`` calls absent from Python 3.14 on.
    """
    found = _found(path)
    return 0 if found is None else found.st_mode


def file_bytes(path: Path) -> int:
    """The size of what is there, 0 where nothing is, in one look: others may delete it; raises as ``file_mode``."""
    found = _found(path)
    return 0 if found is None else found.st_size


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except ValueError:  # no path at all
        return None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
            return None
        raise


def require_own(folder: Path) -> None:
    """UsageError if a folder is another user's: root would leave files that its owner cannot write."""
    try:
        owner = folder.stat().st_uid
    except OSError:  # missing or out of reach: the later write reports it
        return
    if owner == os.geteuid() or (os.geteuid() != 0 and os.access(folder, os.R_OK | os.W_OK | os.X_OK)):
        return
    name = user_name(owner)
    raise UsageError(f"{folder} belongs to {name}, who has to do this: put sudo -u {name} before the command.")
