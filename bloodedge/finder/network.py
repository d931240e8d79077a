"""The pixel network: where white cells are and where their middles are, under any stain.

A small int8 U-Net (Ronneberger et al., 2015) reads optical density at half a micrometre per pixel. It was trained on
fields of many microscopes under far wider stains than any of them has (``benchmarks/finder_network.py``). Its input is
made in integer arithmetic and its layers are int8, so that every processor gives the same bytes.
"""

import threading
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise, product

import cv2
import numpy as np

from bloodedge.engine.litert import load_interpreter
from bloodedge.finder.exact import resampled
from bloodedge.finder.light import Stain
from bloodedge.imaging import Image, as_image

UM_PER_PX = 0.5
"""Scale of the network's input."""
_ZOOM = (0.02, 2.0)
"""Smallest and largest factor from a frame to the network's input: the work of any frame is bounded."""
_MARGIN_PX = 16
"""Pixels at a tile's inner edges that are taken from the tile beside it."""
CORE_SHARE = 0.55
"""Diameter of a core over its cell's."""
ZERO, PER_UNIT = 128, 16
_CODES = 100.0
"""Codes of the network's input in one unit of optical density."""


@dataclass(frozen=True)
class Maps:
    """What the network says of a frame, in log-odds: uint8 (h, w), ``ZERO`` an even chance, ``PER_UNIT`` codes a unit.

    cell: of being a white cell's; core: of lying in the inner half of one.
    """

    cell: Image
    core: Image

    def at(self, shape: tuple[int, ...]) -> "Maps":
        """The maps for a frame of that shape, bit-exact."""
        size = shape[1], shape[0]
        return Maps(
            *(as_image(cv2.resize(m, size, interpolation=cv2.INTER_LINEAR_EXACT)) for m in (self.cell, self.core))
        )


class PixelNetwork:
    """A loaded network; calls from several threads take turns."""

    def __init__(self, model: bytes) -> None:
        self._turn = threading.Lock()
        self._interpreter, _ = load_interpreter(model, 1)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        _, rows, columns, _ = self._input["shape"]
        self.tile = 2 * int(rows), 2 * int(columns)
        """Height and width in pixels of what it reads at once."""
        step, zero = self._output["quantization"]
        odds = (np.arange(-128, 128) - zero) * step
        self._coded = np.clip(np.rint(ZERO + PER_UNIT * odds), 0, 255).astype(np.uint8)

    def maps(self, stain: Stain, um_per_px: float) -> Maps:
        """Cells and cores in a frame's stain at its scale."""
        zoom = float(np.clip(um_per_px / UM_PER_PX, *_ZOOM))
        codes = resampled(stain.codes(_CODES), zoom)
        height, width = codes.shape[:2]
        out = np.zeros((height, width, 2), np.uint8)
        padded = cv2.copyMakeBorder(
            codes,
            0,
            max(0, self.tile[0] - height),
            0,
            max(0, self.tile[1] - width),
            cv2.BORDER_CONSTANT,
        )
        rows, columns = (_tiles(side, tile) for side, tile in zip(padded.shape[:2], self.tile, strict=True))
        for (top, first, last), (left, start, end) in product(rows, columns):
            part = self._run(as_image(padded[top : top + self.tile[0], left : left + self.tile[1]]))
            window = out[top + first : top + last, left + start : left + end]
            window[:] = part[first : first + window.shape[0], start : start + window.shape[1]]
        return Maps(np.ascontiguousarray(out[:, :, 0]), np.ascontiguousarray(out[:, :, 1]))

    def _run(self, tile: Image) -> Image:
        """Log-odds uint8 (H, W, 2), coded as in Maps, of a tile of codes uint8 (H, W, 3)."""
        with self._turn:
            self._interpreter.set_tensor(self._input["index"], _folded(tile)[np.newaxis])
            self._interpreter.invoke()
            out = self._interpreter.get_tensor(self._output["index"])[0]
        return _unfolded(self._coded[out.astype(np.int16) + 128])


@cache
def default_network() -> PixelNetwork:
    """The network that is released with the package."""
    return PixelNetwork(files("bloodedge.finder").joinpath("network.tflite").read_bytes())


def _tiles(side: int, tile: int) -> list[tuple[int, int, int]]:
    """(start, first pixel, last pixel) of the tiles along a side; the pixels, counted in the tile, cover it once."""
    number = 1 if side <= tile else -(-(side - 2 * _MARGIN_PX) // (tile - 2 * _MARGIN_PX))
    starts = [k * (side - tile) // max(1, number - 1) for k in range(number)]
    seams = [0, *((a + tile + b) // 2 for a, b in pairwise(starts)), side]
    return [(s, a - s, b - s) for s, a, b in zip(starts, seams, seams[1:], strict=False)]


def _folded(image: Image) -> Image:
    """Each 2x2 pixels of (H, W, C) as one of (H / 2, W / 2, 4 C)."""
    height, width, channels = image.shape
    blocks = image.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(height // 2, width // 2, 4 * channels)


def _unfolded(image: Image) -> Image:
    """The reverse of folding."""
    height, width, channels = image.shape
    blocks = image.reshape(height, width, 2, 2, channels // 4).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(blocks.reshape(2 * height, 2 * width, channels // 4))
