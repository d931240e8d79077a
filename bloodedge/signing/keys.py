"""Key pairs: the private half in a PEM file for its owner alone, the public half in a readable JSON file."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, field_validator, model_validator

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError, disk_errors, unreadable
from bloodedge.files import fsync_folder, read_edited, write_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LARGEST_KEY_FILE = 16 * 2**10
LONGEST_PASSWORD = 1023
"""Bytes that OpenSSL takes."""

KeyName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


def statement(purpose: str, values: Mapping[str, str | int | None]) -> bytes:
    """Bytes to sign: the purpose, so that no signature serves for another, then ``values`` as JSON.

    Keys sorted, no white space, UTF-8, as RFC 8785 has it for strings, integers and null, which is all there may be:
    numbers with fractions, which writers spell differently, are only ever signed as part of a file's digest.
    """
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"bloodedge {purpose} 1\n{text}".encode()


class PublicKey(Strict):
    """A public key with its name and dates; the file ``NAME.pub``."""

    schema_version: Literal[1] = 1
    name: KeyName
    key: str
    """32 bytes, base64."""
    made_at: AwareDatetime
    not_after: AwareDatetime | None = None
    """A signature dated later does not count."""
    endorsed_by: str | None = None
    """Id of the key that vouches for this one."""
    endorsement: str | None = Field(default=None, repr=False)
    """Its signature over everything above, base64."""

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, value: str) -> str:
        if len(_decoded(value)) != 32:
            raise ValueError("an ed25519 public key has 32 bytes")
        return value

    @model_validator(mode="after")
    def _endorsement_is_whole(self) -> Self:
        if (self.endorsed_by is None) != (self.endorsement is None):
            raise ValueError("endorsed_by and endorsement belong together")
        return self

    @property
    def raw(self) -> bytes:
        """The key's 32 bytes."""
        return _decoded(self.key)

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def fingerprint(self) -> str:
        """The whole SHA-256 in groups of four, for two people to read to each other."""
        digest = hashlib.sha256(self.raw).hexdigest()
        return " ".join(digest[start : start + 4] for start in range(0, 64, 4))

    def verifies(self, signature: str, signed: bytes) -> bool:
        """Whether a base64 signature over ``signed`` was made with this key's private half."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(_decoded(signature), signed)
        except (InvalidSignature, ValueError):
            return False
        return True

    def statement(self) -> bytes:
        """What a key that endorses this one signs."""
        return statement("public key", json.loads(self.model_dump_json(exclude={"endorsement"})))

    def is_past(self, when: datetime) -> bool:
        """Whether its use had ended by ``when``."""
        return self.not_after is not None and when > self.not_after


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def encoded(data: bytes) -> str:
    """Base64, as in key and signature files."""
    return base64.b64encode(data).decode()


def new_key(
    name: str,
    folder: Path,
    *,
    days: int | None = None,
    password: bytes | None = None,
    endorser: "tuple[Ed25519PrivateKey, str] | None" = None,
) -> tuple[Path, Path, PublicKey]:
    """Make a key pair: (NAME.key, NAME.pub, the public key).

    days: how long it may sign; password: of the private key's file; endorser: the private key that vouches for the new
    one, and its id. Raises UsageError for a name or password that cannot be one, and rather than write over a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private_path, public_path = folder / f"{name}.key", folder / f"{name}.pub"
    if password is not None and len(password) > LONGEST_PASSWORD:
        raise UsageError(f"A key's password may have {LONGEST_PASSWORD} bytes; choose a shorter one.")
    for path in (private_path, public_path):
        if path.exists():
            raise UsageError(f"{path} exists, and a key is never written over; choose another name.")
    private = Ed25519PrivateKey.generate()
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        public = PublicKey(
            name=name,
            key=encoded(private.public_key().public_bytes_raw()),
            made_at=now,
            not_after=None if days is None else now + timedelta(days=days),
        )
    except ValidationError as error:
        raise UsageError(f'"{name}" cannot name a key: use up to 64 letters, digits, dots, - and _.') from error
    if endorser is not None:
        public = public.model_copy(update={"endorsed_by": endorser[1]})
        public = public.model_copy(update={"endorsement": encoded(endorser[0].sign(public.statement()))})
    _write_private(private_path, private, password)
    write_public_key(public_path, public)
    return private_path, public_path, public


def _write_private(path: Path, key: "Ed25519PrivateKey", password: bytes | None) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        KeySerializationEncryption,
        NoEncryption,
        PrivateFormat,
    )

    locked: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    with disk_errors("the key"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        fsync_folder(path.parent)


def write_public_key(path: Path, key: PublicKey) -> None:
    """Write ``NAME.pub``."""
    write_text(path, key.model_dump_json(indent=2, exclude_none=True) + "\n")


def read_public_key(path: Path) -> PublicKey:
    """A ``NAME.pub``; raises UsageError when it is not there and BloodedgeError when it is no public key."""
    try:
        if path.stat().st_size > LARGEST_KEY_FILE:
            raise BloodedgeError(f"{path} is no public key (too large); give a .pub file of: bloodedge keys new")
        return PublicKey.model_validate_json(read_edited(path))
    except OSError as error:
        raise UsageError(unreadable(path, error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BloodedgeError(
            f"{path} is no public key ({where}: {first['msg']}); give a .pub file of: bloodedge keys new"
        ) from error


def read_private_key(path: Path, password: bytes | None = None) -> "Ed25519PrivateKey":
    """A ``NAME.key``; raises UsageError when it cannot be read, is locked or is no ed25519 key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_edited(path), password)
    except OSError as error:
        raise UsageError(unreadable(path, error)) from error
    except TypeError as error:
        raise UsageError(
            f"{path} is locked with a password; give it with --password-file."
            if password is None
            else f"{path} has no password; leave --password-file out."
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = ", or the password is wrong" if password else ""
        raise UsageError(f"{path} is no private key{hint}; give the .key file that bloodedge keys new made.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an ed25519 key; make one with: bloodedge keys new NAME")
    return key


def public_beside(path: Path, private: "Ed25519PrivateKey") -> PublicKey | None:
    """The public half, from the file beside a private key's; None where there is none, or another key's."""
    try:
        public = read_public_key(path.with_suffix(".pub"))
    except BloodedgeError:
        return None
    return public if public.id == id_of(private) else None


def refuse_past(path: Path, public: PublicKey) -> None:
    """Raise UsageError for a private key whose use has ended: its new signatures would not count."""
    if public.not_after is not None and public.is_past(datetime.now(UTC)):
        raise UsageError(
            f"{path}: the use of this key ended on {public.not_after:%Y-%m-%d}, so its new signatures do not count;"
            " make a new one with bloodedge keys new, and trust it on the boards."
        )


def id_of(private: "Ed25519PrivateKey") -> str:
    """The key id of a private key's public half."""
    return hashlib.sha256(private.public_key().public_bytes_raw()).hexdigest()[:16]
