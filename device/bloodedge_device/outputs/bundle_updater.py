"""Fetches the bundle that the fleet's server requests, and hands it to the installer, which decides."""

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
from bloodedge_device.bundles.slot_record import Record, TemporaryError
from bloodedge_device.outputs.download import Cancelled, Download, Temporary
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")

FILE = "wanted.json"
DOWNLOAD = "wanted.download"
"""The file's name in the state folder."""

PARTING_S = 10.0
"""How long the daemon's end waits for a running install."""

SPARE_BYTES = 64 * 2**20
"""Left free on the disk besides the download and the slot's copy."""


class UpdateRequest(Wire):
    """``wanted.json``: the latest request and what became of it, also after a restart."""

    wanted: Wanted
    state: Literal["downloading", "installed", "refused"]
    sentence: str = ""


class BundleUpdater:
    """Fetches and installs the requested bundle, in a thread of its own; ``stop`` ends it.

    A temporary problem (the server away, a full disk, a bundle on probation) is tried again; any other refuses the
    request for good. Either way the board keeps running what it has.
    """

    def __init__(
        self,
        state: Path,
        ca: Path | None,
        install: Callable[[Path], str],
        record: Callable[[], Record],
        timings: Timings = TIMINGS,
    ) -> None:
        """ca: certificates (PEM) that the server's is checked against, default the system's; record: of the slots."""
        self._folder, self._ca, self._install, self._record = state, ca, install, record
        self._timings = timings
        self._current = _read_request(state / FILE)
        self._running: Download | None = None
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    def start(self) -> None:
        """Begin; a download that the daemon's end broke off starts again."""
        (self._folder / DOWNLOAD).unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel a download, and wait a little for an install: one that is cut off changes nothing."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive():
            self._thread.join(PARTING_S)

    def request(self, payload: bytes) -> None:
        """Take the fleet's message; an empty one withdraws the request, and one that cannot be read goes to the log."""
        try:
            wanted = read_message(Wanted, payload) if payload else None
        except BloodedgeError as error:
            log.warning("The fleet's request for a bundle was ignored: %s", error)
            return
        with self._lock:
            before = self._current
            if wanted == (None if before is None else before.wanted):
                return
            if before is not None and before.state != "downloading" and (wanted is None or _is_same(wanted, before)):
                return  # done, well or badly, and never again
            self._current = None if wanted is None else UpdateRequest(wanted=wanted, state="downloading")
            if wanted is None:
                with suppress(OSError):
                    (self._folder / FILE).unlink(missing_ok=True)
            self._wake()
        log.info("The fleet requests %s.", "no bundle" if wanted is None else f"{wanted.name} {wanted.serial}")

    @property
    def state(self) -> WantedState | None:
        """The request's state, for the board's report."""
        request = self._current
        if request is None:
            return None
        rollout = request.wanted.rollout
        if request.state == "installed" and (why := self._why_rolled_back(request.wanted)) is not None:
            return WantedState(rollout=rollout, state="went back", sentence=redacted(why)[:500])
        return WantedState(rollout=rollout, state=request.state, sentence=redacted(request.sentence)[:500])

    def _why_rolled_back(self, wanted: Wanted) -> str | None:
        """Why the bundle does not run any more; None while it does."""
        with suppress(BloodedgeError):  # a damaged record, which the slots' watch repairs
            for slot in self._record().slots.values():
                if slot.sha256 == wanted.sha256 and slot.state == "failed":
                    return slot.why or "It failed."
        return None

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            request = self._current
            if request is None or request.state != "downloading":
                self._changed.wait()
                self._changed.clear()
                continue
            try:
                self._changed.clear()
                self._keep(request, self._carry_out(request.wanted))
                failures = 0
            except Cancelled:
                failures = 0
            except Temporary as problem:
                self._keep(request, UpdateRequest(wanted=request.wanted, state="downloading", sentence=str(problem)))
                log.warning("%s", problem)
                waits_s = self._timings.download_retry_s
                self._changed.wait(waits_s[min(failures, len(waits_s) - 1)])
                failures += 1

    def _keep(self, before: UpdateRequest, after: UpdateRequest) -> None:
        with self._lock:
            if self._current is not None and self._current.wanted == before.wanted:
                self._current = after
                with suppress(BloodedgeError):  # a full disk; a restart does it again, which changes nothing
                    write_bytes(self._folder / FILE, after.model_dump_json().encode(), 0o600)

    def _carry_out(self, wanted: Wanted) -> UpdateRequest:
        """Carry out a request; raises Temporary or Cancelled."""
        try:
            title = self._fetch_and_install(wanted)
        except TemporaryError as error:
            raise Temporary(f"{str(error).rstrip('.')}; it is tried again.") from error
        except (DiskError, OSError) as error:
            why = str(getattr(error.__cause__ or error, "strerror", None) or error).rstrip(".")
            raise Temporary(f"The bundle could not be stored ({why}); it is tried again.") from error
        except BloodedgeError as error:
            log.warning("The bundle that the fleet requests was refused: %s", error)
            return UpdateRequest(wanted=wanted, state="refused", sentence=str(error))
        except (Temporary, Cancelled):
            raise
        except Exception as error:
            log.exception("The bundle that the fleet requests could not be installed.")
            raise Temporary(
                f"The bundle could not be installed ({type(error).__name__}); it is tried again."
            ) from error
        finally:
            with suppress(OSError):
                (self._folder / DOWNLOAD).unlink(missing_ok=True)
        log.info("%s was installed as the fleet requested.", title)
        return UpdateRequest(wanted=wanted, state="installed")

    def _fetch_and_install(self, wanted: Wanted) -> str:
        running = self._record().running
        if running is not None and running.sha256 == wanted.sha256:
            return running.title
        if running is not None and running.state == "on probation":
            raise Temporary(f"{running.title} is on probation here; the requested bundle waits for its end.")
        path = self._folder / DOWNLOAD
        if shutil.disk_usage(self._folder).free < 2 * wanted.size_bytes + SPARE_BYTES:
            raise Temporary("The disk has no room for the requested bundle; free some space.")
        with disk_errors("the requested bundle"), path.open("wb") as file:
            digest = self._download(wanted, file)
        if digest != wanted.sha256:
            raise BloodedgeError(f"The file at {wanted.url} is not the requested bundle: its SHA-256 does not match.")
        return self._install(path)

    def _download(self, wanted: Wanted, file: IO[bytes]) -> str:
        """Write what the server sends; gives its SHA-256."""
        self._running = Download(wanted.url, wanted.size_bytes, self._ca)
        try:
            if self._changed.is_set():  # before the download was there to cancel
                raise Cancelled
            return self._running.into(file)
        finally:
            self._running = None

    def _wake(self) -> None:
        self._changed.set()
        if (download := self._running) is not None:
            download.cancel()


def _is_same(wanted: Wanted, request: UpdateRequest) -> bool:
    return (wanted.rollout, wanted.sha256) == (request.wanted.rollout, request.wanted.sha256)


def _read_request(path: Path) -> UpdateRequest | None:
    try:
        return UpdateRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # none, or damaged by a power cut: the server sends it again
        return None
