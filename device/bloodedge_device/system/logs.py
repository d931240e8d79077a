"""The daemon's log: lines for people, lines with a priority for the journal, or JSON for programs."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from bloodedge.errors import UsageError
from bloodedge.redact import redacted

PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""syslog(3)'s, which the journal takes from a line's ``<N>``: sd-daemon(3)."""


class DeviceHandler(logging.StreamHandler[TextIO]):
    """The one handler that ``configure_logging`` puts in place.

    It writes to a duplicate of the stream's file, for stderr itself is silenced while an engine loads a network.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(_duplicate(stream) or stream)
        self._own = self.stream is not stream

    def let_go(self) -> None:
        """Close the duplicate; nothing may be logged here any more."""
        if self._own:
            self.stream.close()


def _duplicate(stream: TextIO) -> TextIO | None:
    """Another stream to the same file; None where there is no file."""
    try:
        stream.flush()
        file = os.dup(stream.fileno())
    except (OSError, ValueError):  # not a file at all, or closed
        return None
    return os.fdopen(file, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def configure_logging(stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
    """Log to ``stream``: bloodedge's news and everybody's warnings.

    Lines are JSON with BLOODEDGE_LOG=json, begin with a priority where the stream goes to the journal, and are plain
    otherwise. Raises UsageError for another BLOODEDGE_LOG.
    """
    handler = DeviceHandler(stream)
    handler.setFormatter(_formatter(stream, environ))
    root = logging.getLogger()
    for earlier in [old for old in root.handlers if isinstance(old, DeviceHandler)]:
        root.removeHandler(earlier)
        earlier.let_go()
    root.addHandler(handler)
    logging.getLogger("bloodedge").setLevel(logging.INFO)


def _formatter(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    wanted = environ.get("BLOODEDGE_LOG", "")
    if wanted not in {"", "json"}:
        raise UsageError(f'BLOODEDGE_LOG is "{wanted}"; set it to json for JSON lines, or unset it for plain ones.')
    if wanted == "json":
        return _JsonLines()
    return _JournalLines() if goes_to_journal(stream, environ) else _PlainLines()


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether JOURNAL_STREAM's device and inode are the stream's, as systemd.exec(5) says to find out."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file at all, or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = redacted(super().format(record))
        return f"{record.levelname.capitalize()}: {text}" if record.levelno >= logging.WARNING else text


class _JournalLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{PRIORITIES.get(record.levelno, 5)}>"
        return "\n".join(prefix + line for line in redacted(super().format(record)).splitlines())


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)
