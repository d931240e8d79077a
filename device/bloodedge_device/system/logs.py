"""The daemon's log: plain lines, lines with a priority for the journal, or JSON."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from bloodedge.errors import UsageError
from bloodedge.log_limits import LogLimits
from bloodedge.redact import redacted

PRIORITIES = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}
"""syslog(3)'s priorities, which the journal reads from a line's ``<N>`` (sd-daemon(3))."""


class DeviceHandler(logging.StreamHandler[TextIO]):
    """The handler of ``configure_logging``.

    It writes to a duplicate of the stream's file, because stderr itself is silenced while an engine loads a network.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(_duplicate(stream) or stream)
        self._own = self.stream is not stream

    def close_stream(self) -> None:
        """Close the duplicate; nothing can be logged afterwards."""
        if self._own:
            self.stream.close()


def _duplicate(stream: TextIO) -> TextIO | None:
    """Another stream to the same file; None where the stream is no file."""
    try:
        stream.flush()
        file = os.dup(stream.fileno())
    except (OSError, ValueError):  # not a file at all, or closed
        return None
    return os.fdopen(file, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)


def configure_logging(stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
    """Log bloodedge's messages and everyone's warnings to ``stream``.

    Lines are JSON with BLOODEDGE_LOG=json, start with a priority where the stream is the journal's, else are plain.
    Raises UsageError for another BLOODEDGE_LOG.
    """
    handler = DeviceHandler(stream)
    handler.setFormatter(_formatter(stream, environ))
    handler.addFilter(LogLimits())
    root = logging.getLogger()
    for earlier in [old for old in root.handlers if isinstance(old, DeviceHandler)]:
        root.removeHandler(earlier)
        earlier.close_stream()
    root.addHandler(handler)
    logging.getLogger("bloodedge").setLevel(logging.INFO)


def _formatter(stream: TextIO, environ: Mapping[str, str]) -> logging.Formatter:
    kind = environ.get("BLOODEDGE_LOG", "")
    if kind not in {"", "json"}:
        raise UsageError(f'BLOODEDGE_LOG is "{kind}"; set it to json for JSON lines, or unset it for plain ones.')
    if kind == "json":
        return _JsonLines()
    return _JournalLines() if goes_to_journal(stream, environ) else _PlainLines()


def goes_to_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the journal's, by JOURNAL_STREAM (systemd.exec(5))."""
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
