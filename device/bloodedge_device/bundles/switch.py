"""Switching between the slots: after an install, at the end of probation, and back from a bad bundle."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.signing.signature import Untrusted, refuse_revoked
from bloodedge.signing.trust import TrustStore
from bloodedge_device.bundles.loading import Loaded, check_slot, is_bundle_fault, verify_signer
from bloodedge_device.bundles.slot_record import (
    SHIPPED,
    Event,
    Record,
    Slot,
    SlotName,
    TemporaryError,
    change,
    install_lock,
    read_record,
    slot_file,
)
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import open_for_reading

log = logging.getLogger("bloodedge.device")

MOST_STARTS = 3
"""A bundle on probation is bad after so many crashed starts."""
MOST_STARTS_IN_A_ROW = 5
"""A good bundle is bad after so many starts in a row that crashed within a minute."""

BY_HAND = "rolled back by hand"


def switched(record: Record, name: SlotName, slot: Slot) -> Record:
    """The record with ``slot``, whose file is in place, active; one whose file was only put back keeps its state."""
    before = record.running
    if name == record.active and before is not None and before.sha256 == slot.sha256:
        slot = before
    after = record.model_copy(update={"active": name, "slots": {**record.slots, name: slot}})
    return after.with_event("installed", slot.title, name)


def last_run(state: Path) -> int:
    """Id of the latest run in the database; 0 where there is none or it cannot be read."""
    try:
        with open_for_reading(state) as database:
            return int(database.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()[0])
    except BloodedgeError:
        return 0


def count_start(state: Path) -> None:
    """Count a start of the active bundle, before it is loaded: a crash in native code counts too.

    On a full disk a good bundle's start is not counted; raises TemporaryError for one on probation.
    """
    try:
        _change_starts(state, 1)
    except BloodedgeError as error:
        slot = read_record(state).running
        if slot is None or slot.state == "on probation":
            raise TemporaryError(str(error), error.exit_code) from error


def uncount_start(state: Path) -> None:
    """Take the latest start back: it says nothing about the bundle."""
    with suppress(BloodedgeError):  # on a full disk the start counts
        _change_starts(state, -1)


def reset_starts(state: Path) -> None:
    """Forget the crashed starts of the active bundle."""
    _change_active(state, lambda record, name, _: record.changed(name, starts=0))


def _change_starts(state: Path, by: int) -> None:
    _change_active(state, lambda record, name, slot: record.changed(name, starts=max(0, slot.starts + by)))


def record_kept(state: Path, why: str) -> None:
    """Add to the history that the active bundle runs on although it is at fault."""
    _change_active(state, lambda record, name, slot: record.with_event("kept", slot.title, name, why))


def save_health(state: Path, digest: str, healthy_s: float) -> None:
    """Save how many seconds the bundle with this SHA-256 has run in good health on probation."""
    _change_active(state, lambda record, name, _: record.changed(name, healthy_s=healthy_s), digest, probation=True)


def mark_good(state: Path, digest: str) -> Record:
    """Mark the active bundle good, if it has this SHA-256 and is on probation."""

    def good(record: Record, name: SlotName, slot: Slot) -> Record:
        highest = {**record.highest, slot.name: max(slot.serial, record.highest.get(slot.name, 0))}
        after = record.changed(name, state="good", starts=0).model_copy(update={"highest": highest})
        return after.with_event("good", slot.title, name)

    return _change_active(state, good, digest, probation=True)


def mark_bad(state: Path, digest: str, why: str) -> Record:
    """Mark the active bundle failed, if it has this SHA-256, and go back to the other slot's, else to the shipped one.

    Goes back to a slot only if its bundle was good and its file is unchanged.
    """

    def bad(record: Record, name: SlotName, slot: Slot) -> Record:
        target = _good(state, record)
        to = SHIPPED if target is None else record.slots[target].title
        after = record.changed(name, state="failed", why=why, starts=0)
        return after.model_copy(update={"active": target}).with_event("went back", to, target, f"{slot.title}: {why}")

    before = read_record(state).events
    record = _change_active(state, bad, digest)
    if record.events > before:
        log.warning("%s", rollback_sentence(record.history[-1]))
    return record


def _change_active(
    state: Path, how: Callable[[Record, SlotName, Slot], Record], digest: str | None = None, *, probation: bool = False
) -> Record:
    """Change the record of the active slot; only if its SHA-256 is ``digest``, where given, and if on ``probation``."""

    def changed(record: Record) -> Record:
        slot = record.running
        if record.active is None or slot is None or digest not in {None, slot.sha256}:
            return record
        return record if probation and slot.state != "on probation" else how(record, record.active, slot)

    return change(state, changed)


def rollback_sentence(event: Event) -> str:
    """The bundle that the daemon went back to, and why."""
    return f"Went back to {event.bundle}. {event.why.rstrip('.')}."


def roll_back(settings: DeviceSettings) -> Record:
    """Go back by hand to the other slot's bundle, or to the shipped one where that cannot be trusted.

    Raises UsageError when the shipped one runs, and BloodedgeError while something is being installed.
    """
    state = settings.state

    def back(record: Record) -> Record:
        active, slot, target = record.active, record.running, _good(state, record)
        if active is None or slot is None:
            raise UsageError(f"There is nothing to go back from: {SHIPPED} runs; see: bloodedge device slots")
        if target is not None:
            record, target = _vetted(settings, record, target)
        to = SHIPPED if target is None else record.slots[target].title
        after = record.changed(active, state="failed", why=BY_HAND, starts=0)
        return after.model_copy(update={"active": target}).with_event("rolled back", to, target, f"from {slot.title}")

    with install_lock(state):
        return change(state, back)


def why_refused(settings: DeviceSettings, name: SlotName, slot: Slot) -> str:
    """Why a slot's bundle may not run; empty when its file is unchanged and a trusted key signed it."""
    try:
        _vet(settings, name, slot)
    except BloodedgeError as error:
        return str(error)
    return ""


