"""Watches the slots while the daemon runs: takes over what was installed, and judges it while it is on probation."""

import json
import logging
from time import monotonic

from bloodedge.errors import BloodedgeError
from bloodedge.signing.signature import Untrusted
from bloodedge_device.bundles.loading import is_bundle_fault, load
from bloodedge_device.bundles.probation import figures_of, is_proven, why_failed
from bloodedge_device.bundles.slot_record import DamagedRecordError, Event, Record, Slot, read_record, slots_folder
from bloodedge_device.bundles.start import load_counted, on_hold_sentence, repair
from bloodedge_device.bundles.switch import (
    MOST_STARTS_IN_A_ROW,
    check_revocation,
    has_good_alternative,
    mark_bad,
    mark_good,
    record_kept,
    reset_starts,
    rollback_sentence,
    save_health,
)
from bloodedge_device.daemon.reload import Switcher
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.health import Level
from bloodedge_device.store import open_for_reading

log = logging.getLogger("bloodedge.device")

ACTOR = "slots"
"""Who acts, in the audit log."""


class SlotWatch:
    """Looks at the slots' record every few seconds, in the services' thread."""

    def __init__(self, state: DaemonState, switcher: Switcher) -> None:
        self._state, self._switcher, self._timings = state, switcher, state.timings
        self._folder = state.settings.state
        self._last_event: int | None = None
        """Number of the newest event of the record that is in the audit log; None before the first look."""
        self._skipped: str | None = None
        """SHA-256 of the bundle that cannot be judged for now."""
        self._skipped_why = ""
        self._judged_at_s = self._saved_at_s = self._looked_at_s = self._skipped_at_s = monotonic()
        self._on_probation = self._running = self._kept_at_fault = ""
        """SHA-256 of the bundle that each is about."""
        self._healthy_s = self._harmless_s = 0.0

    def look(self) -> None:
        """Take over the active slot's bundle when it has changed; while it is on probation, judge it."""
        now_s = monotonic()
        passed_s, self._looked_at_s = now_s - self._looked_at_s, now_s
        if not slots_folder(self._folder).is_dir():
            return
        record = self._read_record()
        self._audit_events(record)
        if self._state.settings.bundle is None:
            self._take_over(record)
            slot = record.running
            if slot is None or slot.sha256 != self._state.loaded.sha256:
                self._on_probation = ""
            else:
                self._forget_old_starts(slot, passed_s)
                if not self._rolled_back_at_fault(record, slot):
                    self._watch_probation(slot, passed_s)
            self._report(read_record(self._folder))

    def check_revocation(self) -> None:
        """Roll back from a bundle whose key was revoked; where the settings name the bundle, end the daemon."""
        try:
            check_revocation(self._state.settings, self._state.loaded)
        except Untrusted as error:
            self._switcher.refuse(error)

    def close(self) -> None:
        """Write down how long the bundle on probation has run."""
        if self._on_probation:
            save_health(self._folder, self._on_probation, self._healthy_s)

    def _read_record(self) -> Record:
        try:
            return read_record(self._folder)
        except DamagedRecordError:
            log.warning("%s", repair(self._state.settings))
            return read_record(self._folder)

    def _audit_events(self, record: Record) -> None:
        """Copy what happened since the last look, or while no daemon ran, into the audit log."""
        if self._last_event is None:
            with open_for_reading(self._folder) as database:
                query = "SELECT detail FROM audit WHERE actor = ? ORDER BY id DESC LIMIT 1"
                row = database.execute(query, (ACTOR,)).fetchone()
            self._last_event = 0 if row is None else int(json.loads(row[0]).get("event", 0))
        if self._last_event > record.events:  # the record was begun anew
            self._last_event = 0
        for event in record.history:
            if event.number > self._last_event:
                self._state.store.note(ACTOR, f"bundle {event.action}", _detail(event))
                self._last_event = event.number

    def _take_over(self, record: Record) -> None:
        if record.running is not None and self._looked_at_s - self._skipped_at_s >= self._timings.bundle_retry_s:
            self._skipped = None
        with self._switcher.loading:
            self._load_if_changed(record.running)

    def _load_if_changed(self, slot: Slot | None) -> None:
        state = self._state
        digest = "" if slot is None else slot.sha256
        settings = state.settings  # read before ``loaded``: the daemon changes them in the opposite order
        if digest == state.loaded.sha256:
            self._skipped = None
        if self._switcher.has_next or digest in {state.loaded.sha256, self._skipped}:
            return
        try:
            loaded = load(settings) if slot is None else load_counted(settings)
        except BloodedgeError as error:
            if slot is not None and is_bundle_fault(error):
                mark_bad(settings.state, slot.sha256, str(error))
            else:
                self._skip(slot, error)
            return
        self._skipped = None
        self._switcher.take_over(settings, loaded)

    def _skip(self, slot: Slot | None, error: BloodedgeError) -> None:
        """Keep what runs; a slot's bundle, on which the error is no verdict, is tried again after a while."""
        sentence = str(error) if slot is None else on_hold_sentence(slot, error)
        if sentence != self._skipped_why:
            log.warning("The running bundle stays. %s", sentence)
        self._skipped_why = sentence
        self._skipped, self._skipped_at_s = "" if slot is None else slot.sha256, self._looked_at_s

    def _forget_old_starts(self, slot: Slot, passed_s: float) -> None:
        """Forget earlier starts once the running bundle cannot have ended them.

        The service manager starts a board without its camera again and again: that is no bundle's fault.
        """
        if slot.sha256 != self._running:
            self._running, self._harmless_s = slot.sha256, 0.0
        camera_waits = self._level("camera") is not Level.OK
        harmless = camera_waits or (
            slot.state == "good" and not self._is_at_fault() and not self._state.faults.in_a_row
        )
        self._harmless_s = self._harmless_s + passed_s if harmless else 0.0
        if slot.starts and self._harmless_s >= self._timings.harmless_after_s:
            reset_starts(self._folder)

    def _level(self, part: str) -> Level:
        condition = self._state.health.conditions().get(part)
        return Level.OK if condition is None else condition.level

    def _watch_probation(self, slot: Slot, passed_s: float) -> None:
        state = self._state
        if slot.state != "on probation":
            self._on_probation = ""
            return
        if slot.sha256 != self._on_probation:
            self._on_probation, self._healthy_s = slot.sha256, slot.healthy_s
            self._judged_at_s = self._saved_at_s = self._looked_at_s
        elif state.is_alive:
            self._healthy_s += passed_s
        elif self._is_at_fault():
            mark_bad(state.settings.state, slot.sha256, "no frame was classified although the camera works")
            return
        if self._looked_at_s - self._saved_at_s >= self._timings.probation_saved_s:
            self._saved_at_s = self._looked_at_s
            save_health(self._folder, slot.sha256, self._healthy_s)
        every_s = min(self._timings.probation_check_s, state.settings.update.probation_minutes * 60)
        if self._looked_at_s - self._judged_at_s >= every_s:
            self._judged_at_s = self._looked_at_s
            self._judge(slot.model_copy(update={"healthy_s": self._healthy_s}))

    def _rolled_back_at_fault(self, record: Record, slot: Slot) -> bool:
        """Whether a network that gives no probabilities was rolled back, as one that crashes is at the start."""
        state = self._state
        if not state.faults.at_fault:
            return False
        why = f"its network gave no probability for {state.faults.in_a_row} cells in a row"
        if slot.state == "on probation" or has_good_alternative(state.settings, record):
            mark_bad(state.settings.state, slot.sha256, why)
            return True
        if slot.sha256 != self._kept_at_fault:
            self._kept_at_fault = slot.sha256
            record_kept(self._folder, f"{why}, and no other bundle was good here")
        return False

    def _is_at_fault(self) -> bool:
        """Whether the network holds up a frame: it takes too long, and the disk is well."""
        taken_s = self._state.frame_since_s
        held_up = taken_s is not None and monotonic() - taken_s > self._state.settings.watch.alive_s
        return held_up and self._level("store") is Level.OK

    def _judge(self, slot: Slot) -> None:
        update = self._state.settings.update
        now, before = figures_of(self._folder, slot)
        if why := why_failed(update, now, before):
            mark_bad(self._state.settings.state, slot.sha256, why)
        elif is_proven(update, slot, now):
            mark_good(self._folder, slot.sha256)
            log.info("%s is good on this board.", slot.title)

    def _report(self, record: Record) -> None:
        slot, update = record.running, self._state.settings.update
        latest = next((event for event in reversed(record.history) if event.action != "refused"), None)
        level = Level.OK
        crashes = slot is not None and slot.state == "good" and slot.starts > MOST_STARTS_IN_A_ROW
        if slot is not None and slot.sha256 == self._skipped:
            level, sentence = Level.WARNING, self._skipped_why
        elif slot is not None and crashes:
            level = Level.WARNING
            sentence = f"{slot.title} crashed within a minute in the last {slot.starts - 1} starts; install another."
        elif latest is not None and latest.action == "went back":
            level, sentence = Level.WARNING, rollback_sentence(latest)
        elif latest is not None and latest.action == "began anew":
            level, sentence = Level.WARNING, f"The record of the slots was started again. {latest.why}."
        elif slot is None:
            sentence = "The bundle that came with the installation runs."
        elif slot.state == "on probation":
            left = max(0.0, update.probation_minutes - self._healthy_s / 60)
            sentence = f"{slot.title} in slot {record.active} is on probation, {left:.0f} minutes left."
        else:
            sentence = f"{slot.title} in slot {record.active} runs."
        self._state.health.report("bundle", level, sentence)


def _detail(event: Event) -> dict[str, object]:
    values = event.model_dump(mode="json", exclude={"number", "action"}, exclude_none=True)
    return {"event": event.number, **{key: value for key, value in values.items() if value}}
