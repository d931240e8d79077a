"""What a person or a program may ask of the running daemon."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bloodedge_device.slide.review import Review, Sampling
from bloodedge_device.snapshot.live import Live
from bloodedge_device.snapshot.snapshot import Snapshot
from bloodedge_device.store import Store


@dataclass(frozen=True)
class Desk:
    """The daemon as its page sees it; everything may be called from any thread.

    ``actor`` is who asks, for the audit log: "page", "api", "command line".
    """

    live: Live
    store: Store
    snapshot: Callable[[], Snapshot]
    """Everything at this moment; cheap enough to ask several times a second."""
    start_slide: Callable[[str, str], int]
    """(label, actor): ends the current slide, if any, and begins one; gives its id. UsageError for a bad label."""
    end_slide: Callable[[str], int | None]
    """(actor): ends the current slide; gives its id, None when there was none."""
    label_slide: Callable[[int, str, str], None]
    """(slide, label, actor): gives a slide another label; UsageError when there is no such slide."""

    @property
    def state(self) -> Path:
        """The state folder; read it with ``store.open_for_reading`` and ``report.read_report``."""
        return self.store.state

    def review(self, cell: int, review: Review, sampling: Sampling, actor: str) -> None:
        """Store what a person says about a cell; BloodedgeError when there is no such cell."""
        self.review_all({cell: review}, sampling, actor)

    def review_all(self, reviews: Mapping[int, Review], sampling: Sampling, actor: str) -> None:
        """Store what a person says of several cells, or of none; BloodedgeError when there is no such cell."""

        def steps() -> None:
            for cell, review in reviews.items():
                self.store.review(cell, review, sampling, actor)

        self.store.at_once(steps)
