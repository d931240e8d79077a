"""What was written into a root, and what was there before: kept in the root itself."""

import json
from base64 import b64decode, b64encode
from pathlib import Path

from pydantic import ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import write_bytes

RECORD = "var/lib/bloodedge-provision/record.json"


class Entry(Strict):
    """One path: its content as written and as found before; link targets begin with ``link:``, None: not there."""

    written: str
    """Base64."""
    before: str | None = None
    """Base64."""
    mode: int | None = None
    """Permissions found before."""
    kind: str
    earlier: str | None = None
    """Base64: what an earlier run wrote, while this run's has perhaps not taken its place."""


class Record(Strict):
    """Entries by path relative to the root."""

    board: str
    entries: dict[str, Entry]


def read_record(root: Path) -> Record | None:
    """The root's record, None where nothing was written.

    Raises BloodedgeError when it is damaged, UsageError for a user who may not read it.
    """
    path = root / RECORD
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise needs_root(root) from error
    except (OSError, ValidationError, json.JSONDecodeError) as error:
        raise BloodedgeError(f"{path} is damaged; restore it from a backup, or remove it to begin anew.") from error


def needs_root(root: Path) -> UsageError:
    """For a user who may not read or write what a root file system holds."""
    return UsageError(f"Provisioning {root} needs root; run it again with sudo.")


def write_record(root: Path, record: Record) -> None:
    """Keep the record; one without entries is removed."""
    path = root / RECORD
    if record.entries:
        write_bytes(path, record.model_dump_json(indent=2, exclude_none=True).encode(), 0o600)
    else:
        path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def packed(content: bytes | None) -> str | None:
    """Content as the record has it."""
    return None if content is None else b64encode(content).decode()


def unpacked(text: str | None) -> bytes | None:
    """Content from the record."""
    return None if text is None else b64decode(text)
