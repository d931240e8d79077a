"""Other settings and another bundle come into force between two frames: after a SIGHUP, or when a slot changes."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bloodedge.errors import BloodedgeError
from bloodedge_device.bundles.loading import Loaded, active_digest, load
from bloodedge_device.bundles.start import load_counted
from bloodedge_device.bundles.switch import check_revocation
from bloodedge_device.daemon.slides import Slides
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.health import Level
from bloodedge_device.settings import DeviceSettings

log = logging.getLogger("bloodedge.device")

NEEDS_RESTART = ("cores", "state", "store", "web", "mqtt")
"""Settings that a reload leaves as they are."""

NEW_NETWORK = ("bundle", "engine", "precision", "threads", "openvino_device", "trust")
"""Settings whose change loads the network again."""

RELOAD = "reload"
"""The actor of a reload, in the audit log."""

IN_FORCE = "The settings in force are those of the file."


@dataclass(frozen=True)
class Switch:
    """What to go on with after the current frame."""

    settings: DeviceSettings
    loaded: Loaded
    instead_of: DeviceSettings
    """Those in force when it was asked for; where they have changed since, the slots' watch looks again."""
    actor: str


class Switcher:
    """Holds the switch that waits for the current frame, and makes it in the daemon's thread."""

    def __init__(self, state: DaemonState, slides: Slides, interrupt: threading.Event) -> None:
        """Interrupt: set to have ``switch`` called after the current frame."""
        self._state, self._slides, self._interrupt = state, slides, interrupt
        self.loading = threading.Lock()
        """Held by who loads a network to go on with: a reload, or the slots' watch."""
        self._next: Switch | None = None
        self._next_waits = False
        """Whether the disk had no room for the run that is to begin next."""
        self._refusal: BloodedgeError | None = None

    @property
    def has_next(self) -> bool:
        """Whether a network waits to take over between two frames."""
        return self._next is not None

    @property
    def is_due(self) -> bool:
        """Whether a switch can be tried now."""
        return self._next is not None and not self._next_waits

    def take_over(self, settings: DeviceSettings, loaded: Loaded) -> None:
        """Go on with another network after the current frame; from any thread."""
        self._next = Switch(settings, loaded, settings, "daemon")
        self._interrupt.set()

    def remind(self) -> None:
        """Try again to store a run that waits for the disk; from any thread."""
        if self._next_waits:
            self._interrupt.set()

    def refuse(self, error: BloodedgeError) -> None:
        """End the daemon after the current frame: its bundle may no longer run, and none replaces it; any thread."""
        self._refusal = error
        self._interrupt.set()

    def raise_refusal(self) -> None:
        """Raise what ``refuse`` was given."""
        if self._refusal is not None:
            raise self._refusal

    def reload(self, reread: Callable[[], DeviceSettings]) -> None:
        """Read the settings again; when they are wrong, say so and keep the old ones in force."""
        if self._next is not None and self._next.actor == RELOAD:
            self._forget_next()  # the file has changed again since
        try:
            with self.loading:
                self._prepare(reread())
        except BloodedgeError as error:
            sentence = f"The reload failed; the old settings stay in force. {error}"
            log.warning("%s", sentence)
            self._state.health.report("settings", Level.WARNING, sentence)

    def _prepare(self, new: DeviceSettings) -> None:
        old, running = self._state.settings, self._state.loaded
        for name in NEEDS_RESTART:
            if getattr(new, name) != getattr(old, name):
                log.warning("%s was changed; restart the daemon for it.", name)
        if new.update.from_fleet != old.update.from_fleet:
            log.warning("update.from_fleet was changed; restart the daemon for it.")
        new = new.model_copy(update={name: getattr(old, name) for name in NEEDS_RESTART})
        if running.slot is not None:
            check_revocation(new, running)
        switched = active_digest(new) != running.sha256
        if new == old and not switched:
            self._state.health.report("settings", Level.OK, IN_FORCE)
            log.info("Reloaded: nothing has changed.")
            return
        network = switched or any(getattr(new, name) != getattr(old, name) for name in NEW_NETWORK)
        loaded = load_counted(new) if switched else load(new) if network else running
        self._next = Switch(new, loaded, old, RELOAD)

    def switch(self) -> None:
        """Begin a new run with what waits, and go on with the current slide in a new one; without room, wait on."""
        to = self._next
        if to is None:
            return
        if to.instead_of is self._state.settings:
            with self._slides.changing:
                try:
                    run, slide = self._slides.store_next(to.settings, to.loaded, to.actor)
                except BloodedgeError as error:
                    self._let_next_wait(error)
                    return
                self._slides.switch(to.settings, to.loaded, run, slide, to.actor)
            self._announce(to)
        self._forget_next()  # only now, or the slots' watch would find the old network running and load anew

    def _announce(self, to: Switch) -> None:
        if to.actor == RELOAD:
            self._state.health.report("settings", Level.OK, IN_FORCE)
            log.info("Reloaded: a new run has begun.")
        else:
            log.info("Slot %s runs: %s.", to.loaded.slot or "none", to.loaded.manifest.title)

    def _let_next_wait(self, error: BloodedgeError) -> None:
        self._next_waits = True
        sentence = f"Settings and bundle stay as they are until a new run can be stored. {error}"
        if self._state.health.report("run", Level.FAILED, sentence):
            log.warning("%s", sentence)

    def _forget_next(self) -> None:
        self._next = None
        if self._next_waits:
            self._next_waits = False
            self._state.health.report("run", Level.OK, "No run waits to be stored.")
