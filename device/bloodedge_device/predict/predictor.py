"""What is said of the cells in a picture, whatever it shows: a cell cut out on black, a crop, or a field."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import cv2

from bloodedge.bundle.manifest import Manifest
from bloodedge.data.pictures import in_threads
from bloodedge.decision.kinds import KindCall
from bloodedge.decision.thresholds import Reason
from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError
from bloodedge.finder import Found, FoundCell, Rejected, find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.imaging import CNMC_UM_PER_PX, Box, Cell, Image, cell_on_black, is_on_black
from bloodedge_device.classify import CellClass, CellClassifier
from bloodedge_device.kinds import KindInput, KindsOf
from bloodedge_device.latency import StageTimes
from bloodedge_device.predict.pictures import Picture

CROP_UM = 50.0
"""A picture that is smaller is a crop: the cell in its middle is judged, also where the picture's border cuts it."""
LARGEST_CELL_UM2 = 700.0
"""What is larger on black is no cell but a whole field, round as an eyepiece shows it; 30 µm across."""

Shows = Literal["cell", "crop", "field"]
"""What a picture is taken for: ``cell`` is one cut out on black."""
Find = Callable[[Image, float | None], Found]


@dataclass(frozen=True)
class CellPrediction:
    """What is said of one cell; box and outline in the picture's pixels."""

    box: Box
    outline: tuple[tuple[int, int], ...]
    area_um2: float
    touches_border: bool
    decision: str
    """blast, normal or uncertain; other where that is not asked of its kind."""
    blast_probability: float | None = None
    reason: Reason | None = None
    kind: KindCall | None = None
    """None where the border cuts the cell, or kinds are not told."""


@dataclass(frozen=True)
class Prediction:
    """One picture's cells, or why it could not be read; it holds the picture's pixels and so is not to be kept."""

    picture: Picture
    shows: Shows | None = None
    """None where it could not be read."""
    um_per_px: float | None = None
    cells: tuple[CellPrediction, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    quality: Reason | None = None
    """Why the device's frame gate would refuse the picture; None where it would not, and for a cell on black."""


Add = Callable[[Prediction], None]
"""Takes one picture's cells, for an output."""


@dataclass(frozen=True)
class _Whole:
    """A cell to be classified: number of its picture and of the cell in it, and what the networks take."""

    picture: int
    number: int
    cell: Cell
    kind_input: KindInput


@dataclass(frozen=True)
class _Seen:
    """A picture's cells before they are classified; whole: (number, cell, what the kind network takes)."""

    prediction: Prediction
    whole: tuple[tuple[int, Cell, KindInput], ...] = ()


class Predictor:
    """One bundle's network and the kind network, over any number of pictures."""

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        kinds: KindsOf | None,
        um_per_px: float | None = None,
        find: Find = find_cells,
    ) -> None:
        """um_per_px: of every picture; default: C-NMC's for cells on black, else measured in each picture."""
        self._helper = ThreadPoolExecutor(1, "domain")
        self._classifier = CellClassifier(engine, manifest, kinds, self._helper, StageTimes())
        self._um_per_px, self._find = um_per_px, find

    def predict(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """What is said of each picture's cells; pictures are searched on all cores."""
        seen = in_threads(self._look_at, pictures)
        whole = [_Whole(p, *parts) for p, one in enumerate(seen) for parts in one.whole]
        classes = self._classifier.classify(whole, lambda one: one.kind_input, lambda one: one.cell)
        cells = [list(one.prediction.cells) for one in seen]
        for one, given in zip(whole, classes, strict=True):
            cells[one.picture][one.number] = _classified(cells[one.picture][one.number], given)
        return [replace(one.prediction, cells=tuple(own)) for one, own in zip(seen, cells, strict=True)]

    def close(self) -> None:
        """End the helper thread."""
        self._helper.shutdown()

    def _look_at(self, picture: Picture) -> _Seen:
        if picture.bgr is None:
            return _Seen(Prediction(picture))
        cut_out = _cut_out(picture.bgr, self._um_per_px or CNMC_UM_PER_PX)
        if cut_out is not None:
            return _seen_cut_out(picture, cut_out)
        try:
            found = self._find(picture.bgr, self._um_per_px or picture.um_per_px)
        except BloodedgeError as error:
            return _Seen(Prediction(replace(picture, bgr=None, problem=f"{picture.path}: {error}")))
        return _seen_in_frame(picture, picture.bgr, found)


def _cut_out(bgr: Image, um_per_px: float) -> Cell | None:
    """The one cell of a picture on black; None where it is another picture."""
    if not is_on_black(bgr):
        return None
    try:
        cell = cell_on_black(bgr, um_per_px)
    except BloodedgeError:
        return None
    return cell if cell.area_um2 <= LARGEST_CELL_UM2 else None


def _seen_cut_out(picture: Picture, cell: Cell) -> _Seen:
    x, y, width, height = cv2.boundingRect(cell.mask)
    rows, columns = cell.mask.shape
    contours, _ = cv2.findContours(cell.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    prediction = CellPrediction(
        box=(x, y, width, height),
        outline=tuple((int(a), int(b)) for a, b in max(contours, key=cv2.contourArea)[:, 0]),
        area_um2=cell.area_um2,
        touches_border=x == 0 or y == 0 or x + width == columns or y + height == rows,
        decision="uncertain",
    )
    seen = Prediction(picture, "cell", cell.um_per_px, (prediction,))
    return _Seen(seen, ((0, cell, KindInput.cut_out(cell)),))


def _seen_in_frame(picture: Picture, bgr: Image, found: Found) -> _Seen:
    scale = found.um_per_px
    crop = max(bgr.shape[:2]) * scale < CROP_UM
    middle = found.central(bgr.shape) if crop or len(found.cells) == 1 else None
    cells = tuple(_cell(cell) for cell in found.cells)
    whole = tuple(
        (number, cell.crop(bgr, scale), KindInput.of(cell, scale))
        for number, cell in enumerate(found.cells)
        if number == middle or not cell.touches_border
    )
    shows: Shows = "crop" if crop else "field"
    return _Seen(Prediction(picture, shows, scale, cells, found.rejected, check(bgr).reason), whole)


def _cell(cell: FoundCell) -> CellPrediction:
    """A found cell that is not classified yet, or never as the border cuts it."""
    outline = tuple((x, y) for x, y in cell.outline)
    return CellPrediction(
        cell.box, outline, cell.area_um2, cell.touches_border, "uncertain", reason=Reason.CUT_BY_BORDER
    )


def _classified(cell: CellPrediction, given: CellClass) -> CellPrediction:
    return replace(
        cell,
        decision=given.label,
        blast_probability=given.blast_probability,
        reason=given.reason,
        kind=given.kind,
    )
