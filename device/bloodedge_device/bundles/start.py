"""The daemon's start with what is in the slots: one that cannot be run, or crashes, gives way to the one before."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import require_own
from bloodedge_device.bundles.loading import Loaded, is_verdict, load, load_file
from bloodedge_device.bundles.released import released_bundle
from bloodedge_device.bundles.repair import repair
from bloodedge_device.bundles.slot_record import Slot, read_record, slots_folder
from bloodedge_device.bundles.switch import (
    MOST_STARTS,
    MOST_STARTS_IN_A_ROW,
    count_start,
    fall_back,
    forget_starts,
    has_good_alternative,
    note_kept,
    take_back_start,
)
from bloodedge_device.settings import DeviceSettings

log = logging.getLogger("bloodedge.device")


@contextmanager
def started(settings: DeviceSettings) -> Iterator[Loaded]:
    """The network to run, as load gives it; a start counts against it unless the block ends in good order.

    An error that is told in a sentence, such as a camera that is not there, is good order. Raises what load does where
    no slot's bundle is to run, and UsageError where the results are another user's.
    """
    require_own(settings.state)
    if settings.bundle is not None or not slots_folder(settings.state).is_dir():
        yield load(settings)
    else:
        loaded = _load_what_runs(settings)
        try:
            yield loaded
        except (BloodedgeError, KeyboardInterrupt):
            _forget(settings)
            raise
    _forget(settings)


def _forget(settings: DeviceSettings) -> None:
    if slots_folder(settings.state).is_dir():  # made meanwhile, where the first bundle was installed
        with suppress(BloodedgeError):  # a full disk: the start then counts
            forget_starts(settings.state)


def _load_what_runs(settings: DeviceSettings) -> Loaded:
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
            if not is_verdict(error):
                log.warning("%s", sentence_of_no_verdict(slot, error))
                return load_file(settings, released_bundle(settings))
            if slot.state == "good" and isinstance(error, UsageError):  # the settings want what no bundle here has
                raise
            give_way(settings, slot, str(error))


def _load_slot(settings: DeviceSettings, slot: Slot) -> Loaded:
    if slot.state == "on probation":
        if slot.starts >= MOST_STARTS:
            raise BloodedgeError(f"{MOST_STARTS} starts with it ended in no good order")
    else:
        _look_back(settings, slot)
    return load_counted(settings)


def load_counted(settings: DeviceSettings) -> Loaded:
    """As load, with a start counted for the active slot's bundle, unless nobody could tell whether it is good."""
    count_start(settings.state)
    try:
        return load(settings)
    except BloodedgeError as error:
        if not is_verdict(error):
            take_back_start(settings.state)
        raise


def _look_back(settings: DeviceSettings, slot: Slot) -> None:
    """Raise BloodedgeError for a good bundle that has come to crash, where another has proven good."""
    if slot.starts < MOST_STARTS_IN_A_ROW:
        return
    why = f"{slot.starts} starts with it in a row ended within a minute"
    if has_good_alternative(settings, read_record(settings.state)):
        raise BloodedgeError(why)
    if slot.starts == MOST_STARTS_IN_A_ROW:  # once, not at each start
        log.warning("%s goes on: %s, but no other bundle has proven good here.", slot.title, why)
        with suppress(BloodedgeError):
            note_kept(settings.state, f"{why}, and no other bundle has proven good here")


def give_way(settings: DeviceSettings, slot: Slot, why: str) -> None:
    """Go back from a slot's bundle, and say so."""
    record = fall_back(settings.state, slot.sha256, why)
    latest = record.history[-1]
    log.warning("%s", sentence_of(latest.bundle, latest.why))


def sentence_of(to: str, why: str) -> str:
    """That the daemon went back, and why."""
    return f"Went back to {to}. {why.rstrip('.')}."


def sentence_of_no_verdict(slot: Slot, error: BloodedgeError) -> str:
    """That a slot's bundle does not run for now, and why."""
    return f"{slot.title} does not run until this is put right: {error}"
