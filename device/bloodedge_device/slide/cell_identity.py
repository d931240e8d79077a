"""Which of a slide's cells a frame shows, for the pipeline."""

from dataclasses import dataclass

from bloodedge.imaging import Image
from bloodedge_device.finder import Found
from bloodedge_device.slide.overlap import Sighting, SlideMap


@dataclass(frozen=True)
class Recognised:
    """Which of the slide's cells a found cell is."""

    number: int
    repeated: bool
    """An earlier frame showed it at least as well."""


class SlideCells:
    """Recognises the cells of one slide."""

    def __init__(self) -> None:
        self._map = SlideMap()

    def locate(self, bgr: Image) -> None:
        """Lay a frame uint8 (H, W, 3) BGR beside the earlier ones."""
        self._map.locate(bgr)

    def sightings(self, found: Found) -> list[Recognised]:
        """Which cell each of those found in the frame located last is."""
        cells = [
            Sighting((x + width / 2, y + height / 2), cell.area_um2, cell.touches_border)
            for cell in found.cells
            for x, y, width, height in (cell.box,)
        ]
        seen = self._map.tell(found.um_per_px, cells).seen
        return [Recognised(one.number, not (one.first or one.better)) for one in seen]