def has_good_alternative(settings: DeviceSettings, record: Record) -> bool:
    """Whether the idle slot's bundle was good here and may run."""
    other = record.slots.get(record.idle)
    return other is not None and other.state == "good" and not why_refused(settings, record.idle, other)


def _vetted(settings: DeviceSettings, record: Record, target: SlotName) -> tuple[Record, SlotName | None]:
    """(the record, the slot to go back to); None where it may not run, which marks it failed unless that may pass."""
    try:
        _vet(settings, target, record.slots[target])
    except BloodedgeError as error:
        return (record.changed(target, state="failed", why=str(error)) if is_bundle_fault(error) else record), None
    return record, target


def _vet(settings: DeviceSettings, name: SlotName, slot: Slot) -> None:
    path = slot_file(settings.state, name)
    check_slot(path, slot)
    with Bundle(path) as bundle:
        verify_signer(settings, bundle)


def _good(state: Path, record: Record) -> SlotName | None:
    """The idle slot, if its bundle was good and its file is unchanged."""
    slot = record.slots.get(record.idle)
    if slot is None or slot.state != "good":
        return None
    try:
        check_slot(slot_file(state, record.idle), slot)
    except BloodedgeError:
        return None
    return record.idle


def check_revocation(settings: DeviceSettings, loaded: Loaded) -> None:
    """Mark the running slot's bundle bad if the key that signed it was revoked.

    Raises Untrusted for a bundle that the settings name, and BloodedgeError when the trusted keys cannot be read, which
    says nothing about the bundle.
    """
    if loaded.signer is None:
        return
    try:
        refuse_revoked(loaded.manifest.title, loaded.signer.key_id, TrustStore.read(settings.trusted_keys))
    except Untrusted as error:
        if loaded.slot is None:
            raise
        mark_bad(settings.state, loaded.sha256, str(error))
