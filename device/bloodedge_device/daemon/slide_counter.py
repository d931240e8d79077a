"""Keeps the counts of slides that have ended, in a thread of its own: a large slide takes a board seconds."""

import logging
import threading

from bloodedge.errors import BloodedgeError
from bloodedge_device.store import Store

log = logging.getLogger("bloodedge.device")


class SlideCounter:
    """Counts what is not kept every few seconds; ``stop`` ends it at once, in the middle of a slide too."""

    def __init__(self, store: Store, every_s: float) -> None:
        self._store, self._every_s = store, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slide counts", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self._store.keep_counts(self._stopping.is_set)
            except BloodedgeError as error:  # the recorder reports a disk in trouble; pages count for themselves
                log.info("Slides are counted later: %s", error)
            except Exception:
                log.exception("Slides could not be counted; it is tried again.")
