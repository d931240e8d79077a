"""What people see in the terminal: progress on stderr, tables, and JSON for programs on stdout."""

import faulthandler
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING, Any, TextIO

import click

from bloodedge.errors import BloodedgeError
from bloodedge.files import write_json
from bloodedge.text import as_text, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.text import Text

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


def console(*, stderr: bool = False) -> "Console":
    """A rich console, 110 columns wide where the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 110)


def plain(text: str) -> "Text":
    """Text from outside, literally: no markup, no control characters."""
    from rich.text import Text

    return Text(shown(text))


SHORT_S = 0.5
"""A step that has not reported yet is named after so long."""

LINE_EVERY_S = 30.0
"""Seconds between the lines of one step where the output is no terminal."""


def say(sentence: str) -> None:
    """A line on stderr, above the progress bar where there is one."""
    click.echo(sentence, err=True)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Progress of one step, as ``steps`` shows it; yields the callback to call with (done, total)."""
    with steps() as report:
        begun = Timer(SHORT_S, report, (title, 0, 0))  # a step that fails at once needs no line
        begun.daemon = True
        begun.start()

        def update(done: int, total: int) -> None:
            begun.cancel()
            report(title, done, total)

        try:
            yield update
        finally:
            begun.cancel()


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """Progress of several steps on stderr: a bar for the current step on a terminal, else a line for each step.

    Yields the callback to call with (the step's name, done, total).
    """
    out = console(stderr=True)
    if not out.is_interactive:
        yield _Lines()
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[count]}"))
    with Bar(*columns, TimeRemainingColumn(), console=out, transient=True, speed_estimate_period=600) as bar:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, visible=False)
                tasks[what] = bar.add_task(what, total=None, count="")
            count = f"{done}/{total}" if total > 1 else ""
            bar.update(tasks[what], completed=done, total=total or None, count=count)

        yield report


class _Lines:
    """Steps as lines, for a file or another program."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._printed_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Print a line when a step begins, and every LINE_EVERY_S while it goes on."""
        now_s = monotonic()
        if what not in self._begun:
            self._begun.add(what)
            line = what
        elif done < total and now_s - self._printed_s >= LINE_EVERY_S:
            line = f"{what}: {done} of {total}"
        else:
            return
        self._printed_s = now_s
        click.echo(line, err=True)


@contextmanager
def runtimes_aside() -> Iterator[None]:
    """Send what the runtimes' native code prints to stderr to a file: in the terminal it would break progress bars.

    The file's end is shown when the command fails unexpectedly. After a crash the file remains in the folder for
    temporary files (bloodedge-runtimes-*.log).
    """
    python = sys.stderr
    if not _is_file(python, STDERR):
        yield
        return
    handle, name = tempfile.mkstemp(prefix="bloodedge-runtimes-", suffix=".log")
    log = Path(name)
    python.flush()
    terminal = os.dup(STDERR)
    os.dup2(handle, STDERR)
    os.close(handle)
    with os.fdopen(terminal, "w", buffering=1, encoding=python.encoding, errors=python.errors) as own:
        sys.stderr = own
        faulthandler.enable(own)
        try:
            yield
        except Exception as error:
            if not isinstance(error, BloodedgeError | click.ClickException | click.Abort | OSError):
                click.echo(log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:], err=True)
            raise
        finally:
            faulthandler.disable()
            os.dup2(terminal, STDERR)
            sys.stderr = python
            log.unlink(missing_ok=True)


STDERR = 2
LOG_TAIL = 4000
"""Characters of the runtimes' log that are shown."""


def _is_file(stream: TextIO | None, number: int) -> bool:
    """Whether a stream writes to the file descriptor ``number``; a test's or program's replacement does not."""
    try:
        return stream is not None and stream.fileno() == number
    except (OSError, ValueError):
        return False


def emit_toml(text: str) -> None:
    """Print TOML: on a terminal in its encoding, elsewhere in UTF-8 as TOML requires."""
    click.echo(text if sys.stdout.isatty() else as_text(text).encode(), nl=False)


def emit(value: Any, target: str | None, show: Callable[[], object]) -> None:
    """Write a result as JSON to ``target``, if there is one, and ``show`` it unless the JSON goes to stdout."""
    if target:
        emit_json(value, target)
    if target != "-":
        show()


def emit_json(value: Any, target: str) -> None:
    """Write ``value`` as JSON to stdout for ``-``, else to the file ``target``, whole or not at all."""
    if target == "-":
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    else:
        write_json(Path(target), value)
