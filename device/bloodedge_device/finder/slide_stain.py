"""One stain for a whole slide, learned from its first white cells."""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Cell, ImagingSpec
from bloodedge.imaging.restain import CELL_PIXELS, StainBasis, densities, fit_stain

CELLS = 20
"""White cells that a slide's dyes are learned from; after them the dyes stay as they are."""

Mode = Literal["auto", "on", "off"]


class SlideStain:
    """Brings a slide's cells to the bundle's stain, where that is wanted."""

    def __init__(self, imaging: ImagingSpec, reference: StainBasis | None, mode: Mode) -> None:
        """mode: "auto" does as in training, "on" brings cells to ``reference`` in any case, "off" never."""
        wanted = {"auto": imaging.stain, "on": imaging.stain or reference, "off": None}[mode]
        self.imaging = imaging.model_copy(update={"stain": wanted})
        self._seen: list[NDArray[np.float64]] = []
        self._stain: StainBasis | None = None

    def of(self, cell: Cell) -> Cell:
        """The cell with its slide's dyes, to give to ``network_input`` with ``imaging``."""
        if self.imaging.stain is None:
            return cell
        if len(self._seen) < CELLS:
            self._seen.append(densities(cell.bgr, cell.mask, cell.light, CELL_PIXELS))
            self._stain = fit_stain(np.concatenate(self._seen))
        return replace(cell, stain=self._stain)
