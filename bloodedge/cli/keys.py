"""``bloodedge keys``, ``sign`` and ``verify``: who made a bundle, and whom a board believes."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bloodedge.cli.options import PATH
from bloodedge.errors import BloodedgeError, UsageError, quoted, unreadable
from bloodedge.files import read_edited

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

trust_option = click.option(
    "--trust", "store", type=FOLDER, required=True, metavar="FOLDER", help="The folder of trusted public keys."
)
default_trust_option = click.option(
    "--trust",
    "store",
    type=FOLDER,
    metavar="FOLDER",
    help="The folder of trusted public keys; default: the one that a board's settings name, else that of its results.",
)
out_option = click.option("-o", "--out", type=FOLDER, default=Path(), metavar="FOLDER", help="Where to; default: here.")
days_option = click.option(
    "--days", type=click.IntRange(1, 36500), help="How long it may sign; default: until it is revoked."
)
password_option = click.option(
    "--password-file", type=FILE, metavar="FILE", help="A file whose first line is the private key's password."
)


@click.group()
def keys() -> None:
    """Make, trust and revoke the keys that sign bundles."""


@keys.command("new")
@click.argument("name")
@out_option
@days_option
@password_option
def new(name: str, out: Path, days: int | None, password_file: Path | None) -> None:
    """Make a key pair, NAME.key and NAME.pub.

    NAME.key is to be kept secret; NAME.pub is for the boards.
    """
    from bloodedge.signing.keys import new_key

    private, public, key = new_key(name, out, days=days, password=_password(password_file))
    click.echo(f"{private}: keep it secret{'' if password_file else '; anyone with this file can sign'}.")
    click.echo(f"{public}: give it to every board, with: bloodedge keys trust {quoted(public)} --trust FOLDER")
    click.echo(f"Key {key.id}, fingerprint {key.fingerprint}")


@keys.command("rotate")
@click.argument("old", type=FILE, metavar="OLD.key")
@click.argument("name")
@out_option
@days_option
@password_option
@click.option("--new-password-file", type=FILE, metavar="FILE", help="The new private key's password.")
def rotate(
    old: Path, name: str, out: Path, days: int | None, password_file: Path | None, new_password_file: Path | None
) -> None:
    """Make a key NAME that OLD.key vouches for.

    Boards that trust OLD can take it unseen.
    """
    from bloodedge.signing.keys import id_of, new_key

    endorser = key_in_use(old, password_file)
    private, public, key = new_key(
        name, out, days=days, password=_password(new_password_file), endorser=(endorser, id_of(endorser))
    )
    click.echo(f"{private}: keep it secret.")
    click.echo(f"{public}: boards that trust {key.endorsed_by} take it with:")
    click.echo(f"bloodedge keys trust {quoted(public)} --trust FOLDER --endorsed")
    click.echo(f"Key {key.id}, fingerprint {key.fingerprint}")


@keys.command("trust")
@click.argument("public", type=FILE, metavar="NAME.pub")
@trust_option
@click.option("--endorsed", is_flag=True, help="Only when a key that is trusted already vouches for it.")
def trust_key(public: Path, store: Path, endorsed: bool) -> None:
    """Trust the public key NAME.pub from now on.

    Compare its fingerprint with its owner's first.
    """
    from bloodedge.signing.keys import read_public_key
    from bloodedge.signing.trust import trust

    key = read_public_key(public)
    trust(store, key, endorsed=endorsed)
    click.echo(f"{key.name} ({key.id}) is trusted. Fingerprint {key.fingerprint}")


@keys.command("revoke")
@click.argument("key_id", metavar="KEY-ID")
@trust_option
@click.option("--reason", default="", help="Shown whenever a bundle is refused because of it.")
def revoke_key(key_id: str, store: Path, reason: str) -> None:
    """Believe the key KEY-ID no more, whenever it signed."""
    from bloodedge.signing.trust import revoke

    endorsed = revoke(store, key_id, reason)
    click.echo(f"Key {key_id} is revoked.")
    for key in endorsed:
        click.echo(
            f'It vouched for "{key.name}" ({key.id}), which is still trusted; revoke it too if it was not yours.'
        )


@keys.command("list")
@default_trust_option
def list_keys(store: Path | None) -> None:
    """The keys of a trust store."""
    from bloodedge.signing.trust import TrustStore

    store = store or _of_the_device("settings", "default_trust")()
    there = TrustStore.read(store)
    if not there.keys and not there.revoked:
        click.echo(f"No key is trusted in {store}; add one with: bloodedge keys trust NAME.pub --trust {quoted(store)}")
    for key in there.keys.values():
        state = "revoked" if key.id in there.revoked else f"until {key.not_after:%Y-%m-%d}" if key.not_after else ""
        click.echo(f"{key.id}  {key.name}  made {key.made_at:%Y-%m-%d}  {state}".rstrip())
    for key_id, one in there.revoked.items():
        if key_id not in there.keys:
            click.echo(f"{key_id}  (revoked {one.at:%Y-%m-%d})")


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--key", type=FILE, required=True, metavar="NAME.key", help="The private key.")
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write a signed copy; default: sign in place.")
@password_option
def sign(bundle: Path, key: Path, out: Path | None, password_file: Path | None) -> None:
    """Sign BUNDLE after checking every file in it against its manifest."""
    from bloodedge.signing.signature import sign_bundle

    signature = sign_bundle(bundle, key_in_use(key, password_file), out)
    click.echo(f"{out or bundle} is signed with key {signature.key_id}.")


@click.command()
@click.argument("bundle", type=PATH)
@default_trust_option
def verify(bundle: Path, store: Path | None) -> None:
    """Show who signed BUNDLE, or that it came with this installation, or why it cannot be trusted (exit code 1)."""
    from bloodedge.bundle import Bundle
    from bloodedge.signing.signature import verify_bundle
    from bloodedge.signing.trust import TrustStore

    with Bundle(bundle) as opened:
        what = f'"{opened.manifest.name}" (serial {opened.manifest.serial})'
        if opened.signature() is None and _of_the_device("bundles.released", "came_with_installation")(opened):
            opened.verify()
            if unlisted := opened.unlisted():
                raise BloodedgeError(f"{bundle} holds {unlisted[0]}, which was not released with it; copy it again.")
            click.echo(f"{what} is as it was released with this installation, which boards run without a signature.")
            return
        signer = verify_bundle(opened, TrustStore.read(store or _of_the_device("settings", "default_trust")()))
    click.echo(f"{what} is as {signer.name} ({signer.key_id}) signed it, {signer.signed_at:%F %R} UTC.")


def _of_the_device(module: str, name: str) -> Any:
    """A function of the device's package, looked up by its name as commands are: the core imports no stage."""
    return getattr(importlib.import_module(f"bloodedge_device.{module}"), name)


def key_in_use(path: Path, password_file: Path | None) -> "Ed25519PrivateKey":
    """A private key; UsageError if the public key beside it says that its use has ended."""
    from bloodedge.signing.keys import public_beside, read_private_key, refuse_past

    private = read_private_key(path, _password(password_file))
    public = public_beside(path, private)
    if public is None:
        click.echo(
            f"Whether the key's use has ended is not known: its public half is not in {path.with_suffix('.pub')}; put"
            " it there.",
            err=True,
        )
    else:
        refuse_past(path, public)
    return private


def _password(path: Path | None) -> bytes | None:
    """The first line of a file; UsageError when it cannot be read or is empty."""
    if path is None:
        return None
    try:
        password = read_edited(path).splitlines()[0].strip()
    except OSError as error:
        raise UsageError(unreadable(path, error)) from error
    except IndexError:
        password = b""
    if not password:
        raise UsageError(f"{path} has no password in its first line.")
    return password
