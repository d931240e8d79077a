"""A damaged record: its copy takes its place, and where that is damaged too, the slots are described anew."""

from pathlib import Path

from bloodedge.errors import BloodedgeError
from bloodedge.files import write_bytes
from bloodedge_device.bundles.loading import described
from bloodedge_device.bundles.slot_record import (
    DAMAGED,
    RECORD,
    SHIPPED,
    SLOTS,
    DamagedRecord,
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
    """Set a damaged record aside and go on with its copy, or begin anew; a sentence, empty where all is well."""
    state = settings.state
    with record_lock(state):
        try:
            keep_copy(state, read_record(state))
        except DamagedRecord as error:
            why = str(error).partition(";")[0]
        else:
            return ""
        if _set_aside(slots_folder(state)):
            why += f" and was set aside as {DAMAGED}"
        record = read_copy(state) or _anew(settings)
        runs = SHIPPED if record.running is None else record.running.title
        write_record(state, record.noted("began anew", runs, record.active, why))
    return f"{why}: {runs} runs."


def _set_aside(folder: Path) -> bool:
    """Copy the damaged record, which stays until the new one is whole; False where none is left."""
    try:
        data = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        return False
    write_bytes(folder / DAMAGED, data)
    return True


def _anew(settings: DeviceSettings) -> Record:
    """From the slots' files and the database: what ran last runs on, on probation.

    An older one than that counts as good. Where nothing ever ran, the newest is to run.
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
    """What is in a slot, found out from its file alone; None where it is not to be trusted."""
    try:
        slot = described(settings, slot_file(settings.state, name))
    except (BloodedgeError, OSError):
        return None
    return slot.model_copy(update={"after_run": last_run(settings.state)})


def _ran_last(state: Path, found: dict[SlotName, Slot]) -> SlotName | None:
    """The slot of what ran last, None for another bundle; of the newest where the database tells of no run."""
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
