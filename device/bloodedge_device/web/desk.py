"""What a person or a program may ask of the running daemon."""

from pathlib import Path
from typing import Protocol

from bloodedge_device.daemon.live import Live
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.snapshot.status import Status


class Desk(Protocol):
    """The daemon as its page sees it; every method may be called from any thread.

    ``actor`` is who asks, for the audit log: "page", "api", "command line".
    """

    live: Live

    @property
    def settings(self) -> DeviceSettings:
        """Those in force."""
        ...

    @property
    def state(self) -> Path:
        """The state folder; read it with ``store.open_for_reading`` and ``report.read_report``."""
        ...

    def status(self) -> Status:
        """Everything at this moment; at most a few milliseconds old, cheap enough to ask several times a second."""
        ...

    def metrics(self) -> bytes:
        """Prometheus' text."""
        ...

    def start_slide(self, label: str, actor: str) -> int:
        """End the slide in work, if any, and begin one; gives its id. UsageError when the label is too long."""
        ...

    def end_slide(self, actor: str) -> int | None:
        """End the slide in work; gives its id, None when there was none."""
        ...

    def label_slide(self, slide: int, label: str, actor: str) -> None:
        """Give a slide, in work or ended, another label; UsageError when there is no such slide."""
        ...

    def review(self, cell: int, label: str, sampling: str, actor: str) -> None:
        """Store what a person says of a cell.

        UsageError for a wrong label or sampling, BloodedgeError when there is no such cell.
        """
        ...

    def note(self, actor: str, action: str, detail: dict[str, object]) -> None:
        """Add to the audit log: logins, refused ones, exports."""
        ...
