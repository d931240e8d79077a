"""From one slot to the other: after an install, on probation, and back when a bundle proves bad."""

from contextlib import suppress
from pathlib import Path

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.bundles.loading import Unjudged, check_slot, is_verdict, vouched_for
from bloodedge_device.bundles.slot_record import (
    SHIPPED,
    Record,
    Slot,
    SlotName,
    change,
    install_lock,
    read_record,
    slot_file,
)
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import open_for_reading

MOST_STARTS = 3
"""Starts on probation that may end in no good order."""
MOST_STARTS_IN_A_ROW = 5
"""Starts of a good bundle in a row that may end within a minute."""

BY_HAND = "rolled back by hand"


def switched(record: Record, name: SlotName, slot: Slot) -> Record:
    """With a slot whose file is in place as the active one; as it was before where only its file was put back."""
    before = record.running
    if name == record.active and before is not None and before.sha256 == slot.sha256:
        slot = before
    after = record.model_copy(update={"active": name, "slots": {**record.slots, name: slot}})
    return after.noted("installed", slot.title, name)


def last_run(state: Path) -> int:
    """The latest run in the database; 0 where there is none, or none that can be read now: no bundle waits for that."""
    try:
        with open_for_reading(state) as database:
            return int(database.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()[0])
    except BloodedgeError:
        return 0


def count_start(state: Path) -> None:
    """Count a start before anything of the bundle is loaded, so that a crash in native code counts too.

    Raises Unjudged where a full disk keeps one on probation from being counted; a good bundle's then is not.
    """
    try:
        _change_starts(state, 1)
    except BloodedgeError as error:
        slot = read_record(state).running
        if slot is None or slot.state == "on probation":
            raise Unjudged(str(error), error.exit_code) from error


def take_back_start(state: Path) -> None:
    """The start that was counted last came to no verdict on the bundle."""
    with suppress(BloodedgeError):  # a full disk: the start then counts
        _change_starts(state, -1)


def _change_starts(state: Path, by: int) -> None:
    def counted(record: Record) -> Record:
        slot = record.running
        if record.active is None or slot is None:
            return record
        return record.changed(record.active, starts=max(0, slot.starts + by))

    change(state, counted)


def forget_starts(state: Path) -> None:
    """The bundle's run ended in good order, or ends the row of those that did not."""

    def forgotten(record: Record) -> Record:
        return record if record.active is None else record.changed(record.active, starts=0)

    change(state, forgotten)


def note_kept(state: Path, why: str) -> None:
    """The active bundle runs on although it crashes."""

    def kept(record: Record) -> Record:
        slot = record.running
        return record if slot is None else record.noted("kept", slot.title, record.active, why)

    change(state, kept)


def keep_health(state: Path, digest: str, healthy_s: float) -> None:
    """Note how long the bundle of this digest has run in good health on probation."""

    def kept(record: Record) -> Record:
        slot = record.running
        if record.active is None or slot is None or slot.sha256 != digest or slot.state != "on probation":
            return record
        return record.changed(record.active, healthy_s=healthy_s)

    change(state, kept)


def promote(state: Path, digest: str) -> Record:
    """The active bundle, which has this digest, has proven good."""

    def promoted(record: Record) -> Record:
        slot = record.running
        if record.active is None or slot is None or slot.sha256 != digest or slot.state != "on probation":
            return record
        highest = {**record.highest, slot.name: max(slot.serial, record.highest.get(slot.name, 0))}
        after = record.changed(record.active, state="good", starts=0).model_copy(update={"highest": highest})
        return after.noted("good", slot.title, record.active)

    return change(state, promoted)


def fall_back(state: Path, digest: str, why: str) -> Record:
    """The active bundle, if it has this digest, failed: the other slot's runs if that was good, else the shipped one.

    Only a slot whose file is as it was installed is gone back to.
    """

    def back(record: Record) -> Record:
        slot = record.running
        if record.active is None or slot is None or slot.sha256 != digest:
            return record
        target = _good(state, record)
        to = SHIPPED if target is None else record.slots[target].title
        after = record.changed(record.active, state="failed", why=why, starts=0)
        return after.model_copy(update={"active": target}).noted("went back", to, target, f"{slot.title}: {why}")

    return change(state, back)


def roll_back(settings: DeviceSettings) -> Record:
    """Go back to the other slot's bundle, or to the shipped one where there is none to trust.

    Raises UsageError when the shipped one runs, and BloodedgeError while something is being installed.
    """
    state = settings.state

    def back(record: Record) -> Record:
        active, slot, target = record.active, record.running, _good(state, record)
        if active is None or slot is None:
            raise UsageError(f"Nothing to go back from: {SHIPPED} is the one that runs; see: bloodedge device slots")
        if target is not None:
            record, target = _vetted(settings, record, target)
        to = SHIPPED if target is None else record.slots[target].title
        after = record.changed(active, state="failed", why=BY_HAND, starts=0)
        return after.model_copy(update={"active": target}).noted("rolled back", to, target, f"from {slot.title}")

    with install_lock(state):
        return change(state, back)


def why_refused(settings: DeviceSettings, name: SlotName, slot: Slot) -> str:
    """Why a slot's bundle is not to be run; empty when it is as it was installed and somebody trusted signed it."""
    try:
        _vet(settings, name, slot)
    except BloodedgeError as error:
        return str(error)
    return ""


def has_good_alternative(settings: DeviceSettings, record: Record) -> bool:
    """Whether the idle slot's bundle has proven good here and may be run."""
    other = record.slots.get(record.idle)
    return other is not None and other.state == "good" and not why_refused(settings, record.idle, other)


def _vetted(settings: DeviceSettings, record: Record, target: SlotName) -> tuple[Record, SlotName | None]:
    """(the record, the slot to go back to); None for one that is not to be run now, failed if it never is again."""
    try:
        _vet(settings, target, record.slots[target])
    except BloodedgeError as error:
        return (record.changed(target, state="failed", why=str(error)) if is_verdict(error) else record), None
    return record, target


def _vet(settings: DeviceSettings, name: SlotName, slot: Slot) -> None:
    path = slot_file(settings.state, name)
    check_slot(path, slot)
    with Bundle(path) as bundle:
        vouched_for(settings, bundle)


def _good(state: Path, record: Record) -> SlotName | None:
    """The idle slot, if what is in it was good and its file is as it was installed."""
    slot = record.slots.get(record.idle)
    if slot is None or slot.state != "good":
        return None
    try:
        check_slot(slot_file(state, record.idle), slot)
    except BloodedgeError:
        return None
    return record.idle
