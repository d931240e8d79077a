"""While the daemon runs: takes over what was installed, and judges it until it is good or gives way."""

from __future__ import annotations

import json
import logging
from time import monotonic
from typing import TYPE_CHECKING

from bloodedge.errors import BloodedgeError
from bloodedge.signing.signature import Untrusted
from bloodedge_device.bundles.loading import is_verdict, load
from bloodedge_device.bundles.probation import figures_of, is_proven, why_failed
from bloodedge_device.bundles.repair import repair
from bloodedge_device.bundles.revocation import heed_revocation
from bloodedge_device.bundles.slot_record import DamagedRecord, Event, Record, Slot, read_record, slots_folder
from bloodedge_device.bundles.start import give_way, load_counted, sentence_of, sentence_of_no_verdict
from bloodedge_device.bundles.switch import (
    MOST_STARTS_IN_A_ROW,
    forget_starts,
    has_good_alternative,
    keep_health,
    note_kept,
    promote,
)
from bloodedge_device.health import Level
from bloodedge_device.snapshot.snapshot import is_alive
from bloodedge_device.store import open_for_reading

if TYPE_CHECKING:
    from bloodedge_device.daemon.daemon import Daemon

log = logging.getLogger("bloodedge.device")

JUDGED_EVERY_S = 30.0
TRIED_EVERY_S = 30.0
"""How often a bundle is tried again that could not be judged."""
KEPT_EVERY_S = 60.0
"""How often the time on probation is written down."""
UNHARMED_S = 60.0
"""Once a good bundle has run for so long, the starts before it count no more."""

ACTOR = "slots"
"""Of entries in the audit log."""


