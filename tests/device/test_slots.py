"""Installing a bundle: what is refused, what stays as it was, and what comes after a power cut or a damaged record."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from hostile import turn_a_bit

from bloodedge.bundle import Bundle
from bloodedge.cli import main
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import sha256
from bloodedge.signing.signature import Untrusted
from bloodedge.signing.trust import revoke
from bloodedge_device.bundles import trial
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import load
from bloodedge_device.bundles.released import released_bundle
from bloodedge_device.bundles.slot_record import (
    COPY,
    DAMAGED,
    LONGEST_HISTORY,
    RECORD,
    SHIPPED,
    Record,
    install_lock,
    read_record,
    slot_file,
    slots_folder,
)
from bloodedge_device.bundles.switch import mark_bad, mark_good, roll_back, save_health
from bloodedge_device.bundles.trial import Trial
from bloodedge_device.cli import slots
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import DATABASE
from bloodedge_device.web import client
from support.needs import needs
from support.slot_bundles import NAME, Laboratory, only_openvino, tried, wrong_outputs

FAULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "update_faults.py"


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command's exit code and what it said."""

    def command(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        code = stop.value.code
        assert isinstance(code, int)
        return code, said.out + said.err

    return command


def proven(lab: Laboratory, serial: int) -> Record:
    """Install a bundle that then proves good."""
    done = install(lab.settings(), lab.bundle(serial), trial=tried)
    return mark_good(lab.state, done.what.sha256)


def test_a_bundle_is_tried_out_and_then_runs_on_probation(lab: Laboratory) -> None:
    done = install(lab.settings(), lab.bundle(1))
    assert done.trial is not None
    assert done.trial.engine == "litert"
    assert "of 32 golden cells keep" in done.trial.golden
    assert 0 < done.trial.latency_ms < 1000
    loaded = load(lab.settings())
    assert (loaded.manifest.serial, loaded.slot) == (1, "a")
    assert loaded.signer is not None
    assert read_record(lab.state).slots["a"].state == "on probation"


def test_a_folder_is_zipped_in(lab: Laboratory, tmp_path: Path) -> None:
    shutil.unpack_archive(lab.bundle(1), tmp_path / "folder", "zip")
    install(lab.settings(), tmp_path / "folder", trial=tried)
    with Bundle(slot_file(lab.state, "a")) as bundle:
        bundle.verify()
    assert load(lab.settings()).manifest.serial == 1


def test_the_second_bundle_goes_to_the_other_slot_and_the_first_stays_whole(lab: Laboratory) -> None:
    proven(lab, 1)
    before = sha256(slot_file(lab.state, "a"))
    install(lab.settings(), lab.bundle(2), trial=tried)
    record = read_record(lab.state)
    assert (record.active, record.slots["a"].state, record.slots["b"].state) == ("b", "good", "on probation")
    assert sha256(slot_file(lab.state, "a")) == before


def test_the_same_bundle_again_is_already_active(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(1), trial=tried)
    before = read_record(lab.state)
    assert install(lab.settings(), lab.bundle(1), trial=tried).trial is None
    assert read_record(lab.state) == before


def test_an_unsigned_bundle_is_refused_and_nothing_runs_but_what_ran(lab: Laboratory) -> None:
    proven(lab, 1)
    with pytest.raises(Untrusted, match="is not signed"):
        install(lab.settings(), lab.bundle(2, signed=False), trial=tried)
    record = read_record(lab.state)
    assert record.active == "a"
    assert record.history[-1].action == "refused"
    assert not slot_file(lab.state, "b").exists()


@pytest.mark.parametrize("copied", [False, True])
def test_a_bundle_that_came_with_the_installation_needs_no_installing(
    lab: Laboratory, tmp_path: Path, copied: bool
) -> None:
    shipped = released_bundle(lab.settings())
    path = shutil.copy(shipped, tmp_path / "copy.bundle") if copied else shipped
    with pytest.raises(UsageError, match="came with the installation and needs no install") as refused:
        install(lab.settings(), path, trial=tried)
    assert str(refused.value).startswith(str(path))
    assert read_record(lab.state).active is None
    assert install(lab.settings(trust={"unsigned": True}), path, trial=tried).slot == "a"


def test_a_refusal_names_the_file_that_was_given_and_not_its_copy(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, unsigned = lab.bundle(1), lab.bundle(2, signed=False)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda _source, target: copyfile(unsigned, target))
    with pytest.raises(Untrusted) as refused:
        install(lab.settings(), good, trial=tried)
    assert refused.value.reason == "unsigned"
    assert str(refused.value).startswith(f"{good} is not signed; sign it with: bloodedge sign {good} ")
    assert "partial" not in str(refused.value)


def test_a_bundle_exchanged_while_it_is_copied_is_refused(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    good, unsigned = lab.bundle(1), lab.bundle(2, signed=False)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda _source, target: copyfile(unsigned, target))
    with pytest.raises(Untrusted):
        install(lab.settings(), good, trial=tried)
    assert read_record(lab.state).active is None


def test_a_bundle_exchanged_for_an_older_one_while_it_is_copied_is_refused(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 5)
    newer, older = lab.bundle(6), lab.bundle(2)
    copyfile = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda _source, target: copyfile(older, target))
    with pytest.raises(BloodedgeError, match=f"{NAME} 2, older than {NAME} 5"):
        install(lab.settings(), newer, trial=tried)
    assert read_record(lab.state).slots.keys() == {"a"}


