"""Options that several commands have."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bloodedge.errors import UsageError

PATH = click.Path(path_type=Path)

allow_unreadable_option = click.option(
    "--allow-unreadable", is_flag=True, help="Continue even if more than a tenth of the pictures cannot be used."
)


def goal_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``--sensitivity`` and ``--specificity``; see ``check_goal``."""
    share = click.FloatRange(0, 1, min_open=True, max_open=True)
    what = "on people whom the network was not fitted to"
    for name, cells in (("specificity", "normal cells that are called normal"), ("sensitivity", "blasts called blast")):
        text = f"Choose the thresholds for this share of {cells}, {what}."
        command = click.option(f"--{name}", type=share, metavar="SHARE", help=text)(command)
    return command


def check_goal(sensitivity: float | None, specificity: float | None) -> None:
    """Raise UsageError when both are asked for."""
    if sensitivity is not None and specificity is not None:
        raise UsageError("Thresholds have one goal: give --sensitivity or --specificity, not both.")


def json_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--json``, whose value goes to ``console.emit``."""
    text = f"Write the {what} as JSON to a file, or to stdout for -."
    return click.option("--json", "json_target", metavar="FILE|-", help=text)


def _options_of_data() -> list[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    scale = click.FloatRange(0.005, 5, min_open=True, max_open=True)
    return [
        click.option(
            "--classes",
            multiple=True,
            metavar="NAME=CLASS,...",
            help="Folders of DATA, or labels of its table, that are normal or blast: benign=normal,early=blast. "
            "[default: hem and all]",
        ),
        click.option(
            "--labels", type=PATH, metavar="FILE.csv", help="A table that names the pictures in DATA with their labels."
        ),
        click.option("--image-column", metavar="NAME", help="Its column with the pictures' file names."),
        click.option("--label-column", metavar="NAME", help="Its column with the labels."),
        click.option("--subject-column", metavar="NAME", help="Its column with the person of each picture."),
        click.option("--um-per-px-column", metavar="NAME", help="Its column with micrometres per pixel."),
        click.option(
            "--subject",
            metavar="RULE",
            help="Whose a picture is: the group in brackets of a regular expression on its file's name, or else its "
            r"path in DATA, as '^(\w+)_'. Names as in C-NMC need none.",
        ),
        click.option(
            "--um-per-px",
            type=scale,
            metavar="X",
            help="Micrometres per pixel of DATA, which cells with their surroundings need. [default: C-NMC's 0.066]",
        ),
    ]


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say how DATA are laid out; the command gets them as ``layout``, a ``DataLayout``."""

    @wraps(command)
    def with_layout(
        *args: Any,
        classes: tuple[str, ...],
        labels: Path | None,
        image_column: str | None,
        label_column: str | None,
        subject_column: str | None,
        um_per_px_column: str | None,
        subject: str | None,
        um_per_px: float | None,
        **others: Any,
    ) -> Any:
        from bloodedge.bundle.data_layout import DataLayout
        from bloodedge.text import as_text

        columns = {
            "image_column": image_column,
            "label_column": label_column,
            "subject_column": subject_column,
            "um_per_px_column": um_per_px_column,
        }
        unused = next((name for name, value in columns.items() if value and labels is None), None)
        if unused:
            raise UsageError(f"--{unused.replace('_', '-')} names a column of a table; give the table with --labels.")
        layout = DataLayout(
            classes=_classes(classes),
            labels=labels and as_text(labels.absolute() if labels.exists() else labels),
            subject=subject,
            um_per_px=um_per_px,
            **columns,
        )
        return command(*args, layout=layout, **others)

    decorated: Callable[..., Any] = with_layout
    for option in reversed(_options_of_data()):
        decorated = option(decorated)
    return decorated


CLASSES: dict[str, Any] = {"normal": "normal", "hem": "normal", "blast": "blast", "all": "blast"}


def _classes(given: tuple[str, ...]) -> dict[str, Any]:
    """Name in lower case to class; raises UsageError for what is no class, and for a name of two."""
    found: dict[str, Any] = {}
    for pair in (pair.strip() for text in given for pair in text.split(",")):
        name, _, word = pair.rpartition("=")
        what = CLASSES.get(word.strip().lower())
        if not name.strip() or what is None:
            raise UsageError(f'--classes takes NAME=normal and NAME=blast, separated by commas; "{pair}" is neither.')
        if found.setdefault(name.strip().lower(), what) != what:
            raise UsageError(f"--classes says of {name.strip()} both normal and blast; keep one.")
    return found
