"""The daemon's start with what is in the slots: a bundle that cannot run, or crashes, makes way for the one before."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import require_own
from bloodedge_device.bundles.loading import Loaded, is_bundle_fault, load, load_file
from bloodedge_device.bundles.released import released_bundle
from bloodedge_device.bundles.repair import repair
from bloodedge_device.bundles.slot_record import Slot, read_record, slots_folder
from bloodedge_device.bundles.switch import (
    MOST_STARTS,
    MOST_STARTS_IN_A_ROW,
    count_start,
    has_good_alternative,
    mark_bad,
    record_kept,
    reset_starts,
    uncount_start,
)
from bloodedge_device.settings import DeviceSettings

log = logging.getLogger("bloodedge.device")


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