def test_the_bundle_that_came_to_run_during_a_trial_is_not_overwritten(lab: Laboratory) -> None:
    proven(lab, 1)
    second = proven(lab, 2).slots["b"]
    before = sha256(slot_file(lab.state, "a"))

    def falls_back(settings: DeviceSettings, path: Path) -> Trial:
        mark_bad(lab.state, second.sha256, "it crashed within a minute in 5 starts in a row")
        return tried(settings, path)

    with pytest.raises(BloodedgeError, match=f"{NAME} 1 took over during the trial of .*3.bundle.*install it again"):
        install(lab.settings(), lab.bundle(3), trial=falls_back)
    record = read_record(lab.state)
    assert (record.active, record.slots["a"].serial, record.slots["a"].state) == ("a", 1, "good")
    assert sha256(slot_file(lab.state, "a")) == before
    assert install(lab.settings(), lab.bundle(3), trial=tried).slot == "b"


def test_a_good_bundle_whose_file_was_damaged_is_put_back_where_it_was(
    lab: Laboratory, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__ENGINE", "litert")
    proven(lab, 1)
    before = proven(lab, 2).slots
    turn_a_bit(slot_file(lab.state, "b"))
    code, said = run("device", "install", lab.bundle(2), "--state", lab.state)
    assert code == 0
    assert "lymph 2 is in slot b, good." in said
    assert load(lab.settings()).manifest.serial == 2
    record = read_record(lab.state)
    assert (record.active, record.slots) == ("b", before)


def test_a_newer_bundle_takes_the_place_of_a_damaged_one_and_not_of_the_last_good_one(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    slot_file(lab.state, "b").unlink()
    done = install(lab.settings(), lab.bundle(3), trial=tried)
    assert (done.slot, done.what.state) == ("b", "on probation")
    record = mark_bad(lab.state, done.what.sha256, "it crashed")
    assert record.active == "a"
    assert load(lab.settings()).manifest.serial == 1


def test_a_damaged_bundle_on_probation_can_be_put_back(lab: Laboratory) -> None:
    proven(lab, 1)
    done = install(lab.settings(), lab.bundle(2), trial=tried)
    save_health(lab.state, done.what.sha256, 600.0)
    turn_a_bit(slot_file(lab.state, "b"))
    assert install(lab.settings(), lab.bundle(2), trial=tried).what.healthy_s == 600.0
    assert load(lab.settings()).manifest.serial == 2


def test_the_same_bundle_again_is_refused_once_its_key_was_revoked(lab: Laboratory) -> None:
    revoke(lab.state / "trust", proven(lab, 1).slots["a"].signer.partition("(")[2][:-1], "stolen")
    with pytest.raises(Untrusted, match="was revoked"):
        install(lab.settings(), lab.bundle(1), trial=tried)


def test_an_older_serial_than_one_that_was_good_needs_a_word(lab: Laboratory) -> None:
    proven(lab, 5)
    with pytest.raises(BloodedgeError, match=f"{NAME} 4, older than {NAME} 5.*--allow-older"):
        install(lab.settings(), lab.bundle(4), trial=tried)
    assert install(lab.settings(), lab.bundle(4), allow_older=True, trial=tried).what.serial == 4


def test_a_serial_that_never_proved_good_stands_in_nobodys_way(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(9), trial=tried)
    roll_back(lab.settings())
    assert install(lab.settings(), lab.bundle(4), trial=tried).what.serial == 4


def test_a_bundle_for_another_engine_is_refused(lab: Laboratory) -> None:
    with pytest.raises(UsageError, match=r"has no litert int8 model; it has: .*; set engine and precision in the sett"):
        install(lab.settings(), lab.bundle(1, only_openvino), trial=tried)


def test_a_failed_self_test_is_told_and_leaves_the_slot_as_it_was(lab: Laboratory) -> None:
    proven(lab, 1)
    with pytest.raises(BloodedgeError, match="failed its self-test on this machine"):
        install(lab.settings(), lab.bundle(2, wrong_outputs))
    assert load(lab.settings()).manifest.serial == 1
    assert sorted(path.name for path in slots_folder(lab.state).glob("*.bundle")) == ["a.bundle"]


@pytest.mark.parametrize(
    ("limit", "said"),
    [({"most_latency_ms": 0.0001}, "longer than the 0.0001 ms"), ({"most_memory_mb": 32}, "more than the 32 MB")],
)
def test_a_network_too_slow_or_too_large_for_the_board_is_refused(
    lab: Laboratory, limit: dict[str, float], said: str
) -> None:
    with pytest.raises(BloodedgeError, match=said):
        install(lab.settings(update=limit), lab.bundle(1))


def test_a_network_that_kills_its_process_is_a_sentence(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial.sys, "executable", "/bin/false")
    with pytest.raises(BloodedgeError, match=r"The trial of the bundle ended with 1"):
        install(lab.settings(), lab.bundle(1))


def test_a_full_disk_is_told_before_anything_is_copied(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**20))
    with pytest.raises(BloodedgeError, match=r"1\d MB too little free space"):
        install(lab.settings(), lab.bundle(1), trial=tried)


def test_the_one_good_bundle_is_not_overwritten_while_another_is_on_probation(lab: Laboratory) -> None:
    proven(lab, 1)
    install(lab.settings(), lab.bundle(2), trial=tried)
    with pytest.raises(BloodedgeError, match=r"on probation.*device rollback"):
        install(lab.settings(), lab.bundle(3), trial=tried)


def test_a_damaged_database_does_not_keep_a_bundle_away(lab: Laboratory) -> None:
    (lab.state / DATABASE).write_bytes(b"damaged")
    install(lab.settings(), lab.bundle(1), trial=tried)
    assert load(lab.settings()).manifest.serial == 1


def test_two_installs_at_once_are_refused(lab: Laboratory) -> None:
    with install_lock(lab.state), pytest.raises(BloodedgeError, match="Another bundle is being installed"):
        install(lab.settings(), lab.bundle(1), trial=tried)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_root_does_not_write_into_another_users_slots(lab: Laboratory) -> None:
    os.chown(lab.state, 65534, 65534)
    with pytest.raises(UsageError, match=r"belongs to nobody.*sudo -u nobody"):
        install(lab.settings(), lab.bundle(1), trial=tried)
    assert not slots_folder(lab.state).exists()


def test_what_a_cut_off_install_left_is_swept(lab: Laboratory) -> None:
    slots_folder(lab.state).mkdir(parents=True)
    (slots_folder(lab.state) / ".b.123.partial.bundle").write_bytes(b"half")
    install(lab.settings(), lab.bundle(1), trial=tried)
    assert not list(slots_folder(lab.state).glob(".*"))


def test_a_bundle_that_fails_gives_way_to_the_good_one_and_that_to_the_shipped_one(lab: Laboratory) -> None:
    proven(lab, 1)
    done = install(lab.settings(), lab.bundle(2), trial=tried)
    record = mark_bad(lab.state, done.what.sha256, "it crashed")
    assert (record.active, record.slots["b"].state, record.slots["b"].why) == ("a", "failed", "it crashed")
    record = mark_bad(lab.state, record.slots["a"].sha256, "it broke")
    assert record.active is None
    assert record.history[-1].bundle == SHIPPED
    assert load(lab.settings()).slot is None


def test_nobody_goes_back_to_a_slot_whose_file_was_changed(lab: Laboratory) -> None:
    proven(lab, 1)
    done = install(lab.settings(), lab.bundle(2), trial=tried)
    shutil.copy(lab.bundle(3), slot_file(lab.state, "a"))
    assert mark_bad(lab.state, done.what.sha256, "it crashed").active is None


def test_a_verdict_on_a_bundle_that_no_longer_runs_changes_nothing(lab: Laboratory) -> None:
    first = proven(lab, 1).slots["a"]
    install(lab.settings(), lab.bundle(2), trial=tried)
    before = read_record(lab.state)
    assert mark_bad(lab.state, first.sha256, "late") == mark_good(lab.state, first.sha256) == before


def test_a_slot_exchanged_for_another_signed_bundle_does_not_load(lab: Laboratory) -> None:
    proven(lab, 2)
    shutil.copy(lab.bundle(1), slot_file(lab.state, "a"))
    with pytest.raises(BloodedgeError, match="was changed after lymph 2 was installed"):
        load(lab.settings())


def test_roll_back_leads_to_the_other_slot_and_then_to_the_shipped_bundle(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    assert roll_back(lab.settings()).active == "a"
    assert roll_back(lab.settings()).active is None
    with pytest.raises(UsageError, match="nothing to go back from"):
        roll_back(lab.settings())
    assert load(lab.settings()).manifest.name == "simulated"


def test_roll_back_does_not_lead_to_what_a_revoked_key_signed(lab: Laboratory) -> None:
    proven(lab, 1)
    record = proven(lab, 2)
    revoke(lab.state / "trust", record.slots["a"].signer.partition("(")[2][:-1], "stolen")
    record = roll_back(lab.settings())
    assert record.active is None
    assert "was revoked" in record.slots["a"].why


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"active": "c"}', b'{"schema_version": 1, "active": "b"}', b"\xff\x00"]
)
def test_a_damaged_record_is_set_aside_and_begun_anew_from_the_slots(lab: Laboratory, damage: bytes) -> None:
    proven(lab, 1)
    proven(lab, 2)
    for name in (RECORD, COPY):
        (slots_folder(lab.state) / name).write_bytes(damage)
    with pytest.raises(BloodedgeError, match=r"is damaged|does not describe"):
        load(lab.settings())
    assert install(lab.settings(), lab.bundle(2), trial=tried).trial is None
    record = read_record(lab.state)
    assert (record.active, record.slots["b"].state, record.slots["a"].state) == ("b", "on probation", "good")
    assert record.history[0].action == "began anew"
    assert (slots_folder(lab.state) / DAMAGED).read_bytes() == damage
    assert load(lab.settings()).manifest.serial == 2


