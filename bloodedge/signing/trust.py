"""The public keys that a board trusts: a folder of ``*.pub`` files, and ``revoked.json`` beside them."""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError, as_owner, unreadable
from bloodedge.files import file_mode, read_edited, write_text
from bloodedge.signing.keys import PublicKey, read_public_key, write_public_key

REVOKED = "revoked.json"

KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]


class Revocation(Strict):
    """Why and when a key was revoked."""

    at: AwareDatetime
    reason: str = Field(default="", max_length=200)


class Revoked(Strict):
    """``revoked.json``."""

    schema_version: Literal[1] = 1
    keys: dict[KeyId, Revocation] = Field(default_factory=dict)


@dataclass(frozen=True)
class TrustStore:
    """Trusted and revoked keys by id; no signature of a revoked key counts, whatever its date."""

    keys: Mapping[str, PublicKey]
    revoked: Mapping[str, Revocation]

    @classmethod
    def read(cls, folder: Path) -> "TrustStore":
        """The keys of a folder, none where it is missing.

        Raises BloodedgeError when one of its files is damaged, UsageError for a user who may not read it.
        """
        try:
            keys = [read_public_key(path) for path in _files(folder)]
        except PermissionError as error:
            raise UsageError(_closed(folder, error)) from error
        except OSError as error:
            raise BloodedgeError(unreadable(folder, error)) from error
        return cls({key.id: key for key in keys}, _read_revoked(folder).keys)

    def endorses(self, key: PublicKey) -> bool:
        """Whether a trusted key that is neither revoked nor was past its use when ``key`` was made vouches for it."""
        endorser = self.keys.get(key.endorsed_by or "")
        if endorser is None or key.endorsement is None or endorser.id in self.revoked:
            return False
        return not endorser.is_past(key.made_at) and endorser.verifies(key.endorsement, key.statement())


def trust(folder: Path, key: PublicKey, *, endorsed: bool = False) -> None:
    """Add a key to a trust store; raises UsageError if another key has its name.

    endorsed: only when a key that is trusted already vouches for it. Raises BloodedgeError when none does, and when the
    key was revoked.
    """
    store = TrustStore.read(folder)
    if key.id in store.revoked:
        raise BloodedgeError(f'Key "{key.name}" ({key.id}) was revoked; ask its owner for a new one.')
    if endorsed and not store.endorses(key):
        raise BloodedgeError(
            f'No key that is trusted in {folder} vouches for "{key.name}"; compare its fingerprint with its owner, then'
            " trust it without --endorsed."
        )
    path = folder / f"{key.name}.pub"
    if path.exists() and read_public_key(path).id != key.id:
        raise UsageError(f"{path} is another key of that name; revoke it and remove its file first.")
    write_public_key(path, key)


def revoke(folder: Path, key_id: str, reason: str) -> list[PublicKey]:
    """Revoke a key, known or not; gives the trusted keys that it endorsed, which stay trusted.

    Raises UsageError where there is no such folder: a key revoked in a mistyped one would still be trusted.
    """
    if not stat.S_ISDIR(file_mode(folder)):
        raise UsageError(f"{folder} does not exist; give the folder of keys that the machine trusts.")
    with _no_other_revokes(folder):
        revoked = _read_revoked(folder)
        try:
            entry = {key_id: Revocation(at=datetime.now(UTC).replace(microsecond=0), reason=reason)}
            revoked = Revoked(keys={**entry, **revoked.keys})  # the first revocation of a key stands
        except ValidationError as error:
            raise UsageError(
                f'"{key_id}" is no key id (16 hexadecimal digits; see: bloodedge keys list), or the reason is too long.'
            ) from error
        store = TrustStore.read(folder)
        write_text(folder / REVOKED, revoked.model_dump_json(indent=2) + "\n")
    return [key for key in store.keys.values() if key.endorsed_by == key_id]


@contextmanager
def _no_other_revokes(folder: Path) -> Iterator[None]:
    """Wait until no other process revokes a key; the folder itself is locked, so that nothing is left in it."""
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError as error:
        raise UsageError(_closed(folder, error)) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _files(folder: Path) -> list[Path]:
    """The files of keys; not by glob, which shows none where it may not look.

    Raises BloodedgeError for one that is a pipe or a device, which would never be read to its end.
    """
    if not stat.S_ISDIR(file_mode(folder)):
        return []
    found = sorted(path for path in folder.iterdir() if path.name.endswith(".pub"))
    for path in (*found, folder / REVOKED):
        if (mode := file_mode(path)) and not stat.S_ISREG(mode):
            raise BloodedgeError(f"{path} is no regular file, so no key can be trusted; remove it.")
    return found


def _closed(path: Path, error: PermissionError) -> str:
    return f"{path} cannot be read ({error.strerror}), so no key can be trusted; {as_owner(path)}."


def _read_revoked(folder: Path) -> Revoked:
    path = folder / REVOKED
    try:
        return Revoked.model_validate_json(read_edited(path))
    except FileNotFoundError:
        return Revoked()
    except PermissionError as error:
        raise UsageError(_closed(path, error)) from error
    except (OSError, ValidationError) as error:
        raise BloodedgeError(
            f"{path} is damaged, so no key can be trusted; restore it from a backup, or, where there is none, move it"
            " out of the folder and revoke every key again that was revoked, before anything else."
        ) from error
