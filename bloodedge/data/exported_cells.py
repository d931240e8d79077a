"""Cells that left a device as a data set: ``bloodedge device export`` writes it, ``train`` and ``finetune`` read it.

    CELLS/cells.csv                         a row a cell, under COLUMNS
    CELLS/<class>/<kind>/<bench>-s<slide>-c<cell>.png   the cell alone: RGBA, black and transparent outside its mask
    CELLS/images/<bench>-s<slide>-c<cell>.png           the same crop with its surroundings, RGB
    CELLS/left_out.csv                      cells that were asked for and are not there, with the reason
    CELLS/README.txt

Classes are ``blast``, ``normal``, ``other`` (a cell of which *blast or normal?* is not asked) and ``no_class`` (nobody
said). Pixels, mask and light are those that ``network_input`` took on the device, so ``network_input`` of ``read_cell``
gives the same bytes. Nothing in it names a patient: no label of a slide, no file's name, no date, no reviewer.
"""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import read_text
from bloodedge.imaging import Cell, Light, as_image

CSV = "cells.csv"
IMAGES = "images"
LEFT_OUT = "left_out.csv"
CLASSES = ("blast", "normal", "other", "no_class")


@dataclass(frozen=True)
class ExportedCell:
    """A row of cells.csv. What is not known is empty; of ``model_`` columns, what the device had said."""

    file: str
    """Path inside the folder, with forward slashes."""
    label: str
    """One of CLASSES, as the reviewer said; the CSV's column is ``class``."""
    kind: str
    """As the reviewer said (bloodedge.decision.kinds); unknown where that was not said."""
    stage: str
    """band or segmented, of a neutrophil."""
    subject: str
    """The person. Each slide counts as one, until somebody gives two slides the same subject here."""
    bench: str
    """Six hexadecimal digits that stand for the device's database, so that two devices' slides are told apart."""
    slide: int
    frame: int
    cell: int
    x: int
    """Of the cell's box in its frame, in pixels, as y, width and height are."""
    y: int
    width: int
    height: int
    um_per_px: float
    light_blue: int | None
    """Level of the empty field at the cell, 0..255, as green and red are."""
    light_green: int | None
    light_red: int | None
    density_blue: float | None
    """Mean optical density of the cell against that light, as green and red are: its stain."""
    density_green: float | None
    density_red: float | None
    sampling: str
    """How the reviewed cell was chosen: ``random`` from its slide, or not; error rates may use random ones only."""
    model: str
    """The bundle's name."""
    model_serial: int
    model_label: str
    model_reason: str
    """Why it was uncertain."""
    model_blast_probability: float | None
    model_kind: str
    model_kind_probability: float | None


COLUMNS = tuple("class" if field.name == "label" else field.name for field in fields(ExportedCell))
_NUMBERS = {field.name: field.type for field in fields(ExportedCell) if field.type is not str}


def is_export(root: Path) -> bool:
    """Whether a folder is one of exported cells."""
    try:
        with (root / CSV).open(encoding="utf-8", newline="") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return {"file", "class", "um_per_px"} <= set(header)


def csv_text(cells: Iterable[ExportedCell]) -> str:
    """cells.csv (RFC 4180)."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([_written(value) for value in asdict(cell).values()] for cell in cells)
    return text.getvalue()


def _written(value: str | float | None) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def read_export(root: Path) -> list[ExportedCell]:
    """The rows of a folder's cells.csv; columns that somebody added are ignored.

    Raises UsageError when the file is missing or a row is wrong.
    """
    path = root / CSV
    try:
        return list(_rows(path, io.StringIO(read_text(path), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); give a folder that bloodedge device export wrote."
        ) from error


def _rows(path: Path, text: io.StringIO) -> Iterator[ExportedCell]:
    reader = csv.DictReader(text)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise UsageError(f"{path} lacks the column {missing[0]}; export the cells again.")
    for number, row in enumerate(reader, 2):
        try:
            cell = _row(row)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number}: {error}; correct it, or export the cells again.") from error
        inside = Path(cell.file)
        if inside.is_absolute() or ".." in inside.parts:
            raise UsageError(f"{path}, line {number}: {cell.file} is not inside the folder; correct it.")
        yield cell


def _row(row: dict[str, str]) -> ExportedCell:
    values: dict[str, str | float | None] = {}
    for column in COLUMNS:
        name = "label" if column == "class" else column
        text = row[column].strip()
        if name not in _NUMBERS:
            values[name] = text
        elif text:
            values[name] = int(text) if "int" in str(_NUMBERS[name]) else float(text)
        elif "None" in str(_NUMBERS[name]):
            values[name] = None
        else:
            message = f"{column} is empty"
            raise ValueError(message)
    if values["label"] not in CLASSES:
        message = f'"{values["label"]}" is no class, which is one of {", ".join(CLASSES)}'
        raise ValueError(message)
    return ExportedCell(**values)  # type: ignore[arg-type]


def exported_cell(path: Path) -> Cell | None:
    """The cell of a picture of exported cells, its scale left at 1; None for any other file."""
    if len(path.parents) < 3 or path.suffix != ".png" or not is_export(path.parents[2]):
        return None
    root = path.parents[2]
    try:
        light = _lights(root, (root / CSV).stat().st_mtime_ns).get(path.relative_to(root).as_posix())
        return read_cell(path, 1.0, light)
    except BloodedgeError:  # somebody put another picture in its place
        return None


@lru_cache(maxsize=8)
def _lights(root: Path, _changed_ns: int) -> dict[str, Light]:
    """Each cell's light, by its file, where it is known."""
    lights: dict[str, Light] = {}
    for row in csv.DictReader(io.StringIO(read_text(root / CSV), newline="")):
        with suppress(KeyError, TypeError, ValueError):
            lights[row["file"]] = int(row["light_blue"]), int(row["light_green"]), int(row["light_red"])
    return lights


def read_cell(path: Path, um_per_px: float, light: Light | None = None) -> Cell:
    """An exported cell as the device had it: pixels, and the mask from the alpha channel; light: its row's.

    Raises BloodedgeError where the file is missing, damaged or has no alpha channel.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BloodedgeError(f"{path} cannot be read ({error.strerror}); export the cells again.") from error
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None or image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise BloodedgeError(f"{path} is not a whole RGBA picture; export the cells again.")
    return Cell(as_image(np.ascontiguousarray(image[:, :, :3])), as_image(image[:, :, 3]), um_per_px, light)
