"""What kind of white cell each found cell is: a small int8 network, released with the package.

It reads the cell alone, as optical density against its own frame's empty field, at its physical size, and was fitted
under far wider stains than any microscope's (``benchmarks/kind_network.py``). Every step before the network is integer
arithmetic, and its layers are int8, so that every processor gives the same bytes.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.kinds import ASKED, Kind, KindCall
from bloodedge.engine.litert import load_interpreter
from bloodedge.finder import FoundCell
from bloodedge.finder.exact import resampled
from bloodedge.finder.light import DENSITY_CODES, density_codes
from bloodedge.imaging import SOURCE_LIGHT, Cell, Image, as_image

SIDE = 96
"""Pixels along the network's input."""
UM_PER_PX = 0.22
"""Its scale; a cell that is larger than the input is shrunk into it."""
OUTPUTS = (
    "band neutrophil",
    "segmented neutrophil",
    "lymphocyte",
    "monocyte",
    "eosinophil",
    "basophil",
    "immature_granulocyte",
    "erythroblast",
    "platelet",
    "artefact",
)
"""The network's outputs, in order."""
TEMPERATURE = 0.8
"""Its log-odds are divided by it: chosen on held-out cells of PBC and C-NMC as other benches might show them."""
NAMED_FROM = 0.75
"""A kind less likely than this is unknown, chosen on the same cells; rates.json has what is named rightly then."""
ASKED_FROM = 0.05
"""*Blast or normal?* is asked of a cell that is mononuclear with at least this probability; it is unknown where
another kind is likeliest, for no blast may be lost here."""

_DARK_RIM_UM = 0.13
"""Where a cell cut out onto black is mixed with it."""


@dataclass(frozen=True)
class KindInput:
    """A cell as the kind network takes it: density uint8 (h, w, 3) BGR in 1 / 64, mask uint8 (h, w), scale."""

    density: Image
    mask: Image
    um_per_px: float

    @classmethod
    def of(cls, found: FoundCell, um_per_px: float) -> "KindInput":
        """Of a cell found in a frame at that scale."""
        return cls(found.density, found.mask, um_per_px)

    @classmethod
    def cut_out(cls, cell: Cell) -> "KindInput":
        """Of a cell cut out onto black, whose light is not known: that of a well-exposed slide is assumed."""
        rim = 2 * round(_DARK_RIM_UM / cell.um_per_px) + 1
        inner = as_image(cv2.erode(cell.mask, np.ones((rim, rim), np.uint8)))
        mask = inner if inner.any() else cell.mask
        return cls(density_codes(cell.bgr, (SOURCE_LIGHT,) * 3), mask, cell.um_per_px)

    def image(self) -> Image:
        """uint8 (SIDE, SIDE, 3) RGB: the cell in the middle under an even light, white beside it."""
        return transmitted(_framed(self.density, self.mask, self.um_per_px))


KindsOf = Callable[[Sequence[KindInput]], list[KindCall]]
"""Tells the kinds of cells."""


class KindNetwork:
    """A loaded network; calls from several threads take turns."""

    def __init__(self, model: bytes) -> None:
        self._turn = threading.Lock()
        self._interpreter, _ = load_interpreter(model, 1)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, cells: Sequence[KindInput]) -> list[KindCall]:
        """The kind of each cell."""
        return [call_of(self.probabilities(cell.image())) for cell in cells]

    def probabilities(self, image: Image) -> NDArray[np.float64]:
        """Calibrated (10,), of OUTPUTS, of an input uint8 (SIDE, SIDE, 3)."""
        step, zero = self._output["quantization"]
        odds = (self.codes(image).astype(np.float64) - zero) * step / TEMPERATURE
        shares = np.exp(odds - odds.max())
        return np.asarray(shares / shares.sum(), np.float64)

    def codes(self, image: Image) -> NDArray[np.int8]:
        """The network's int8 outputs (10,) of an input uint8 (SIDE, SIDE, 3)."""
        with self._turn:
            self._interpreter.set_tensor(self._input["index"], image[np.newaxis])
            self._interpreter.invoke()
            return np.array(self._interpreter.get_tensor(self._output["index"])[0], np.int8)


@cache
def default_kinds() -> KindNetwork:
    """The network that is released with the package."""
    return KindNetwork(files("bloodedge_device.kinds").joinpath("network.tflite").read_bytes())


def call_of(probabilities: NDArray[np.float64]) -> KindCall:
    """The verdict from calibrated probabilities (10,) of OUTPUTS."""
    band, segmented = probabilities[:2]
    by_kind = {Kind.NEUTROPHIL: float(band + segmented)}
    by_kind |= {Kind(name): float(p) for name, p in zip(OUTPUTS[2:], probabilities[2:], strict=True)}
    kind = max(by_kind, key=lambda k: by_kind[k])
    asked = sum(by_kind[k] for k in ASKED) >= ASKED_FROM
    if by_kind[kind] < NAMED_FROM or (asked and kind not in ASKED):
        return KindCall(Kind.UNKNOWN, by_kind[kind], asked)
    stage = ("band" if band > segmented else "segmented") if kind is Kind.NEUTROPHIL else None
    return KindCall(kind, by_kind[kind], asked, stage)


_LEVELS = np.rint(np.round(255 * 10 ** (-np.arange(256) / DENSITY_CODES), 6)).astype(np.uint8)
"""Light behind each density; one tenth of 255 lies half-way between two levels, and processors' powers differ."""


def transmitted(density: Image) -> Image:
    """uint8 (H, W, 3) RGB: what is seen through density uint8 (H, W, 3) BGR under a light of 255."""
    return as_image(cv2.LUT(as_image(cv2.cvtColor(density, cv2.COLOR_BGR2RGB)), _LEVELS))


def _framed(density: Image, mask: Image, um_per_px: float) -> Image:
    """The masked density at UM_PER_PX, the cell in the middle of the input."""
    x, y, width, height = cv2.boundingRect(mask)
    cell = np.s_[y : y + height, x : x + width]
    zoom = min(um_per_px / UM_PER_PX, SIDE / max(1, height, width))
    alone = as_image(cv2.bitwise_and(density[cell], density[cell], mask=mask[cell]))
    shown = resampled(alone, zoom)
    rows, columns = shown.shape[:2]
    out = np.zeros((SIDE, SIDE, 3), np.uint8)
    left, top = (SIDE - columns) // 2, (SIDE - rows) // 2
    out[top : top + rows, left : left + columns] = shown
    return out
