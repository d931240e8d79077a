"""The finder's results on a set of frames as one HTML file, for a person to judge."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bloodedge.decision.kinds import KindCall
from bloodedge.decision.thresholds import Reason
from bloodedge.files import write_text
from bloodedge.finder import Found, FoundCell
from bloodedge.finder.frame_gate import GateResult, check
from bloodedge.finder.parameters import DEFAULT_UM_PER_PX
from bloodedge.imaging import Box, Image, as_image
from bloodedge.report import data_uri, render, words

FRAME_SIDE_PX, CELL_SIDE_PX, OBJECT_SIDE_PX = 1280, 240, 120
"""Longest sides of the pictures."""

_CELL_MARGIN, _OBJECT_MARGIN = 1.2, 2.0
"""A crop's side over the object's longer side; small objects need their surroundings to be judged."""
_BEYOND = (128, 128, 128)
"""Grey where a crop reaches beyond the frame."""

MEANINGS = {
    Reason.TOO_SMALL: "smaller than the nucleus of any white cell: a platelet or debris",
    Reason.TOO_LARGE: "larger than any white cell: a clump or a smear",
    Reason.NO_NUCLEUS: "not the colour of a nucleus: dirt or loose dye",
    Reason.RAGGED: "no solid core: clumped platelets or a torn nucleus",
}


@dataclass(frozen=True)
class Shown:
    """A cell or a rejected object: its kind for the filter, its outline in the frame's pixels and its pictures."""

    kind: str
    outline: str
    raw: str
    cut: str = ""
    cell: FoundCell | None = None
    meaning: str = ""
    call: KindCall | None = None
    """What kind of white cell it is, where that is told."""

    @property
    def tags(self) -> list[str]:
        """The filters that keep it."""
        return [self.kind] if self.call is None else [self.kind, self.call.kind.value]


@dataclass(frozen=True)
class ShownFrame:
    """A frame with its cells, rejected objects and the gate's result."""

    path: Path
    size: tuple[int, int]
    """Width and height in pixels."""
    picture: str
    um_per_px: float
    scale_from: str
    gate: GateResult
    cells: tuple[Shown, ...]
    rejected: tuple[Shown, ...]

    @property
    def kinds(self) -> set[str]:
        """The filters that keep this frame."""
        kinds = {tag for shown in (*self.cells, *self.rejected) for tag in shown.tags}
        gate = {f"gate-{self.gate.reason}"} if self.gate.reason else set()
        return (kinds or {"empty"}) | gate


@dataclass(frozen=True)
class Filter:
    """One choice of the filter: its kind, name and count, and whether it counts objects or frames."""

    kind: str
    name: str
    count: int
    of_things: bool


def shown_frame(
    path: Path, bgr: Image, found: Found, calls: Sequence[KindCall | None], *, scale_given: bool
) -> ShownFrame:
    """A frame uint8 (H, W, 3) with what was found in it, as the page shows it; calls: each cell's kind."""
    measured = "its red cells" if found.um_per_px != DEFAULT_UM_PER_PX else "no red cell to measure, assumed"
    return ShownFrame(
        path=path,
        size=(bgr.shape[1], bgr.shape[0]),
        picture=jpeg(bgr, FRAME_SIDE_PX, 85),
        um_per_px=found.um_per_px,
        scale_from="as given" if scale_given else measured,
        gate=check(bgr),
        cells=tuple(_cell(bgr, cell, call) for cell, call in zip(found.cells, calls, strict=True)),
        rejected=tuple(
            Shown(
                kind=rejected.reason.value,
                outline=_corners(rejected.box),
                raw=jpeg(window(bgr, rejected.box, _OBJECT_MARGIN), OBJECT_SIDE_PX),
                meaning=MEANINGS.get(rejected.reason, ""),
            )
            for rejected in found.rejected
        ),
    )


def write_gallery(frames: Sequence[ShownFrame], unreadable: Sequence[str], target: Path) -> None:
    """Write the page to ``target``, atomically; unreadable: sentences about images that could not be read."""
    write_text(target, page(frames, unreadable))


def page(frames: Sequence[ShownFrame], unreadable: Sequence[str]) -> str:
    """Self-contained HTML."""
    counts = Counter(tag for frame in frames for shown in (*frame.cells, *frame.rejected) for tag in shown.tags)
    areas = [shown.cell.area_um2 for frame in frames for shown in frame.cells if shown.cell and shown.kind == "whole"]
    scales = [frame.um_per_px for frame in frames]
    return render(
        "bloodedge_device.gallery",
        "find.html",
        frames=frames,
        unreadable=unreadable,
        filters=list(_filters(frames, counts)),
        things=counts,
        cells=counts["whole"] + counts["cut"],
        turned_down=sum(len(frame.rejected) for frame in frames),
        turned_away=sum(frame.gate.reason is not None for frame in frames),
        without_cells=sum(not frame.cells for frame in frames),
        median_area=float(np.median(areas)) if areas else None,
        scales=(min(scales), max(scales)),
        meanings=[(reason, meaning) for reason, meaning in MEANINGS.items() if counts[reason]],
    )


def _filters(frames: Sequence[ShownFrame], counts: Counter[str]) -> Iterator[Filter]:
    names = {"whole": "whole cells", "cut": "cells cut by the border"}
    for kind, name in names.items():
        yield Filter(kind, name, counts[kind], of_things=True)
    for kind, number in counts.most_common():
        if kind not in names:
            yield Filter(kind, words(kind), number, of_things=True)
    of_frames = Counter(kind for frame in frames for kind in frame.kinds - counts.keys())
    for kind, number in sorted(of_frames.items()):
        name = "frames: nothing found" if kind == "empty" else f"frames: {words(kind.removeprefix('gate-'))}"
        yield Filter(kind, name, number, of_things=False)


def _cell(bgr: Image, cell: FoundCell, call: KindCall | None) -> Shown:
    """A cell with its crop as it is, and on black as it is cut out for the network."""
    x, y, width, height = cell.box
    alone, inside = np.zeros_like(bgr), np.s_[y : y + height, x : x + width]
    cv2.copyTo(bgr[inside], cell.mask, alone[inside])
    return Shown(
        kind="cut" if cell.touches_border else "whole",
        outline=" ".join(f"{column},{row}" for column, row in cell.outline),
        raw=jpeg(window(bgr, cell.box, _CELL_MARGIN), CELL_SIDE_PX),
        cut=jpeg(window(alone, cell.box, _CELL_MARGIN), CELL_SIDE_PX),
        cell=cell,
        call=call,
    )


def _corners(box: Box) -> str:
    x, y, width, height = box
    return f"{x},{y} {x + width},{y} {x + width},{y + height} {x},{y + height}"


def window(bgr: Image, box: Box, margin: float) -> Image:
    """A square round a box, its side ``margin`` times the box's; what lies beyond the frame is grey."""
    x, y, width, height = box
    side = max(8, round(margin * max(width, height)))
    left, top = x + width // 2 - side // 2, y + height // 2 - side // 2
    inside = bgr[max(0, top) : top + side, max(0, left) : left + side]
    above, before = max(0, -top), max(0, -left)
    below, after = side - above - inside.shape[0], side - before - inside.shape[1]
    return as_image(cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_CONSTANT, value=_BEYOND))


def jpeg(bgr: Image, side_px: int, quality: int = 90) -> str:
    """The picture as a ``data:`` address, its longer side ``side_px`` at most."""
    shrink = side_px / max(bgr.shape[:2])
    if shrink < 1:
        bgr = as_image(cv2.resize(bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA))
    return data_uri(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes(), "image/jpeg")
