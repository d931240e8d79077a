"""The bundle that the fleet's server asks for: fetched, checked and handed to the installer, which alone decides."""

import logging
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

from pydantic import ValidationError

from bloodedge.errors import BloodedgeError, DiskError, disk_errors
from bloodedge.files import write_bytes
from bloodedge.fleet_messages import Wanted, WantedState, Wire, read_message
from bloodedge.redact import redacted
from bloodedge_device.bundles.loading import Unjudged
from bloodedge_device.bundles.slot_record import NotNow, Record
from bloodedge_device.outputs.download import Download, Ended, Passing

log = logging.getLogger("bloodedge.device")

FILE = "wanted.json"
DOWNLOAD = "wanted.download"
"""In the state folder."""

RETRY_S = (5.0, 15.0, 60.0, 300.0)
PARTING_S = 10.0
"""For what is under way when the daemon ends."""

SPARE_BYTES = 64 * 2**20
"""Left free on the disk beside the download and the slot's copy."""


class Note(Wire):
    """``wanted.json``: what was asked for last, and what became of it, also after a restart."""

    wanted: Wanted
    state: Literal["downloading", "installed", "refused"]
    sentence: str = ""


class WantedWorker:
    """Fetches and installs what is wanted, in a thread of its own; ``stop`` ends it.

    What may pass (the server away, a full disk, a bundle on probation) is tried again; all else is refused once and for
    all. The board goes on with what it has in either case.
    """

    def __init__(
        self, state: Path, ca: Path | None, install: Callable[[Path], str], record: Callable[[], Record]
    ) -> None:
        """ca: certificates (PEM) that the server's is checked against, default the system's; record: of the slots."""
        self._folder, self._ca, self._install, self._record = state, ca, install, record
        self._note = _read_note(state / FILE)
        self._under_way: Download | None = None
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="wanted", daemon=True)

    def start(self) -> None:
        """Begin; what was under way when the daemon ended is begun anew."""
        (self._folder / DOWNLOAD).unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """End a download; an install that has begun is waited for, but not for long: cut off it changes nothing."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(PARTING_S)

    def want(self, payload: bytes) -> None:
        """A message came; empty: nothing is wanted any more. What cannot be read is told in the log."""
        try:
            wanted = read_message(Wanted, payload) if payload else None
        except BloodedgeError as error:
            log.warning("The fleet's wish for a bundle was passed over: %s", error)
            return
        with self._lock:
            note = self._note
            if note is not None and note.state != "downloading" and (wanted is None or _is_same(wanted, note.wanted)):
                return  # done, well or badly, and never done again
            if wanted == (None if note is None else note.wanted):
                return
            self._note = None if wanted is None else Note(wanted=wanted, state="downloading")
            if wanted is None:
                with suppress(OSError):
                    (self._folder / FILE).unlink(missing_ok=True)
            self._wake()
        log.info("The fleet wants %s.", "no bundle" if wanted is None else f"{wanted.name} {wanted.serial}")

    @property
    def state(self) -> WantedState | None:
        """For the board's report."""
        note = self._note
        if note is None:
            return None
        if note.state == "installed" and (why := self._went_back(note.wanted)) is not None:
            return WantedState(rollout=note.wanted.rollout, state="went back", sentence=redacted(why)[:500])
        return WantedState(rollout=note.wanted.rollout, state=note.state, sentence=redacted(note.sentence)[:500])

    def _went_back(self, wanted: Wanted) -> str | None:
        """Why the bundle does not run any more; None while it does."""
        with suppress(BloodedgeError):  # a damaged record, which the slots' watch repairs
            for slot in self._record().slots.values():
                if slot.sha256 == wanted.sha256 and slot.state == "failed":
                    return slot.why or "It failed."
        return None

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            note = self._note
            if note is None or note.state != "downloading":
                self._changed.wait()
                self._changed.clear()
                continue
            try:
                self._changed.clear()
                self._keep(note, self._done(note.wanted))
                failures = 0
            except Ended:
                failures = 0
            except Passing as passing:
                self._keep(note, Note(wanted=note.wanted, state="downloading", sentence=str(passing)))
                log.warning("%s", passing)
                self._changed.wait(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    def _keep(self, before: Note, after: Note) -> None:
        with self._lock:
            if self._note is not None and self._note.wanted == before.wanted:
                self._note = after
                with suppress(BloodedgeError):  # a full disk: a restart does it again, which changes nothing
                    write_bytes(self._folder / FILE, after.model_dump_json().encode(), 0o600)

    def _done(self, wanted: Wanted) -> Note:
        """What came of a wish; raises Passing or Ended."""
        try:
            title = self._fetched_and_installed(wanted)
        except (NotNow, Unjudged) as error:
            raise Passing(f"{str(error).rstrip('.')}; it is tried again.") from error
        except (DiskError, OSError) as error:
            why = str(getattr(error.__cause__ or error, "strerror", None) or error).rstrip(".")
            raise Passing(f"The bundle could not be kept ({why}); it is tried again.") from error
        except BloodedgeError as error:
            log.warning("The bundle that the fleet wants was refused: %s", error)
            return Note(wanted=wanted, state="refused", sentence=str(error))
        except (Passing, Ended):
            raise
        except Exception as error:
            log.exception("The bundle that the fleet wants could not be installed.")
            raise Passing(f"The bundle could not be installed ({type(error).__name__}); it is tried again.") from error
        finally:
            with suppress(OSError):
                (self._folder / DOWNLOAD).unlink(missing_ok=True)
        log.info("%s was installed because the fleet wants it.", title)
        return Note(wanted=wanted, state="installed")

    def _fetched_and_installed(self, wanted: Wanted) -> str:
        running = self._record().running
        if running is not None and running.sha256 == wanted.sha256:
            return running.title
        if running is not None and running.state == "on probation":
            raise Passing(f"{running.title} is on probation here; the wanted bundle waits for its end.")
        path = self._folder / DOWNLOAD
        if shutil.disk_usage(self._folder).free < 2 * wanted.size_bytes + SPARE_BYTES:
            raise Passing("The disk has no room for the wanted bundle; free some space.")
        with disk_errors("the wanted bundle"), path.open("wb") as file:
            digest = self._download(wanted, file)
        if digest != wanted.sha256:
            raise BloodedgeError(
                f"What {wanted.url} gives is not the bundle that was asked for: its digest is another."
            )
        return self._install(path)

    def _download(self, wanted: Wanted, file: IO[bytes]) -> str:
        """Write what the server gives; gives its SHA-256."""
        self._under_way = Download(wanted.url, wanted.size_bytes, self._ca)
        try:
            if self._changed.is_set():  # before it was under way
                raise Ended
            return self._under_way.into(file)
        finally:
            self._under_way = None

    def _wake(self) -> None:
        self._changed.set()
        if (under_way := self._under_way) is not None:
            under_way.end()


def _is_same(one: Wanted, other: Wanted) -> bool:
    return (one.rollout, one.sha256) == (other.rollout, other.sha256)


def _read_note(path: Path) -> Note | None:
    try:
        return Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # none, or one that a power cut has damaged: the server says it again
        return None
