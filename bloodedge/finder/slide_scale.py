"""One scale for a whole slide, since the scale is the microscope's."""

from statistics import median

from bloodedge.finder import FinderParameters, estimate_um_per_px
from bloodedge.imaging import Image

FRAMES = 15
"""Frames whose red cells are measured. One frame's scale is off by several per cent; the network was trained at one
scale, so it must not change within a slide."""


class SlideScale:
    """Micrometres per pixel, measured on the red cells of a slide's first frames."""

    def __init__(self, parameters: FinderParameters) -> None:
        self._parameters = parameters
        self._measured: list[float] = []

    def of(self, bgr: Image) -> float | None:
        """The scale for a frame uint8 (H, W, 3) BGR; None until a frame's red cells could be measured."""
        if len(self._measured) < FRAMES:
            scale = estimate_um_per_px(bgr, self._parameters)
            if scale is not None:
                self._measured.append(scale)
        return median(self._measured) if self._measured else None
