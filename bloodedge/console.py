"""What people see in the terminal: progress on stderr, tables, and JSON for programs on stdout."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bloodedge.dataset import Progress
from bloodedge.files import write_json
from bloodedge.text import shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def console(*, stderr: bool = False) -> "Console":
    """A rich console, 110 columns wide where the output is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 110)


def plain(text: str) -> "Text":
    """Words from elsewhere, as they are: no markup, and nothing that a terminal would obey or that hides a part."""
    from rich.text import Text

    return Text(shown(text))


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar on stderr with the time left; yields the callback to feed it with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def emit_json(value: Any, target: str) -> None:
    """Write ``value`` as JSON to stdout for ``-``, else to the file ``target``, whole or not at all."""
    if target == "-":
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    else:
        write_json(Path(target), value)
