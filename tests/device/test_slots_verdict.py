"""What says nothing of a bundle costs it nothing: keys or a file that cannot be read now, and may be again tomorrow."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError
from bloodedge.files import sha256
from bloodedge.signing.trust import revoke
from bloodedge_device.bundles import loading
from bloodedge_device.bundles import slot_record as slots_record
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.slot_record import Record, read_record, slot_file
from bloodedge_device.bundles.start import counted_start
from bloodedge_device.bundles.switch import roll_back
from bloodedge_device.daemon.loop import run_device
from bloodedge_device.daemon.slot_watch import SlotWatch
from bloodedge_device.health import Level
from support.slot_bundles import HURRIED, Laboratory, proven, tried


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


def served(lab: Laboratory) -> int | None:
    """The serial of the slot's bundle with which a daemon starts; None for the shipped one."""
    with counted_start(lab.settings()) as loaded:
        return None if loaded.slot is None else loaded.manifest.serial


def with_a_stray_file(trust: Path) -> Callable[[], None]:
    stray = trust / "notes.pub"
    stray.write_text("ssh-ed25519 AAAA me@lab\n")
    return stray.unlink


def without_the_folder(trust: Path) -> Callable[[], None]:
    away = trust.rename(trust.with_name("away"))

    def put_back() -> None:
        away.rename(trust)

    return put_back


def with_a_damaged_list(trust: Path) -> Callable[[], None]:
    revoked = trust / "revoked.json"
    revoked.write_text("{")
    return revoked.unlink


FAULTS = [with_a_stray_file, without_the_folder, with_a_damaged_list]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_trusted_keys_costs_no_bundle_its_slot(
    lab: Laboratory, fault: Callable[[Path], Callable[[], None]], caplog: pytest.LogCaptureFixture
) -> None:
    proven(lab, 1)
    install(lab.settings(), lab.bundle(2), trial=tried)
    before = read_record(lab.state)
    put_right = fault(lab.state / "trust")
    for _ in range(6):  # more than a bundle on probation may crash at
        assert served(lab) is None
    assert read_record(lab.state) == before
    assert "lymph 2 does not run until this is put right: " in caplog.text
    put_right()
    assert served(lab) == 2


def test_a_file_that_cannot_be_read_for_once_costs_no_bundle_its_slot(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    before = proven(lab, 2)

    def fails(path: Path) -> str:
        if path == slot_file(lab.state, "b"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return sha256(path)

    with monkeypatch.context() as broken:
        broken.setattr(loading, "sha256", fails)
        assert served(lab) is None
    assert read_record(lab.state) == before
    assert served(lab) == 2


def test_a_full_disk_costs_a_bundle_on_probation_nothing(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    install(lab.settings(), lab.bundle(1), trial=tried)
    before = read_record(lab.state)

    def full(*_: object) -> None:
        raise BloodedgeError("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(slots_record, "write_record", full)
        assert served(lab) is None
    assert read_record(lab.state) == before
    assert served(lab) == 1


def test_settings_that_let_nobody_s_bundle_run_any_more_cost_it_nothing(lab: Laboratory) -> None:
    install(lab.settings(trust={"unsigned": True}), lab.bundle(1, signed=False), trial=tried)
    assert served(lab) is None
    with counted_start(lab.settings(trust={"unsigned": True})) as loaded:
        assert loaded.slot == "a"


def test_a_revoked_key_is_a_verdict(lab: Laboratory) -> None:
    proven(lab, 1)
    revoke(lab.state / "trust", proven(lab, 2).slots["a"].signer.partition("(")[2][:-1], "stolen")
    assert served(lab) is None
    record = read_record(lab.state)
    assert [(slot.state, "was revoked" in slot.why) for slot in record.slots.values()] == [("failed", True)] * 2


def test_a_rollback_with_a_fault_of_the_trusted_keys_leaves_the_other_bundle_good(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    with_a_stray_file(lab.state / "trust")
    record = roll_back(lab.settings())
    assert (record.active, record.slots["a"].state, record.slots["b"].state) == (None, "good", "failed")


@pytest.mark.slow
def test_a_running_daemon_takes_a_bundle_over_once_the_fault_is_put_right(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = proven(lab, 1)
    put_right = with_a_stray_file(lab.state / "trust")
    told = []
    tell = SlotWatch._report

    def heard(self: SlotWatch, record: Record) -> None:
        tell(self, record)
        told.append(self._state.health.conditions()["bundle"])
        if len(told) == 10:
            put_right()

    monkeypatch.setattr(SlotWatch, "_report", heard)
    retrying = replace(HURRIED, bundle_retry_s=0.1)
    run_device(lab.settings(camera={"kind": "simulated", "rate": 20}), frames=60, timings=retrying)
    assert {condition.level for condition in told[:10]} == {Level.WARNING}
    assert told[0].sentence.startswith("lymph 1 does not run until this is put right: ")
    assert told[-1].sentence == "lymph 1 in slot a runs."
    assert read_record(lab.state).slots == before.slots
