"""One scale for a whole slide: it belongs to the microscope, not to a frame."""

from statistics import median

from bloodedge.imaging import Image
from bloodedge_device.finder import FinderParameters, estimate_um_per_px

FRAMES = 15
"""Frames whose red cells are measured. One frame's measure is off by several per cent; the network was fitted to cells
at one scale, so what counts is that it stays the same."""


class SlideScale:
    """Micrometres per pixel as the red cells of a slide's first frames show it."""

    def __init__(self, parameters: FinderParameters) -> None:
        self._parameters = parameters
        self._measured: list[float] = []

    def of(self, bgr: Image) -> float | None:
        """The scale for a frame uint8 (H, W, 3) BGR; None while no frame had red cells that could be measured."""
        if len(self._measured) < FRAMES:
            scale = estimate_um_per_px(bgr, self._parameters)
            if scale is not None:
                self._measured.append(scale)
        return median(self._measured) if self._measured else None