class SlotWatch:
    """Looks at the slots' record every few seconds, from the housekeeper's thread."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._noted: int | None = None
        self._given_up: str | None = None
        self._left_out = ""
        self._judged_s = self._kept_s = self._looked_s = self._given_up_s = monotonic()
        self._on_probation = ""
        self._healthy_s = self._unharmed_s = 0.0
        self._unharmed = ""
        self._kept = ""

    def look(self) -> None:
        """Take over what is to run now; on probation, judge what runs."""
        now_s = monotonic()
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        if not slots_folder(self._daemon.state).is_dir():
            return
        record = self._record()
        self._note_events(record)
        if self._daemon.settings.bundle is None:
            self._take_over(record)
            self._end_the_row(record, passed_s)
            if not self._gave_way_at_fault(record):
                self._watch(record, passed_s)
            self._tell(read_record(self._daemon.state))

    def heed_revocation(self) -> None:
        """Have what runs give way once its key was revoked; one that the settings name ends the daemon."""
        daemon = self._daemon
        try:
            heed_revocation(daemon.settings, daemon.loaded)
        except Untrusted as error:
            daemon.refuse(error)

    def close(self) -> None:
        """Write down how long the bundle on probation has run."""
        if self._on_probation:
            keep_health(self._daemon.state, self._on_probation, self._healthy_s)

    def _record(self) -> Record:
        try:
            return read_record(self._daemon.state)
        except DamagedRecord:
            log.warning("%s", repair(self._daemon.settings))
            return read_record(self._daemon.state)

    def _note_events(self, record: Record) -> None:
        """Copy what happened since the last look, or while no daemon ran, into the audit log."""
        if self._noted is None:
            self._noted = self._noted_last()
        if self._noted > record.events:  # the record was begun anew
            self._noted = 0
        for event in record.history:
            if event.number > self._noted:
                self._daemon.store.note(ACTOR, f"bundle {event.action}", _detail(event))
                self._noted = event.number

    def _noted_last(self) -> int:
        with open_for_reading(self._daemon.state) as database:
            row = database.execute(
                "SELECT detail FROM audit WHERE actor = ? ORDER BY id DESC LIMIT 1", (ACTOR,)
            ).fetchone()
        return 0 if row is None else int(json.loads(row[0]).get("event", 0))

    def _take_over(self, record: Record) -> None:
        if record.running is not None and self._looked_s - self._given_up_s >= TRIED_EVERY_S:
            self._given_up = None
        with self._daemon.loading:
            self._load_what_is_to_run(record)

    def _load_what_is_to_run(self, record: Record) -> None:
        daemon, slot = self._daemon, record.running
        digest = "" if slot is None else slot.sha256
        settings = daemon.settings  # looked at in this order, as the daemon changes them in the other one
        if digest == daemon.loaded.sha256:
            self._given_up = None
        if daemon.has_next or digest in {daemon.loaded.sha256, self._given_up}:
            return
        try:
            loaded = load(settings) if slot is None else load_counted(settings)
        except BloodedgeError as error:
            if slot is not None and is_verdict(error):
                give_way(settings, slot, str(error))
            else:
                self._leave_out(slot, error)
            return
        self._given_up = None
        daemon.take_over(settings, loaded)

    def _leave_out(self, slot: Slot | None, error: BloodedgeError) -> None:
        """Go on with what runs; a slot's bundle, which the error says nothing of, is tried again after a while."""
        sentence = str(error) if slot is None else sentence_of_no_verdict(slot, error)
        if sentence != self._left_out:
            log.warning("The bundle that ran goes on. %s", sentence)
        self._left_out = sentence
        self._given_up, self._given_up_s = "" if slot is None else slot.sha256, self._looked_s

    def _end_the_row(self, record: Record, passed_s: float) -> None:
        """Forget earlier starts once none of them can have ended for what runs now.

        A board without its camera is started again and again by the service manager: that is no bundle's fault.
        """
        daemon, slot = self._daemon, record.running
        if slot is None or slot.sha256 != daemon.loaded.sha256:
            return
        if slot.sha256 != self._unharmed:
            self._unharmed, self._unharmed_s = slot.sha256, 0.0
        waits = self._level("camera") is not Level.OK
        counts = waits or (slot.state == "good" and not self._is_at_fault() and not daemon.faults.in_a_row)
        self._unharmed_s = self._unharmed_s + passed_s if counts else 0.0
        if slot.starts and self._unharmed_s >= UNHARMED_S:
            forget_starts(daemon.state)

    def _level(self, part: str) -> Level:
        condition = self._daemon.health.conditions().get(part)
        return Level.OK if condition is None else condition.level

    def _watch(self, record: Record, passed_s: float) -> None:
        daemon, slot = self._daemon, record.running
        if slot is None or slot.state != "on probation" or slot.sha256 != daemon.loaded.sha256:
            self._on_probation = ""
            return
        if slot.sha256 != self._on_probation:
            self._on_probation, self._healthy_s = slot.sha256, slot.healthy_s
            self._judged_s = self._kept_s = self._looked_s
        elif is_alive(daemon):
            self._healthy_s += passed_s
        elif self._is_at_fault():
            give_way(daemon.settings, slot, "no frame was classified though the camera is well")
            return
        if self._looked_s - self._kept_s >= KEPT_EVERY_S:
            self._kept_s = self._looked_s
            keep_health(daemon.state, slot.sha256, self._healthy_s)
        if self._looked_s - self._judged_s >= min(JUDGED_EVERY_S, daemon.settings.update.probation_minutes * 60):
            self._judged_s = self._looked_s
            self._judge(slot.model_copy(update={"healthy_s": self._healthy_s}))

    def _gave_way_at_fault(self, record: Record) -> bool:
        """Whether a network that gives no probabilities gave way, as one that crashes does; see starting."""
        daemon, slot = self._daemon, record.running
        if slot is None or slot.sha256 != daemon.loaded.sha256 or not daemon.faults.at_fault:
            return False
        why = f"its network gave no probability for {daemon.faults.in_a_row} cells in a row"
        if slot.state == "on probation" or has_good_alternative(daemon.settings, record):
            give_way(daemon.settings, slot, why)
            return True
        if slot.sha256 != self._kept:
            self._kept = slot.sha256
            note_kept(daemon.state, f"{why}, and no other bundle has proven good here")
        return False

    def _is_at_fault(self) -> bool:
        """Whether a frame that the camera gave is not done with, and nothing but the network holds it up."""
        taken_s = self._daemon.in_hand_since_s
        held_up = taken_s is not None and monotonic() - taken_s > self._daemon.settings.watch.alive_s
        return held_up and self._level("store") is Level.OK

    def _judge(self, slot: Slot) -> None:
        daemon, update = self._daemon, self._daemon.settings.update
        now, before = figures_of(daemon.state, slot)
        if why := why_failed(update, now, before):
            give_way(daemon.settings, slot, why)
        elif is_proven(update, slot, now):
            promote(daemon.state, slot.sha256)
            log.info("%s has proven good on this board.", slot.title)

    def _tell(self, record: Record) -> None:
        slot, update = record.running, self._daemon.settings.update
        told = [event for event in record.history if event.action != "refused"]
        latest = told[-1] if told else None
        level = Level.OK
        crashes = slot is not None and slot.state == "good" and slot.starts > MOST_STARTS_IN_A_ROW
        if slot is not None and slot.sha256 == self._given_up:
            level, sentence = Level.WARNING, self._left_out
        elif slot is not None and crashes:
            level = Level.WARNING
            sentence = f"The last {slot.starts - 1} starts with {slot.title} ended within a minute; install another."
        elif latest is not None and latest.action == "went back":
            level, sentence = Level.WARNING, sentence_of(latest.bundle, latest.why)
        elif latest is not None and latest.action == "began anew":
            level, sentence = Level.WARNING, f"The record of the slots began anew. {latest.why}."
        elif slot is None:
            sentence = "The bundle that came with the installation runs."
        elif slot.state == "on probation":
            left = max(0.0, update.probation_minutes - self._healthy_s / 60)
            sentence = f"{slot.title} in slot {record.active} is on probation, {left:.0f} minutes left."
        else:
            sentence = f"{slot.title} in slot {record.active} runs."
        self._daemon.health.tell("bundle", level, sentence)


def _detail(event: Event) -> dict[str, object]:
    values = event.model_dump(mode="json", exclude={"number", "action"}, exclude_none=True)
    return {"event": event.number, **{key: value for key, value in values.items() if value}}
