"""A damaged record of the slots: its copy takes its place; without one, the slots and the database say what was."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_device.bundles import slot_record as slots_record
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import load
from bloodedge_device.bundles.slot_record import (
    COPY,
    DAMAGED,
    RECORD,
    Record,
    read_copy,
    read_record,
    slot_file,
    slots_folder,
)
from bloodedge_device.bundles.start import NOT_THE_LAST, repair
from bloodedge_device.bundles.switch import mark_bad, roll_back
from bloodedge_device.daemon.loop import run_device
from support.slot_bundles import NAME, Laboratory, proven, tried


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(100))


@pytest.mark.parametrize("damage", [zeroed, Path.unlink])
def test_what_was_rolled_back_by_hand_does_not_come_back(lab: Laboratory, damage: Callable[[Path], None]) -> None:
    proven(lab, 1)
    proven(lab, 2)
    before = roll_back(lab.settings())
    damage(slots_folder(lab.state) / RECORD)
    with pytest.raises(BloodedgeError, match=r"slots.json is (damaged|gone); the daemon's next start"):
        read_record(lab.state)
    said = repair(lab.settings())
    assert said.endswith("lymph 1 runs.")
    assert (DAMAGED in said) == (damage is zeroed)
    after = read_record(lab.state)
    assert (after.active, after.slots, after.highest) == (before.active, before.slots, before.highest)
    assert [event.action for event in after.history[:-1]] == [event.action for event in before.history]
    assert after.history[-1].action == "began anew"
    assert load(lab.settings()).manifest.serial == 1


def test_the_copy_is_as_the_record_after_each_change(lab: Laboratory) -> None:
    proven(lab, 1)
    assert read_copy(lab.state) == read_record(lab.state)
    install(lab.settings(), lab.bundle(2), trial=tried)
    record = roll_back(lab.settings())
    assert read_copy(lab.state) == record


def test_a_disk_without_room_for_the_copy_keeps_no_change_away(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    write_text = slots_record.write_text

    def full(path: Path, text: str) -> None:
        if path.name == COPY:
            raise BloodedgeError("The disk is full.")
        write_text(path, text)

    monkeypatch.setattr(slots_record, "write_text", full)
    proven(lab, 2)
    assert read_record(lab.state).active == "b"


def test_a_copy_that_an_older_version_left_behind_follows_at_the_next_start(lab: Laboratory) -> None:
    proven(lab, 1)
    copy = slots_folder(lab.state) / COPY
    old = copy.read_bytes()
    proven(lab, 2)
    copy.write_bytes(old)
    run_device(lab.settings(), frames=1)
    assert read_record(lab.state).active == "b"
    assert read_copy(lab.state) == read_record(lab.state)
    copy.unlink()
    run_device(lab.settings(), frames=1)
    assert read_copy(lab.state) == read_record(lab.state)


def test_a_copy_that_fits_the_slots_no_longer_leads_to_the_bundle_before_or_the_shipped_one(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    slot_file(lab.state, "b").write_bytes(lab.bundle(3).read_bytes())
    zeroed(slots_folder(lab.state) / RECORD)
    run_device(lab.settings(), frames=1)
    assert read_record(lab.state).active == "a"


def lost(lab: Laboratory) -> Record:
    """The record as it is begun anew where its copy is damaged too."""
    for name in (RECORD, COPY):
        zeroed(slots_folder(lab.state) / name)
    repair(lab.settings())
    return read_record(lab.state)


def test_without_a_copy_what_ran_last_runs_and_a_newer_one_that_did_not_counts_as_failed(lab: Laboratory) -> None:
    proven(lab, 1)
    run_device(lab.settings(), frames=1)
    proven(lab, 2)
    roll_back(lab.settings())
    record = lost(lab)
    assert (record.active, record.slots["a"].state) == ("a", "on probation")
    assert (record.slots["b"].state, record.slots["b"].why) == ("failed", NOT_THE_LAST)


def test_without_a_copy_the_shipped_bundle_runs_on_where_it_ran_last(lab: Laboratory) -> None:
    done = install(lab.settings(), lab.bundle(1), trial=tried)
    mark_bad(lab.state, done.what.sha256, "it crashed")
    run_device(lab.settings(), frames=1)
    record = lost(lab)
    assert (record.active, record.slots["a"].state) == (None, "failed")


def test_without_a_copy_every_serial_that_is_found_counts_as_the_highest(lab: Laboratory) -> None:
    proven(lab, 9)
    assert lost(lab).highest == {NAME: 9}
    roll_back(lab.settings())
    with pytest.raises(BloodedgeError, match=f"{NAME} 3, older than {NAME} 9"):
        install(lab.settings(), lab.bundle(3), trial=tried)
