"""Only what a trusted key signed is believed, byte for byte."""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bloodedge.bundle import MANIFEST, SIGNATURE, Bundle, zip_files
from bloodedge.cli import main
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.signing import trust as store
from bloodedge.signing.keys import PublicKey, id_of, new_key, read_private_key, read_public_key, write_public_key
from bloodedge.signing.signature import Signer, Untrusted, sign_bundle, verify_bundle
from bloodedge.signing.trust import TrustStore, revoke, trust
from support.needs import needs

MODEL = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Ed25519PrivateKey, PublicKey]:
    private, _, public = new_key("lab", tmp_path / "keys")
    return read_private_key(private), public


@pytest.fixture
def trusted(tmp_path: Path, keys: tuple[Ed25519PrivateKey, PublicKey]) -> Path:
    folder = tmp_path / "trusted"
    trust(folder, keys[1])
    return folder


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Ed25519PrivateKey, PublicKey]) -> Path:
    path = tmp_path / "signed.bundle"
    sign_bundle(MODEL, keys[0], path)
    return path


@pytest.fixture
def unpacked(tmp_path: Path, signed: Path) -> Path:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(signed) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return int(str(stop.value.code)), said.out + said.err

    return run


def who(path: Path, store: Path) -> Signer:
    with Bundle(path) as bundle:
        return verify_bundle(bundle, TrustStore.read(store))


def why_not(path: Path, store: Path) -> str:
    with pytest.raises(Untrusted) as refusal:
        who(path, store)
    assert str(refusal.value).count("\n") == 0
    return refusal.value.reason


