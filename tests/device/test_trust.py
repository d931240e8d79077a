"""The daemon runs what a trusted key signed, and what came with the installation; nothing else unless told to."""

import shutil
import sqlite3
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from bloodedge.bundle import MANIFEST, zip_files
from bloodedge.cli import main
from bloodedge.errors import BloodedgeError
from bloodedge.signing.keys import PublicKey, new_key, read_private_key
from bloodedge.signing.signature import Untrusted, sign_bundle
from bloodedge.signing.trust import revoke, trust
from bloodedge_device.bundles.loading import load
from bloodedge_device.daemon.loop import run_device
from bloodedge_device.settings import DeviceSettings, read_settings
from bloodedge_device.settings.sections import TrustSettings, WebSettings
from bloodedge_device.store import DATABASE

RELEASED = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"


@dataclass
class Board:
    """A board with the released network's copy, which nobody signed, and the same signed by a laboratory."""

    state: Path
    unsigned: Path
    signed: Path
    key: PublicKey

    def settings(self, bundle: Path, **trusting: object) -> DeviceSettings:
        return DeviceSettings(
            bundle=bundle,
            engine="litert",
            state=self.state,
            trust=TrustSettings.model_validate(trusting),
            web=WebSettings(enabled=False),
        )

    def refusal(self, bundle: Path) -> str:
        with pytest.raises(BloodedgeError) as refused:
            load(self.settings(bundle))
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture
def board(tmp_path: Path, state: Path) -> Board:
    private, _, public = new_key("lab", tmp_path / "keys")
    unsigned, signed = tmp_path / "unsigned.bundle", tmp_path / "signed.bundle"
    shutil.copy(RELEASED, unsigned)
    sign_bundle(unsigned, read_private_key(private), signed)
    trust(state / "trust", public)
    return Board(state, unsigned, signed, public)


def test_what_a_trusted_key_signed_runs_and_the_audit_log_says_who(board: Board) -> None:
    run_device(board.settings(board.signed), frames=2)
    with closing(sqlite3.connect(board.state / DATABASE)) as database:
        (detail,) = database.execute("SELECT detail FROM audit WHERE action = 'run began'").fetchone()
    assert f"lab ({board.key.id})" in detail


def test_an_unsigned_bundle_is_refused_and_the_way_out_named(board: Board) -> None:
    said = board.refusal(board.unsigned)
    assert "is not signed; sign it with: bloodedge sign" in said
    assert str(board.state / "trust") in said
    assert str(board.unsigned) in said
    assert "[trust] unsigned = true" in said


def test_a_bundle_signed_by_somebody_else_is_refused(board: Board) -> None:
    (board.state / "trust" / "lab.pub").unlink()
    assert "which is not trusted here" in board.refusal(board.signed)


def test_revoking_ends_what_a_key_signed_and_no_way_out_is_named(board: Board) -> None:
    revoke(board.state / "trust", board.key.id, "lost")
    said = board.refusal(board.signed)
    assert "was revoked (lost)" in said
    assert "unsigned = true" not in said


def test_a_signed_bundle_whose_manifest_was_changed_is_refused(board: Board) -> None:
    with zipfile.ZipFile(board.signed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files[MANIFEST] += b"\n"
    zip_files(files, board.signed)
    with pytest.raises(Untrusted) as refused:
        load(board.settings(board.signed))
    assert refused.value.reason == "changed"


def test_the_settings_may_let_anybody_make_bundles(board: Board) -> None:
    assert load(board.settings(board.unsigned, unsigned=True)).signer is None


def test_damage_is_found_also_where_nobody_asks_for_a_signature(board: Board) -> None:
    with zipfile.ZipFile(board.unsigned) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["MODEL_CARD.md"] += b"more"
    zip_files(files, board.unsigned)
    with pytest.raises(BloodedgeError, match="changed after conversion"):
        load(board.settings(board.unsigned, unsigned=True))


@pytest.mark.parametrize("linked", [False, True])
def test_released_bundles_need_no_signature(board: Board, tmp_path: Path, linked: bool) -> None:
    link = tmp_path / "link.bundle"
    link.symlink_to(RELEASED)
    assert load(board.settings(link if linked else RELEASED)).signer is None


def test_trusted_keys_lie_in_the_state_folder_or_beside_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text('state = "results"\n')
    assert read_settings(file).trusted_keys == tmp_path / "results" / "trust"
    file.write_text('state = "results"\n[trust]\nkeys = "keys"\n')
    assert read_settings(file).trusted_keys == tmp_path / "keys"


def test_the_command_ends_with_one_sentence(board: Board, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["device", "run", "--bundle", str(board.unsigned), "--state", str(board.state), "--no-page"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "is not signed" in said
    assert "Traceback" not in said


def test_a_path_is_told_as_it_was_given(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    board.state.mkdir(exist_ok=True)
    monkeypatch.chdir(board.state)
    assert board.refusal(Path("../unsigned.bundle")).startswith("../unsigned.bundle is not signed")
