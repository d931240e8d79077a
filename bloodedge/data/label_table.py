"""A table of labels: a CSV file that names pictures with their class, and maybe with their person and scale."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.errors import UsageError, unreadable

IMAGE_COLUMNS = ("new_names", "image", "image_id", "image id", "file", "filename", "file_name", "path")
LABEL_COLUMNS = ("labels", "label", "class", "class label", "category")
SUBJECT_COLUMNS = ("subject", "patient", "patient_id", "person")
SCALE_COLUMNS = ("um_per_px",)
"""Names that a column is taken for one by, in any case, where the layout names none."""

SEPARATORS = ",;\t"
SHOWN = 3
"""Pictures and lines that a sentence names."""


@dataclass(frozen=True)
class Row:
    """What the table says of one picture."""

    line: int
    image: str
    """As the table names it, with forward slashes."""
    label: str
    """In lower case."""
    subject: str
    um_per_px: float | None


def read_table(path: Path, layout: DataLayout) -> tuple[list[Row], DataLayout]:
    """The rows of a table, and the layout with the columns that they were taken from.

    Raises UsageError when the file cannot be read, lacks a column, or holds a scale that is none.
    """
    header, lines = _cells(path)
    columns = {
        "image_column": _column(path, header, layout.image_column, IMAGE_COLUMNS, "--image-column", "the pictures"),
        "label_column": _column(path, header, layout.label_column, LABEL_COLUMNS, "--label-column", "the classes"),
        "subject_column": _column(path, header, layout.subject_column, SUBJECT_COLUMNS, "--subject-column"),
        "um_per_px_column": _column(path, header, layout.um_per_px_column, SCALE_COLUMNS, "--um-per-px-column"),
    }
    image, label, subject, scale = (None if name is None else header.index(name) for name in columns.values())
    assert image is not None
    assert label is not None
    rows = [
        Row(
            line=number,
            image=cells[image].strip().replace("\\", "/"),
            label=cells[label].strip().lower(),
            subject="" if subject is None else cells[subject].strip(),
            um_per_px=None if scale is None else _scale(path, number, cells[scale]),
        )
        for number, cells in lines
    ]
    if not rows:
        raise UsageError(f"{path} holds no rows below its header; give the table with the labels.")
    return rows, layout.model_copy(update=columns)


def _cells(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and the other rows with their line numbers, each as long as the header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text (see byte {error.start + 1}); save it as CSV in UTF-8.") from error
    except OSError as error:
        raise UsageError(unreadable(path, error)) from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=first.count))
    header: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    for cells in reader:
        if not header:
            header = [name.strip() for name in cells]
        elif any(cells):
            if len(cells) < len(header):
                raise UsageError(
                    f"{path}, line {reader.line_num}, has {len(cells)} of {len(header)} columns; repair it."
                )
            rows.append((reader.line_num, cells))
    return header, rows


def _column(
    path: Path, header: Sequence[str], named: str | None, usual: Sequence[str], option: str, what: str = ""
) -> str | None:
    """The header's name of a column: the one asked for, or the first usual one.

    what: what it holds, where a table without it is of no use. Raises UsageError when it is missing.
    """
    by_case = {name.lower(): name for name in reversed(header)}
    if named is not None and named.lower() not in by_case:
        raise UsageError(f"{path} has no column {named}; its columns are: {', '.join(header)}.")
    found = by_case[named.lower()] if named else next((by_case[name] for name in usual if name in by_case), None)
    if found is None and what:
        raise UsageError(f"{path} does not say which column names {what}: give {option}, one of: {', '.join(header)}.")
    return found


def _scale(path: Path, line: int, text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = 0.0
    if not 0.005 < value < 5:
        raise UsageError(f'{path}, line {line}: "{text}" is no scale; give micrometres per pixel, such as 0.066.')
    return value


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