def repack(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    zip_files(files, path)


def test_a_signed_bundle_names_its_signer_and_still_holds_the_same_files(signed: Path, trusted: Path) -> None:
    assert who(signed, trusted).name == "lab"
    with Bundle(signed) as bundle, Bundle(MODEL) as before:
        assert bundle.manifest_bytes == before.manifest_bytes
        assert {n: bundle.read(n) for n in bundle.manifest.files} == {n: before.read(n) for n in before.manifest.files}


def test_a_folder_is_signed_in_place(unpacked: Path, trusted: Path, keys: tuple[Ed25519PrivateKey, PublicKey]) -> None:
    (unpacked / SIGNATURE).unlink()
    assert why_not(unpacked, trusted) == "unsigned"
    sign_bundle(unpacked, keys[0])
    assert who(unpacked, trusted).key_id == keys[1].id


@needs("openssl")
def test_openssl_finds_the_same_signature_right(signed: Path, keys: tuple[Ed25519PrivateKey, PublicKey]) -> None:
    """Another program, given the documented statement: purpose, a line's end, sorted JSON without white space."""
    with zipfile.ZipFile(signed) as archive:
        said, manifest = json.loads(archive.read(SIGNATURE)), archive.read(MANIFEST)
    signature = b64decode(said.pop("signature"))
    assert said["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    folder = signed.parent
    (folder / "said").write_bytes(
        b"bloodedge bundle 1\n" + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
    )
    (folder / "signature").write_bytes(signature)
    prefix = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of ed25519, RFC 8410 section 10.1
    (folder / "key.der").write_bytes(prefix + keys[1].raw)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key.der", "-keyform", "DER", "-rawin"]
    done = subprocess.run(
        [*command, "-in", "said", "-sigfile", "signature"], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_original_is_unsigned_and_another_lab_is_unknown(signed: Path, trusted: Path, tmp_path: Path) -> None:
    assert why_not(MODEL, trusted) == "unsigned"
    assert why_not(signed, tmp_path / "nobody") == "unknown key"


@pytest.mark.parametrize("name", [MANIFEST, "artifacts/model_int8.tflite", "golden.npz", "report.html"])
def test_one_changed_byte_in_any_file_is_found(signed: Path, trusted: Path, name: str) -> None:
    def change(files: dict[str, bytes]) -> None:
        where = files[name].rindex(b"0")
        files[name] = files[name][:where] + b"1" + files[name][where + 1 :]

    repack(signed, change)
    assert why_not(signed, trusted) == "changed"


def test_a_file_that_nobody_signed_is_found(signed: Path, trusted: Path, unpacked: Path) -> None:
    repack(signed, lambda files: files.update({"extra.py": b"print()"}))
    assert why_not(signed, trusted) == "changed"
    (unpacked / "extra.py").write_text("print()")
    assert why_not(unpacked, trusted) == "changed"
    (unpacked / "extra.py").unlink()
    (unpacked / "elsewhere").symlink_to(trusted, target_is_directory=True)
    assert why_not(unpacked, trusted) == "changed"


@pytest.mark.parametrize("field", ["signed_at", "key_id", "manifest_sha256"])
def test_what_stands_beside_the_signature_is_signed_too(
    signed: Path, trusted: Path, tmp_path: Path, field: str
) -> None:
    _, _, other = new_key("other", tmp_path / "keys")
    trust(trusted, other)
    new = {"signed_at": "2001-01-01T00:00:00Z", "key_id": other.id, "manifest_sha256": "0" * 64}[field]

    def change(files: dict[str, bytes]) -> None:
        files[SIGNATURE] = json.dumps({**json.loads(files[SIGNATURE]), field: new}).encode()

    repack(signed, change)
    assert why_not(signed, trusted) == "wrong signature"


def test_a_revoked_key_counts_for_nothing_it_ever_signed(
    signed: Path, trusted: Path, keys: tuple[Ed25519PrivateKey, PublicKey]
) -> None:
    revoke(trusted, keys[1].id, "stolen")
    assert why_not(signed, trusted) == "revoked"
    with pytest.raises(BloodedgeError, match="was revoked"):
        trust(trusted, keys[1])


def test_a_key_signs_until_its_end_and_what_it_signed_stays_signed(tmp_path: Path, trusted: Path) -> None:
    private, _, public = new_key("short", tmp_path / "keys", days=10)
    trust(trusted, public)
    path = tmp_path / "dated.bundle"
    for days, in_use in ((9, True), (11, False)):
        sign_bundle(MODEL, read_private_key(private), path, when=datetime.now(UTC) + timedelta(days=days))
        assert (who(path, trusted).name == "short") if in_use else (why_not(path, trusted) == "expired")


def test_a_board_takes_a_new_key_that_the_old_one_vouches_for(
    trusted: Path, tmp_path: Path, keys: tuple[Ed25519PrivateKey, PublicKey]
) -> None:
    _, _, endorsed = new_key("next", tmp_path / "keys", endorser=(keys[0], id_of(keys[0])))
    trust(trusted, endorsed, endorsed=True)
    assert set(TrustStore.read(trusted).keys) == {keys[1].id, endorsed.id}
    forged = endorsed.model_copy(update={"name": "forged"})
    with pytest.raises(BloodedgeError, match="No key that is trusted"):
        trust(trusted, forged, endorsed=True)
    assert revoke(trusted, keys[1].id, "") == [endorsed]
    _, _, late = new_key("late", tmp_path / "keys", endorser=(keys[0], id_of(keys[0])))
    with pytest.raises(BloodedgeError, match="No key that is trusted"):
        trust(trusted, late, endorsed=True)


def test_a_key_past_its_end_vouches_for_no_other(trusted: Path, tmp_path: Path) -> None:
    private, _, public = new_key("short", tmp_path / "keys", days=10)
    trust(trusted, public)
    old = read_private_key(private)
    _, _, made = new_key("next", tmp_path / "keys", endorser=(old, public.id))
    assert TrustStore.read(trusted).endorses(made)
    late = made.model_copy(update={"made_at": public.made_at + timedelta(days=11)})
    late = late.model_copy(update={"endorsement": b64encode(old.sign(late.statement())).decode()})
    assert not TrustStore.read(trusted).endorses(late)
    with pytest.raises(BloodedgeError, match="No key that is trusted"):
        trust(trusted, late, endorsed=True)


def test_a_password_too_long_for_a_key_file_is_a_sentence_and_leaves_no_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose a shorter one"):
        new_key("lab", tmp_path, password=b"x" * 1024)
    assert not list(tmp_path.iterdir())
    private, _, public = new_key("lab", tmp_path, password=b"x" * 1023)
    assert id_of(read_private_key(private, b"x" * 1023)) == public.id


def test_nothing_is_signed_that_is_not_whole(unpacked: Path, keys: tuple[Ed25519PrivateKey, PublicKey]) -> None:
    (unpacked / "MODEL_CARD.md").write_text("better figures")
    before = (unpacked / SIGNATURE).read_bytes()
    with pytest.raises(BloodedgeError, match="was changed after conversion"):
        sign_bundle(unpacked, keys[0])
    assert (unpacked / SIGNATURE).read_bytes() == before


def test_a_private_key_is_its_owners_alone_and_never_written_over(tmp_path: Path) -> None:
    private, _, _ = new_key("lab", tmp_path)
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(UsageError, match="never written over"):
        new_key("lab", tmp_path)
    assert private.read_bytes() == before


def test_a_locked_key_needs_its_password(tmp_path: Path) -> None:
    private, _, public = new_key("lab", tmp_path, password=b"long and secret")
    assert id_of(read_private_key(private, b"long and secret")) == public.id
    with pytest.raises(UsageError, match="--password-file"):
        read_private_key(private)
    with pytest.raises(UsageError, match="password is wrong"):
        read_private_key(private, b"a guess")


def test_a_damaged_list_of_revoked_keys_trusts_nobody(trusted: Path, signed: Path) -> None:
    (trusted / "revoked.json").write_text("{")
    with pytest.raises(BloodedgeError, match="no key can be trusted"):
        who(signed, trusted)


def test_two_keys_of_one_name_do_not_replace_each_other(trusted: Path, tmp_path: Path) -> None:
    _, path, _ = new_key("lab", tmp_path / "elsewhere")
    before = (trusted / "lab.pub").read_bytes()
    with pytest.raises(UsageError, match="another key of that name"):
        trust(trusted, read_public_key(path))
    assert (trusted / "lab.pub").read_bytes() == before


def test_the_commands_lead_from_a_new_key_to_a_verified_bundle_and_back(run: Run, tmp_path: Path) -> None:
    store, bundle = tmp_path / "store", tmp_path / "my.bundle"
    with Bundle(MODEL) as released:  # and with another manifest, for what was released is told from others
        zip_files(
            {**{n: released.read(n) for n in released.manifest.files}, MANIFEST: released.manifest_bytes + b"\n"},
            bundle,
        )
    code, said = run("keys", "new", "lab", "-o", tmp_path)
    assert code == 0
    key_id = said.split("Key ")[1].split(",")[0]
    assert "is not signed; sign it with" in run("verify", bundle, "--trust", store)[1]
    assert run("sign", bundle, "--key", tmp_path / "lab.key")[0] == 0
    assert f"key {key_id}, which is not trusted here" in run("verify", bundle, "--trust", store)[1]
    assert "Fingerprint" in run("keys", "trust", tmp_path / "lab.pub", "--trust", store)[1]
    code, said = run("verify", bundle, "--trust", store)
    assert code == 0
    assert f"is as lab ({key_id}) signed it, " in said
    assert key_id in run("keys", "list", "--trust", store)[1]
    assert run("keys", "rotate", tmp_path / "lab.key", "next", "-o", tmp_path)[0] == 0
    assert run("keys", "trust", tmp_path / "next.pub", "--trust", store, "--endorsed")[0] == 0
    code, said = run("keys", "revoke", key_id, "--trust", store, "--reason", "lost")
    assert code == 0
    assert '"next"' in said
    code, said = run("verify", bundle, "--trust", store)
    assert code == 1
    assert "revoked (lost)" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["keys", "new", "../lab"], "cannot name a key"),
        (["keys", "trust", "{model}", "--trust", "{tmp}"], "is no public key"),
        (["keys", "trust", "{tmp}/none.pub", "--trust", "{tmp}"], "check its name"),
        (["keys", "revoke", "lab", "--trust", "{tmp}"], "is no key id"),
        (["sign", "{model}", "--key", "{model}"], "is no private key"),
        (["sign", "{tmp}/none", "--key", "{tmp}/none.key"], "check its name"),
        (["verify", "{tmp}/none", "--trust", "{tmp}"], "does not exist"),
    ],
)
def test_bad_input_gets_one_sentence(run: Run, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    code, said = run(*(one.format(tmp=tmp_path, model=MODEL) for one in arguments))
    assert code in {1, 2}
    assert sentence in said
    assert said.count("\n") == 1


def test_revoking_in_a_folder_that_is_not_there_makes_none(tmp_path: Path, keys: tuple[object, PublicKey]) -> None:
    with pytest.raises(UsageError, match=r"trsut does not exist; give the folder of keys"):
        revoke(tmp_path / "trsut", keys[1].id, "lost")
    assert not (tmp_path / "trsut").exists()


def test_two_revocations_at_once_both_count(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = store.write_text

    def slowly(path: Path, text: str) -> None:
        sleep(0.2)
        write_text(path, text)

    monkeypatch.setattr(store, "write_text", slowly)
    ids = ("0" * 16, "1" * 16)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(revoke, trusted, key_id, "lost") for key_id in ids]:
            done.result()
    assert TrustStore.read(trusted).revoked.keys() == set(ids)
    assert sorted(path.name for path in trusted.iterdir()) == ["lab.pub", "revoked.json"]


def test_the_advice_for_a_damaged_list_of_revoked_keys_can_be_followed(
    run: Run, trusted: Path, signed: Path, keys: tuple[Ed25519PrivateKey, PublicKey]
) -> None:
    revoke(trusted, keys[1].id, "lost")
    damaged = trusted / "revoked.json"
    damaged.write_text("{")
    for command in (("verify", signed), ("keys", "revoke", "0" * 16), ("keys", "list")):
        code, said = run(*command, "--trust", trusted)
        assert code == 1
        assert "is damaged, so no key can be trusted; restore it from a backup" in said
        assert "move it out of the folder and revoke every key again" in said
    assert damaged.read_text() == "{"
    damaged.rename(trusted.parent / "set aside")
    assert run("keys", "revoke", keys[1].id, "--trust", trusted)[0] == 0
    assert why_not(signed, trusted) == "revoked"


def past_its_end(folder: Path) -> Path:
    private, path, public = new_key("old", folder, days=1)
    write_public_key(path, public.model_copy(update={"not_after": public.made_at - timedelta(days=30)}))
    return private


def test_a_key_past_its_end_signs_nothing_and_vouches_for_nobody(run: Run, tmp_path: Path) -> None:
    private = past_its_end(tmp_path)
    bundle = shutil.copy(MODEL, tmp_path / "my.bundle")
    before = bundle.read_bytes()
    for command in (("sign", bundle, "--key", private), ("keys", "rotate", private, "next", "-o", tmp_path)):
        code, said = run(*command)
        assert code == 2
        assert "the use of this key ended on" in said
        assert "bloodedge keys new" in said
        assert said.count("\n") == 1
    assert bundle.read_bytes() == before
    assert not (tmp_path / "next.key").exists()


@pytest.mark.parametrize("beside", ["nothing", "another key's"])
def test_an_end_of_use_that_cannot_be_known_is_told_and_the_bundle_signed(
    run: Run, tmp_path: Path, beside: str
) -> None:
    private = past_its_end(tmp_path)
    (tmp_path / "old.pub").unlink()
    if beside == "another key's":
        new_key("other", tmp_path)[1].rename(tmp_path / "old.pub")
    bundle = shutil.copy(MODEL, tmp_path / "my.bundle")
    code, said = run("sign", bundle, "--key", private)
    assert code == 0
    assert "Whether the key's use has ended is not known" in said
    assert "is signed with key" in said


def test_a_key_in_use_signs_without_a_word_more(run: Run, tmp_path: Path) -> None:
    private, _, public = new_key("lab", tmp_path, days=30)
    bundle = shutil.copy(MODEL, tmp_path / "my.bundle")
    assert run("sign", bundle, "--key", private) == (0, f"{bundle} is signed with key {public.id}.\n")


def test_a_public_key_in_a_private_one_s_place_is_told_in_a_sentence_that_can_be_read(run: Run, tmp_path: Path) -> None:
    _, public, _ = new_key("LAB", tmp_path)
    code, said = run("sign", MODEL, "--key", public)
    assert code == 2
    assert said == f"bloodedge: {public} is no private key; give the .key file that bloodedge keys new made.\n"


def test_verify_and_list_know_the_folder_of_keys_that_a_board_trusts(
    signed: Path, keys: tuple[Ed25519PrivateKey, PublicKey], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, said = run("verify", signed)
    assert (code, "not trusted here" in said) == (1, True)
    trust(tmp_path / "bloodedge" / "trust", keys[1])
    code, said = run("verify", signed)
    assert (code, "lab" in said) == (0, True)
    assert keys[1].id in run("keys", "list")[1]
    monkeypatch.setenv("BLOODEDGE_DEVICE__TRUST__KEYS", str(tmp_path / "others"))
    assert run("verify", signed)[0] == 1
    assert f"No key is trusted in {tmp_path / 'others'}" in run("keys", "list")[1]


def test_a_released_bundle_is_called_so_and_a_changed_copy_is_not(run: Run, tmp_path: Path) -> None:
    copy = shutil.copy(MODEL, tmp_path / "mine.bundle")
    for path in (MODEL, copy):
        code, said = run("verify", path)
        assert (code, "is as it was released with this installation" in said) == (0, True)
    with zipfile.ZipFile(MODEL) as archive:
        archive.extractall(tmp_path / "changed")
    (tmp_path / "changed" / "MODEL_CARD.md").write_text("It is perfect.")
    code, said = run("verify", tmp_path / "changed")
    assert (code, "its SHA-256 is not the manifest's" in said) == (1, True)
    text = (tmp_path / "changed" / MANIFEST).read_text()
    (tmp_path / "changed" / MANIFEST).write_text(text + "\n")
    code, said = run("verify", tmp_path / "changed")
    assert (code, "as it was released" in said) == (1, False)


def test_a_signed_copy_takes_the_place_of_no_key(tmp_path: Path, run: Run) -> None:
    assert run("keys", "new", "lab", "-o", tmp_path)[0] == 0
    before = (tmp_path / "lab.key").read_bytes()
    code, said = run("sign", MODEL, "--key", tmp_path / "lab.key", "-o", tmp_path / "lab.key")
    assert (code, "lab.key exists and is no bundle" in said) == (2, True)
    assert (tmp_path / "lab.key").read_bytes() == before
    for _ in range(2):  # a signed copy of before is replaced
        assert run("sign", MODEL, "--key", tmp_path / "lab.key", "-o", tmp_path / "my.bundle")[0] == 0


def test_a_pipe_or_a_device_among_the_trusted_keys_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pub")
    with pytest.raises(BloodedgeError, match=r"x\.pub is no regular file"):
        TrustStore.read(tmp_path)
    (tmp_path / "x.pub").unlink()
    (tmp_path / "revoked.json").symlink_to("/dev/zero")
    with pytest.raises(BloodedgeError, match=r"revoked\.json is no regular file"):
        TrustStore.read(tmp_path)
