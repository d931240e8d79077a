"""Repair of a damaged record: from its copy, and where that is damaged too, from the slots' files."""

from pathlib import Path

from bloodedge.errors import BloodedgeError
from bloodedge.files import write_bytes
from bloodedge_device.bundles.loading import slot_of_file
from bloodedge_device.bundles.slot_record import (
    DAMAGED,
    RECORD,
    SHIPPED,
    SLOTS,
    DamagedRecordError,
    Record,
    Slot,
    SlotName,
    keep_copy,
    read_copy,
    read_record,
    record_lock,
    slot_file,
    slots_folder,
    write_record,
)
from bloodedge_device.bundles.switch import last_run
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import open_for_reading

NOT_THE_LAST = "the record of the slots was lost, and this is not what ran last"


def repair(settings: DeviceSettings) -> str:
    """Replace a damaged record by its copy, or make it again; returns a sentence, empty where nothing was damaged."""
    state = settings.state
    with record_lock(state):
        try:
            keep_copy(state, read_record(state))
        except DamagedRecordError as error:
            why = str(error).partition(";")[0]
        else:
            return ""
        if _set_aside(slots_folder(state)):
            why += f" and was set aside as {DAMAGED}"
        record = read_copy(state) or _anew(settings)
        runs = SHIPPED if record.running is None else record.running.title
        write_record(state, record.with_event("began anew", runs, record.active, why))
    return f"{why}: {runs} runs."


def _set_aside(folder: Path) -> bool:
    """Copy the damaged record; False where there is none. It stays in place until the new one is written."""
    try:
        data = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        return False
    write_bytes(folder / DAMAGED, data)
    return True


def _anew(settings: DeviceSettings) -> Record:
    """A record from the slots' files and the database: what ran last becomes active, on probation.

    An older bundle than that counts as good. Where nothing ever ran, the newest becomes active.
    """
    found = {name: slot for name in SLOTS if (slot := _found(settings, name)) is not None}
    active = _ran_last(settings.state, found)
    running = None if active is None else found[active]
    slots = {name: slot if name == active else _idle(slot, running) for name, slot in found.items()}
    highest: dict[str, int] = {}
    for slot in found.values():
        highest[slot.name] = max(slot.serial, highest.get(slot.name, 0))
    return Record(active=active, slots=slots, highest=highest)


def _found(settings: DeviceSettings, name: SlotName) -> Slot | None:
    """A slot as its file alone describes it; None where it cannot be trusted."""
    try:
        slot = slot_of_file(settings, slot_file(settings.state, name))
    except (BloodedgeError, OSError):
        return None
    return slot.model_copy(update={"after_run": last_run(settings.state)})


def _ran_last(state: Path, found: dict[SlotName, Slot]) -> SlotName | None:
    """The slot of the bundle that ran last, None where it is in neither; the newest where the database has no run."""
    try:
        with open_for_reading(state) as database:
            last = database.execute("SELECT bundle_name, bundle_serial FROM runs ORDER BY id DESC LIMIT 1").fetchone()
    except BloodedgeError:
        last = None
    if last is None:
        return max(found, key=lambda name: found[name].serial, default=None)
    return next((name for name, slot in found.items() if (slot.name, slot.serial) == tuple(last)), None)


def _idle(slot: Slot, running: Slot | None) -> Slot:
    if running is not None and slot.serial < running.serial:
        return slot.model_copy(update={"state": "good"})
    return slot.model_copy(update={"state": "failed", "why": NOT_THE_LAST})
