"""A bundle's signature: made on the conversion host, checked on the board."""

import hashlib
import json
import zipfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import AwareDatetime, Field, ValidationError

from bloodedge.bundle import MANIFEST, SIGNATURE, Bundle, zip_files
from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge.files import write_beside, write_bytes
from bloodedge.signing.keys import encoded, id_of, statement
from bloodedge.signing.trust import KeyId, TrustStore

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Reason = Literal["unsigned", "unknown key", "expired", "revoked", "wrong signature", "changed"]


class Signature(Strict):
    """``signature.json``: everything but the signature itself is signed.

    What is signed of the manifest is the SHA-256 of its bytes as they are stored, so that nothing depends on how a
    number is spelt; and the manifest holds the SHA-256 of every other file.
    """

    schema_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    key_id: KeyId
    signed_at: AwareDatetime
    manifest_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    signature: str = Field(default="", max_length=128)
    """64 bytes, base64."""

    def statement(self) -> bytes:
        """What is signed."""
        return statement("bundle", json.loads(self.model_dump_json(exclude={"signature"})))


@dataclass(frozen=True)
class Signer:
    """Who signed, and when."""

    key_id: str
    name: str
    signed_at: datetime


class Untrusted(BloodedgeError):  # noqa: N818  # as people say it
    """A bundle without a valid signature of a trusted key; ``reason`` says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def verify_bundle(bundle: Bundle, trust: TrustStore) -> Signer:
    """Who signed an open bundle; raises Untrusted unless a trusted key did and every file is as it was signed.

    A key's end of use is compared with the date in the signature, not with the clock, which may be wrong on a board. A
    stolen private key can backdate signatures; revoking it needs no clock.
    """
    signature = _signature_of(bundle)
    refuse_revoked(bundle.path, signature.key_id, trust)
    key = trust.keys.get(signature.key_id)
    if key is None:
        raise Untrusted(
            "unknown key",
            f"{bundle.path} was signed with key {signature.key_id}, which is not trusted here; if you know whose it is:"
            " bloodedge keys trust",
        )
    if not key.verifies(signature.signature, signature.statement()):
        raise Untrusted("wrong signature", f"{bundle.path} was not signed by {key.name}: its signature is wrong.")
    if key.is_past(signature.signed_at):
        raise Untrusted(
            "expired",
            f"{bundle.path} was signed on {signature.signed_at:%Y-%m-%d}, after the end of {key.name}'s key"
            f" ({key.not_after:%Y-%m-%d}); get it signed with a key in use.",
        )
    _check_contents(bundle, signature)
    return Signer(key.id, key.name, signature.signed_at)


def refuse_revoked(what: object, key_id: str, trust: TrustStore) -> None:
    """Raise Untrusted if the key that signed ``what`` was revoked."""
    if key_id in trust.revoked:
        why = trust.revoked[key_id].reason
        raise Untrusted(
            "revoked",
            f"{what} was signed with key {key_id}, which was revoked{f' ({why})' if why else ''};"
            " get it signed with another key.",
        )


def _signature_of(bundle: Bundle) -> Signature:
    data = bundle.signature()
    if data is None:
        raise Untrusted(
            "unsigned",
            f"{bundle.path} is not signed; sign it with: bloodedge sign {quoted(bundle.path)} --key NAME.key",
        )
    try:
        return Signature.model_validate_json(data)
    except ValidationError as error:
        raise Untrusted("wrong signature", f"{bundle.path}: {SIGNATURE} is damaged; sign the bundle again.") from error


def _check_contents(bundle: Bundle, signature: Signature) -> None:
    if hashlib.sha256(bundle.manifest_bytes).hexdigest() != signature.manifest_sha256:
        raise Untrusted("changed", f"{bundle.path}: {MANIFEST} was changed after it was signed; get the bundle again.")
    if unlisted := bundle.unlisted():
        raise Untrusted("changed", f"{bundle.path} holds {unlisted[0]}, which was not signed; get the bundle again.")
    try:
        bundle.verify()
    except UsageError:
        raise
    except BloodedgeError as error:
        raise Untrusted("changed", str(error)) from error


def sign_bundle(
    path: Path, private_key: "Ed25519PrivateKey", out: Path | None = None, when: datetime | None = None
) -> Signature:
    """Sign a bundle, in place or (a zip) as a copy ``out``; a signature that it had is replaced.

    Raises BloodedgeError when a file differs from the manifest or is not listed in it.
    """
    if out is not None and path.is_dir():
        raise UsageError(f"{path} is a folder, which is signed in place; leave --out away.")
    if out is not None and out.exists() and not (out.is_file() and zipfile.is_zipfile(out)):
        raise UsageError(f"{out} exists and is no bundle; choose another name for the signed copy.")
    with Bundle(path) as bundle:
        if unlisted := bundle.unlisted():
            raise BloodedgeError(f"{path} holds {unlisted[0]}, which its manifest does not list; remove it first.")
        files = {name: bundle.read(name) for name in bundle.manifest.files}
        manifest = bundle.manifest_bytes
    signature = Signature(
        key_id=id_of(private_key),
        signed_at=(when or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0),
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
    )
    signature = signature.model_copy(update={"signature": encoded(private_key.sign(signature.statement()))})
    text = (signature.model_dump_json(indent=2) + "\n").encode()
    if path.is_dir():
        write_bytes(path / SIGNATURE, text)
    else:
        everything = {**files, MANIFEST: manifest, SIGNATURE: text}
        write_beside(out or path, lambda target: zip_files(everything, target))
    return signature
