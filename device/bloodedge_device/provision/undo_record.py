"""The record of what was written into a root and what was there before, stored in the root itself."""

import json
from base64 import b64decode, b64encode
from pathlib import Path

from pydantic import ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_bytes
from bloodedge_device.provision.boot_files import block_in, bytes_of, text_of, words_in
from bloodedge_device.provision.root_paths import needs_root, path_in

RECORD = "var/lib/bloodedge-provision/record.json"
VERSION = 2
"""Version 1 had a boot file's whole content in ``written``, and neither ``folders`` nor ``read_only``."""


class Entry(Strict):
    """One path's content, as written and as found before; links begin with ``link:``; None: no file."""

    written: str
    """Base64; of a boot file only our part: the block's lines, or the words."""
    before: str | None = None
    """Base64."""
    mode: int | None = None
    """Permissions found before."""
    kind: str
    in_change: bool = False
    """A run has begun to change the path: it may hold ``written``, ``earlier`` or ``before``."""
    earlier: str | None = None
    """Base64: the whole content as this run found it."""


class Record(Strict):
    """Entries by path relative to the root."""

    version: int = 1
    board: str
    read_only: bool | None = None
    """Whether it was provisioned with a read-only root."""
    folders: tuple[str, ...] = ()
    """Folders that were made."""
    beside: tuple[str, ...] = ()
    """Paths that a person changed and that have our version beside them."""
    entries: dict[str, Entry]


def read_record(root: Path) -> Record | None:
    """The root's record, None where nothing was written.

    Raises BloodedgeError when it is damaged, UsageError for a user who may not read it.
    """
    path = path_in(root, RECORD)
    try:
        record = Record.model_validate_json(path.read_bytes())
        return record if record.version >= VERSION else _of_today(record)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise needs_root(root) from error
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise BloodedgeError(f"{path} is damaged; restore it from a backup, or remove it to start again.") from error


def _of_today(record: Record) -> Record:
    entries: dict[str, Entry] = {}
    for path, entry in record.entries.items():
        text, before = text_of(unpacked(entry.written)), text_of(unpacked(entry.before))
        written = entry.written
        if entry.kind == "block":
            written = packed(bytes_of(block_in(text) or ""))
        elif entry.kind == "words":
            written = packed(bytes_of(" ".join(word for word in words_in(text) if word not in words_in(before))))
        entries[path] = entry.model_copy(update={"written": written, "in_change": entry.earlier is not None})
    return record.model_copy(update={"version": VERSION, "entries": entries})


def write_record(root: Path, record: Record) -> None:
    """Write the record; one without entries is deleted."""
    path = path_in(root, RECORD)
    if record.entries:
        write_bytes(path, record.model_dump_json(indent=2, exclude_none=True).encode(), 0o600)
    else:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def packed(content: bytes) -> str:
    """Content in the record's form."""
    return b64encode(content).decode()


def unpacked(text: str | None) -> bytes | None:
    """Content from the record."""
    return None if text is None else b64decode(text)
