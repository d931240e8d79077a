"""The daemon's start with what is in the slots.

A bundle that cannot run, or crashes, makes way for the one before. A damaged record is repaired from its copy, and
where that is damaged too, from the slots' files.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import require_own, write_bytes
from bloodedge_device.bundles.loading import Loaded, is_bundle_fault, load, load_file, slot_of_file
from bloodedge_device.bundles.released import released_bundle
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
from bloodedge_device.bundles.switch import (
    MOST_STARTS,
    MOST_STARTS_IN_A_ROW,
    count_start,
    has_good_alternative,
    last_run,
    mark_bad,
    record_kept,
    reset_starts,
    uncount_start,
)
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import open_for_reading

log = logging.getLogger("bloodedge.device")

NOT_THE_LAST = "the record of the slots was lost, and this is not what ran last"


@contextmanager
def counted_start(settings: DeviceSettings) -> Iterator[Loaded]:
    """The network to run; the start counts as crashed unless the block ends, or raises a BloodedgeError.

    Raises what ``load`` does where no slot's bundle can run, and UsageError where the results are another user's.
    """
    require_own(settings.state)
    if settings.bundle is not None or not slots_folder(settings.state).is_dir():
        yield load(settings)
    else:
        loaded = _load_active(settings)
        try:
            yield loaded
        except (BloodedgeError, KeyboardInterrupt):
            _reset(settings)
            raise
    _reset(settings)


def _reset(settings: DeviceSettings) -> None:
    if slots_folder(settings.state).is_dir():  # also where the first bundle was installed meanwhile
        with suppress(BloodedgeError):  # on a full disk the start counts
            reset_starts(settings.state)


def _load_active(settings: DeviceSettings) -> Loaded:
    state = settings.state
    if repaired := repair(settings):
        log.warning("%s", repaired)
    while True:
        slot = read_record(state).running
        if slot is None:
            return load(settings)
        try:
            return _load_slot(settings, slot)
        except BloodedgeError as error:
            if not is_bundle_fault(error):
                log.warning("%s", on_hold_sentence(slot, error))
                return load_file(settings, released_bundle(settings))
            if slot.state == "good" and isinstance(error, UsageError):  # the settings ask for what no bundle here has
                raise
            mark_bad(state, slot.sha256, str(error))


def _load_slot(settings: DeviceSettings, slot: Slot) -> Loaded:
    if slot.state != "on probation":
        _check_crashes(settings, slot)
    elif slot.starts >= MOST_STARTS:
        raise BloodedgeError(f"it crashed in {MOST_STARTS} starts")
    return load_counted(settings)


def load_counted(settings: DeviceSettings) -> Loaded:
    """As ``load``, with a start counted for the active slot's bundle unless the error is not its fault."""
    count_start(settings.state)
    try:
        return load(settings)
    except BloodedgeError as error:
        if not is_bundle_fault(error):
            uncount_start(settings.state)
        raise


def _check_crashes(settings: DeviceSettings, slot: Slot) -> None:
    """Raise BloodedgeError for a good bundle that now crashes, where another bundle was good."""
    if slot.starts < MOST_STARTS_IN_A_ROW:
        return
    why = f"it crashed within a minute in {slot.starts} starts in a row"
    if has_good_alternative(settings, read_record(settings.state)):
        raise BloodedgeError(why)
    if slot.starts == MOST_STARTS_IN_A_ROW:  # once, not at each start
        log.warning("%s runs on: %s, but no other bundle was good here.", slot.title, why)
        with suppress(BloodedgeError):
            record_kept(settings.state, f"{why}, and no other bundle was good here")


def on_hold_sentence(slot: Slot, error: BloodedgeError) -> str:
    """Why a slot's bundle does not run for now."""
    return f"{slot.title} does not run until this is put right: {error}"


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
