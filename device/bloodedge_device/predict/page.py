"""Predictions as one HTML file, for a person to judge: small pictures side by side, fields with their cells below."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bloodedge.decision.kinds import Kind
from bloodedge.decision.thresholds import WHY_UNCERTAIN
from bloodedge.files import write_text
from bloodedge.imaging import Box, Image
from bloodedge.report import render, words
from bloodedge.text import as_text
from bloodedge_device.gallery import jpeg, window
from bloodedge_device.predict.predictor import Add, CellPrediction, Prediction

FIELD_SIDE_PX, CARD_SIDE_PX = 1000, 144
"""Longest sides of the pictures: a cell takes about 5 KB, so that thousands fit into a page."""
_MARGIN = 1.3
"""A cell's picture over its longer side."""
DECISIONS = ("blast", "normal", "uncertain", "other")


@dataclass(frozen=True)
class Card:
    """One cell: its picture with its outline, and what is said of it."""

    name: str
    picture: str
    view: str
    """The picture's part of the source, as an SVG view box."""
    outline: str
    cell: CellPrediction | None
    """None where a picture has no cell."""

    @property
    def kind(self) -> str:
        """In words, with its stage."""
        call = self.cell and self.cell.kind
        if not call:
            return "no kind"
        return f"{call.stage} {call.kind.words}" if call.stage else call.kind.words

    @property
    def reason(self) -> str:
        """Why it is uncertain, in words."""
        reason = self.cell and self.cell.reason
        return WHY_UNCERTAIN.get(reason, words(reason)) if reason else ""

    @property
    def tags(self) -> list[str]:
        """The filters that keep it."""
        if self.cell is None:
            return ["empty"]
        return [self.cell.decision, f"kind-{self.cell.kind.kind if self.cell.kind else 'none'}"]


@dataclass
class Section:
    """A field with its cells, or the small pictures of a folder that followed one another."""

    title: str
    note: str = ""
    picture: str = ""
    """Of a field; empty for a folder."""
    size: tuple[int, int] = (0, 0)
    cards: list[Card] = field(default_factory=list)
    rejected: list[tuple[Box, str]] = field(default_factory=list)

    @property
    def tags(self) -> set[str]:
        """The filters that keep it."""
        return {tag for card in self.cards for tag in card.tags} or {"empty"}


@contextmanager
def gallery_file(target: str) -> Iterator[Add]:
    """A page, written when the block ends; it holds small copies of the pictures in memory until then."""
    sections: list[Section] = []
    problems: list[str] = []

    def add(prediction: Prediction) -> None:
        if prediction.picture.problem is not None:
            problems.append(prediction.picture.problem)
        elif prediction.shows == "field":
            sections.append(_field(prediction))
        else:
            folder = as_text(prediction.picture.path.parent)
            if not sections or sections[-1].picture or sections[-1].title != folder:
                sections.append(Section(folder))
            sections[-1].cards += _cards_of_small(prediction)

    yield add
    write_text(Path(target), page(sections, problems))


def page(sections: list[Section], problems: list[str]) -> str:
    """Self-contained HTML; problems: sentences about pictures that could not be read."""
    cards = [card for section in sections for card in section.cards]
    counts = Counter(tag for card in cards for tag in card.tags)
    kinds = [(f"kind-{kind}", kind.words) for kind in Kind] + [("kind-none", "no kind")]
    return render(
        "bloodedge_device.predict",
        "predict.html",
        sections=sections,
        problems=problems,
        cells=sum(card.cell is not None for card in cards),
        decisions=[(tag, tag, counts[tag]) for tag in DECISIONS if counts[tag]],
        kinds=[(tag, name, counts[tag]) for tag, name in kinds if counts[tag]],
        without=sum(section.tags == {"empty"} for section in sections if section.picture) + counts["empty"],
    )


def _field(prediction: Prediction) -> Section:
    bgr = _pixels(prediction)
    height, width = bgr.shape[:2]
    quality = "" if prediction.quality is None else f" · the frame gate would refuse it: {words(prediction.quality)}"
    return Section(
        title=as_text(prediction.picture.name),
        note=f"{as_text(prediction.picture.path.parent)} · {width} by {height} px · {_scale(prediction)}{quality}",
        picture=jpeg(bgr, FIELD_SIDE_PX, 80),
        size=(width, height),
        cards=[_card(bgr, cell, f"Cell {number}") for number, cell in enumerate(prediction.cells, 1)],
        rejected=[(other.box, words(other.reason)) for other in prediction.rejected],
    )


def _cards_of_small(prediction: Prediction) -> list[Card]:
    """A small picture's cells in the whole picture; the picture alone where none was found."""
    bgr, name = _pixels(prediction), as_text(prediction.picture.name)
    height, width = bgr.shape[:2]
    picture, view = jpeg(bgr, CARD_SIDE_PX, 80), f"0 0 {width} {height}"
    cells: tuple[CellPrediction | None, ...] = prediction.cells or (None,)
    return [Card(name, picture, view, _points(cell), cell) for cell in cells]


def _card(bgr: Image, cell: CellPrediction, name: str) -> Card:
    x, y, width, height = cell.box
    side = max(8, round(_MARGIN * max(width, height)))
    left, top = x + width // 2 - side // 2, y + height // 2 - side // 2
    picture = jpeg(window(bgr, cell.box, _MARGIN), CARD_SIDE_PX, 80)
    return Card(name, picture, f"{left} {top} {side} {side}", _points(cell), cell)


def _points(cell: CellPrediction | None) -> str:
    return "" if cell is None else " ".join(f"{x},{y}" for x, y in cell.outline)


def _scale(prediction: Prediction) -> str:
    return f"{prediction.um_per_px or 0:.3f} µm per px"


def _pixels(prediction: Prediction) -> Image:
    bgr = prediction.picture.bgr
    return np.zeros((16, 16, 3), np.uint8) if bgr is None else bgr