def test_only_slots_that_somebody_trusted_signed_are_taken_into_a_new_record(lab: Laboratory) -> None:
    proven(lab, 1)
    shutil.copy(lab.bundle(9, signed=False), slot_file(lab.state, "b"))
    for name in (RECORD, COPY):
        (slots_folder(lab.state) / name).write_text("{")
    install(lab.settings(), lab.bundle(1), trial=tried)
    assert set(read_record(lab.state).slots) == {"a"}


def test_the_history_keeps_the_latest_events() -> None:
    record = Record()
    for number in range(LONGEST_HISTORY + 20):
        record = record.with_event("refused", f"{NAME} {number}")
    assert len(record.history) == LONGEST_HISTORY
    assert record.history[-1].number == record.events == LONGEST_HISTORY + 20


def test_without_a_slot_the_shipped_bundle_runs_and_a_named_one_stands_before_the_slots(lab: Laboratory) -> None:
    settings = lab.settings()
    assert load(settings).manifest.name == "simulated"
    install(settings, lab.bundle(1), trial=tried)
    assert load(lab.settings(bundle=released_bundle(settings))).slot is None


def test_the_commands_tell_what_is_and_what_was(
    lab: Laboratory, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    config = tmp_path / "device.toml"
    config.write_text('state = "state"\nengine = "litert"\n')
    code, said = run("device", "install", lab.bundle(1), "--config", config)
    assert code == 0
    assert "lymph 1 is in slot a, on probation for 30 minutes" in said
    assert "No daemon is running; it will run at the next start." in said
    code, said = run("device", "install", lab.bundle(1), "--config", config)
    assert code == 0
    assert "lymph 1 is already active, in slot a." in said
    code, said = run("device", "slots", "--state", lab.state)
    assert "on probation" in said
    assert "installed: lymph 1 (slot a)" in said
    code, said = run("device", "slots", "--state", lab.state, "--json", "-")
    assert json.loads(said)["active"] == "a"
    code, said = run("device", "rollback", "--config", config)
    assert "Rolled back to the bundle that came with the installation." in said
    code, said = run("device", "rollback", "--config", config)
    assert code == 2


def test_a_settings_file_that_names_a_bundle_is_told_to_stand_first(
    lab: Laboratory, run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    config = tmp_path / "device.toml"
    config.write_text(f'state = "state"\nengine = "litert"\nbundle = "{lab.bundle(1)}"\n')
    _, said = run("device", "install", lab.bundle(2), "--config", config)
    assert "which runs instead of a slot's" in said


def test_a_refused_bundle_is_one_sentence(lab: Laboratory, run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    for bundle, code in ((lab.bundle(1, signed=False), 1), (tmp_path / "none.bundle", 2), (lab.key, 2)):
        found, said = run("device", "install", bundle, "--state", lab.state)
        assert found == code
        assert len([line for line in said.splitlines() if line.startswith("bloodedge: ")]) == 1
        assert "Traceback" not in said


def test_a_refused_bundle_may_have_any_file_s_name(lab: Laboratory) -> None:
    odd = lab.folder / os.fsdecode(b"\xff.bundle")
    lab.bundle(1, signed=False).rename(odd)
    with pytest.raises(Untrusted, match="is not signed"):
        install(lab.settings(), odd, trial=tried)
    assert "\\xff.bundle is not signed" in read_record(lab.state).history[-1].why


def test_a_bundle_that_failed_is_told_of_in_a_state_folder_of_any_name(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path, tmp_path / os.fsdecode(b"\xff"))
    done = install(lab.settings(), lab.bundle(1), trial=tried)
    mark_bad(lab.state, done.what.sha256, f"{lab.state} is odd")
    assert "\\xff is odd" in read_record(lab.state).slots["a"].why


@pytest.fixture
def starting(lab: Laboratory) -> Iterator[IO[str]]:
    """The lock of a daemon that does not answer yet; closed, the daemon has ended."""
    lab.state.mkdir(parents=True, exist_ok=True)
    with (lab.state / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


@pytest.mark.parametrize("ends", [False, True])
def test_a_daemon_that_does_not_answer_yet_is_waited_for(
    lab: Laboratory,
    run: Callable[..., tuple[int, str]],
    starting: IO[str],
    monkeypatch: pytest.MonkeyPatch,
    ends: bool,
) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__ENGINE", "litert")
    monkeypatch.setattr(slots, "LIVE_WITHIN_S", 60.0 if ends else 0.5)
    bundle = lab.bundle(1)
    if ends:
        _ended_when_asked(starting, monkeypatch)
    code, said = run("device", "install", bundle, "--state", lab.state)
    assert code == 0
    assert "lymph 1 is in slot a, on probation" in said
    assert ("No daemon is running; it will run at the next start." if ends else "has not switched to it yet") in said


def _ended_when_asked(daemon: IO[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> object:
        daemon.close()
        return ask(*arguments)

    ask: Callable[..., object] = client.ask
    monkeypatch.setattr(client, "ask", refused)


def test_the_lock_of_the_record_is_let_go(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(1), trial=tried)
    for name in ("record.lock", "install.lock"):
        with (slots_folder(lab.state) / name).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.slow
@needs("strace")
def test_a_power_cut_at_any_write_leaves_one_slot_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "faults.json"
    command = [sys.executable, str(FAULTS), "--every", "12", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(out.read_text())["kill_points"] > 15
