"""A log that somebody tries to fill."""

import io
import logging
from pathlib import Path

from bloodedge.errors import BloodedgeError
from bloodedge.log_limits import LINES, LONGEST, WITHIN_S, LogLimits


def test_a_line_that_repeats_without_end_is_written_a_few_times_a_minute_and_counted() -> None:
    now = [0.0]
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.addFilter(LogLimits(lambda: now[0]))
    log = logging.getLogger("bloodedge.test_log_limits")
    log.addHandler(handler)
    log.propagate = False

    for number in range(1000):
        log.warning("Frame %d was rejected.", number)
        if number % 100 == 0:
            log.warning("Something else, %d.", number)
    lines = written.getvalue().splitlines()
    assert sum("rejected" in line for line in lines) == LINES
    assert sum("Something else" in line for line in lines) == 10

    now[0] += WITHIN_S
    log.warning("Frame %d was rejected.", 1000)
    assert len(written.getvalue().splitlines()) == len(lines) + 1  # another place in the code has its own count
    for _ in range(2):
        now[0] += WITHIN_S
        for number in range(LINES + 7):
            log.warning("Again %d.", number)
    assert f"Again 0. [{7} more such lines were left out]" in written.getvalue()


def test_a_line_without_end_is_cut() -> None:
    record = logging.LogRecord("x", logging.INFO, "f", 1, "%s", ("y" * 10**6,), None)
    assert LogLimits().filter(record)
    assert len(record.getMessage()) < LONGEST + 50


def test_a_name_cannot_forge_a_line_or_steer_a_terminal() -> None:
    name = "slides\nError: all is lost\x1b[2J"
    record = logging.LogRecord("x", logging.INFO, "f", 2, "Bundle %s, %d cells, %s.", (name, 3, Path(name)), None)
    assert LogLimits().filter(record)
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()
    assert "3 cells" in record.getMessage()
    assert "\x1b" not in str(BloodedgeError(f"{name} cannot be read."))
