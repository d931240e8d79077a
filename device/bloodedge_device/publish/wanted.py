"""The bundle that the fleet's server asks for: fetched, checked and handed to the installer, which alone decides."""

import hashlib
import http.client
import logging
import shutil
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO, Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from pydantic import ValidationError

from bloodedge.board import Wanted, WantedState, Wire, read_message
from bloodedge.errors import BloodedgeError, disk_errors
from bloodedge.files import write_bytes
from bloodedge_device.slots.record import Record

log = logging.getLogger("bloodedge.device")

FILE = "wanted.json"
DOWNLOAD = "wanted.download"
"""In the state folder."""

ANSWER_WITHIN_S = 20.0
SLOWEST_BYTES_PER_S = 20_000
"""A download that would take longer than at this rate is given up and begun anew."""

RETRY_S = (5.0, 15.0, 60.0, 300.0)
SPARE_BYTES = 64 * 2**20
"""Left free on the disk beside the download and the slot's copy."""


class Passing(Exception):  # noqa: N818  # it says what is
    """Something that may pass; the message is a sentence."""


class _Stopped(Exception):  # noqa: N818  # it says what happened
    """Another bundle is wanted, none is any more, or the daemon stops."""


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
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="wanted", daemon=True)

    def start(self) -> None:
        """Begin; what was under way when the daemon ended is begun anew."""
        (self._folder / DOWNLOAD).unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """End a download; an install that has begun is waited for."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()

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
            self._changed.set()
        log.info("The fleet wants %s.", "no bundle" if wanted is None else f"{wanted.name} {wanted.serial}")

    @property
    def state(self) -> WantedState | None:
        """For the board's report."""
        note = self._note
        if note is None:
            return None
        if note.state == "installed" and (why := self._went_back(note.wanted)) is not None:
            return WantedState(rollout=note.wanted.rollout, state="went back", sentence=why[:500])
        return WantedState(rollout=note.wanted.rollout, state=note.state, sentence=note.sentence[:500])

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
            except _Stopped:
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
                    write_bytes(self._folder / FILE, after.model_dump_json().encode())

    def _done(self, wanted: Wanted) -> Note:
        """What came of a wish; raises Passing or _Stopped."""
        try:
            title = self._fetched_and_installed(wanted)
        except BloodedgeError as error:
            log.warning("The bundle that the fleet wants was refused: %s", error)
            return Note(wanted=wanted, state="refused", sentence=str(error))
        except OSError as error:
            raise Passing(f"The bundle could not be kept ({error.strerror or error}); it is tried again.") from error
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
        digest, left = hashlib.sha256(), wanted.size_bytes
        give_up_s = monotonic() + ANSWER_WITHIN_S + wanted.size_bytes / SLOWEST_BYTES_PER_S
        try:
            with self._opener().open(Request(wanted.url), timeout=ANSWER_WITHIN_S) as answer:  # noqa: S310  # http(s)
                while chunk := answer.read1(min(65536, left + 1)):  # what there is: a slow server is seen to be
                    left -= len(chunk)
                    if left < 0:
                        raise BloodedgeError(f"{wanted.url} gives more than the {wanted.size_bytes} bytes announced.")
                    digest.update(chunk)
                    file.write(chunk)
                    if self._changed.is_set():
                        raise _Stopped
                    if monotonic() > give_up_s:
                        raise Passing(f"{wanted.url} gives the bundle too slowly; it is begun anew.")
        except HTTPError as error:
            if error.code in range(300, 400):
                raise BloodedgeError(f"{wanted.url} points elsewhere, which is not followed; correct --url.") from error
            raise Passing(f"{wanted.url} answers {error.code}; it is tried again.") from error
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise Passing(why_not_reached(wanted.url, error)) from error
        if left:
            raise Passing(f"{wanted.url} broke off before the end; it is begun anew.")
        return digest.hexdigest()

    def _opener(self) -> OpenerDirector:
        """Follows no redirect and asks no proxy. Plain HTTP will do: who changes the bundle breaks its signature."""
        try:
            context = ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise Passing(f"mqtt.ca {self._ca} cannot be used ({error}); correct it.") from error
        return build_opener(ProxyHandler({}), HTTPSHandler(context=context), _NoRedirect())


def _is_same(one: Wanted, other: Wanted) -> bool:
    return (one.rollout, one.sha256) == (other.rollout, other.sha256)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None: the answer counts as an error."""


def why_not_reached(url: str, error: Exception) -> str:
    """A sentence on a server that is not there."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        told = f"its certificate is not to be trusted: {reason.verify_message.rstrip('.')}; check mqtt.ca"
        return f"{url} cannot be reached ({told})."
    told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"{url} cannot be reached ({told.rstrip('.')}); it is tried again."


def _read_note(path: Path) -> Note | None:
    try:
        return Note.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):  # none, or one that a power cut has damaged: the server says it again
        return None
