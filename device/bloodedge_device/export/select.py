"""Which stored cells an export holds, with what reviewers said of them."""

import hashlib
import re
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge_device.export.answers import Answer, Said, settle
from bloodedge_device.store import open_for_reading
from bloodedge_device.store.database import CROPS

NO_IMAGE = "its image was not kept, or was removed to make room"
NO_MASK = "its image was stored by an earlier version, without the cell's outline"
CUT = "the frame's border cuts it"

SLIDES_NAMED = 20
"""Most slides that a sentence names."""


@dataclass(frozen=True)
class Wanted:
    """What to export."""

    reviewed: bool = False
    """Only cells that somebody reviewed."""
    slides: tuple[str, ...] = ()
    """Ids or labels; empty: every slide."""
    since: datetime | None = None
    """Only cells in frames captured then or later."""

    @classmethod
    def of(cls, *, reviewed: bool = False, slides: str = "", since: str = "") -> "Wanted":
        """Of words from outside; slides: ids or labels with commas between. Raises UsageError for a bad date."""
        named = tuple(name.strip() for name in slides.split(",") if name.strip())
        return cls(reviewed, named, _date(since.strip()) if since.strip() else None)


@dataclass(frozen=True)
class StoredCell:
    """A cell of the database."""

    row: dict[str, Any]
    said: Said
    image: Path
    """As stored."""


@dataclass(frozen=True)
class LeftOut:
    """A cell that was asked for and cannot be exported."""

    cell: int
    slide: int
    frame: int
    reason: str
    contradictory: bool = False


@dataclass
class Selection:
    """The cells of an export, and those that had to be left out."""

    bench: str
    cells: list[StoredCell] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def _date(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f'"{text}" is no date; write it as 2026-11-30, or 2026-11-30T14:00.') from error
    return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)


def select(state: Path, wanted: Wanted) -> Selection:
    """The cells that are wanted, each once, oldest first.

    Raises UsageError where a slide is unknown, or nothing is there to export; BloodedgeError as ``open_for_reading``.
    """
    with open_for_reading(state) as database:
        database.execute("BEGIN")  # one consistent state, whatever the daemon stores meanwhile
        slides = _slides(database, state, wanted.slides)
        selection = Selection(_bench(database))
        for slide in slides:
            for views in _cells_of(database, slide, wanted):
                _add(selection, state, views, _answers(database, [view["cell"] for view in views]))
    if not (selection.cells or selection.left_out):
        raise UsageError(_nothing(state, wanted))
    if not selection.cells:
        first = selection.left_out[0]
        raise BloodedgeError(
            f"None of {len(selection.left_out)} cells can be exported; the first, cell {first.cell} of slide"
            f" {first.slide}: {first.reason}."
        )
    return selection


def _slides(database: sqlite3.Connection, state: Path, named: Sequence[str]) -> list[int]:
    """Ids of the slides; UsageError for a name that no slide has."""
    labels = {int(row["id"]): str(row["label"]) for row in database.execute("SELECT id, label FROM slides ORDER BY id")}
    found = set[int]()
    for name in named:
        of_name = [slide for slide, label in labels.items() if name in {str(slide), label}]
        if not of_name:
            there = [f"{slide} ({label})" if label else str(slide) for slide, label in labels.items()]
            more = f" and {len(there) - SLIDES_NAMED} more" if len(there) > SLIDES_NAMED else ""
            have = f"it has {', '.join(there[:SLIDES_NAMED])}{more}" if there else "it has none yet"
            raise UsageError(f'{state} has no slide "{name}"; {have}.')
        found.update(of_name)
    return sorted(found) if named else list(labels)


def _nothing(state: Path, wanted: Wanted) -> str:
    among = " among these slides and dates" if wanted.slides or wanted.since else ""
    if not wanted.reviewed:
        return f"There is no cell{among} in {state}; make some with: bloodedge device run --state {quoted(state)}"
    return (
        f"No cell{among} was reviewed in {state}; review some on the device's page, or leave out --reviewed to export"
        " cells without answers."
    )


def _bench(database: sqlite3.Connection) -> str:
    """Six digits that stand for the database: slides are counted from 1 in each."""
    first = database.execute("SELECT started, hardware FROM runs ORDER BY id LIMIT 1").fetchone()
    return hashlib.sha256("|".join(first or ("",)).encode()).hexdigest()[:6]


_COLUMNS = (
    "SELECT cells.id AS cell, slides.id AS slide, frames.number AS frame, frames.um_per_px, cells.x, cells.y,"
    " cells.width, cells.height, cells.label, cells.reason, blast_probability, cells.kind, cells.kind_probability,"
    " cells.crop, cells.light, cells.number, repeated, bundle_name, bundle_serial FROM cells"
    " JOIN frames ON frames.id = cells.frame JOIN slides ON slides.id = frames.slide JOIN runs ON runs.id = slides.run"
)


def _cells_of(database: sqlite3.Connection, slide: int, wanted: Wanted) -> list[list[dict[str, Any]]]:
    """A slide's wanted cells, each as its views, the one that counts last."""
    which = " AND cells.id IN (SELECT cell FROM reviews)" if wanted.reviewed else ""
    since = "" if wanted.since is None else wanted.since.isoformat()
    query = f"{_COLUMNS} WHERE frames.slide = ? AND captured_at >= ?{which} ORDER BY repeated DESC, cells.id"
    views: defaultdict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in database.execute(query, (slide, since)):
        known = row["number"] is not None
        views["number" if known else "cell", row["number"] if known else row["cell"]].append(dict(row))
    return sorted(views.values(), key=lambda rows: int(rows[-1]["cell"]))


def _answers(database: sqlite3.Connection, cells: Sequence[int]) -> list[Answer]:
    marks = ", ".join("?" * len(cells))
    query = f"SELECT label, kind, stage, sampling, reviewer FROM reviews WHERE cell IN ({marks}) ORDER BY id"  # noqa: S608
    return [Answer(**row) for row in database.execute(query, cells)]


def _add(selection: Selection, state: Path, views: list[dict[str, Any]], answers: list[Answer]) -> None:
    """Put a cell where it belongs; of several views the first that counts and can be exported stands for it."""
    said = settle(answers)
    row = views[-1]
    image = state / CROPS / (row["crop"] or "")
    reason = said.problem or _unfit(row, image)
    if reason:
        selection.left_out.append(LeftOut(row["cell"], row["slide"], row["frame"], reason, said.contradictory))
    else:
        selection.cells.append(StoredCell(row, said, image))


def _unfit(row: dict[str, Any], image: Path) -> str:
    """Why a cell cannot be exported; empty where it can."""
    if row["reason"] == "cut_by_border":
        return CUT
    if row["crop"] is None or not re.fullmatch(r"\d+/[\d/-]+\.(png|jpg)", row["crop"]) or not image.is_file():
        return NO_IMAGE
    return "" if image.suffix == ".png" else NO_MASK
