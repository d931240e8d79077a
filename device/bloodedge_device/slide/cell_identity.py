"""Which of a slide's cells a frame shows."""

from bloodedge.imaging import Image
from bloodedge_device.finder import Found
from bloodedge_device.slide.overlap import CellIdentity, Sighting, SlideMap


class CellIdentifier:
    """Recognises the cells of one slide."""

    def __init__(self) -> None:
        self._map = SlideMap()

    def locate(self, bgr: Image) -> None:
        """Register a frame, uint8 (H, W, 3) BGR, to the earlier ones."""
        self._map.locate(bgr)

    def identify(self, found: Found) -> list[CellIdentity]:
        """Which cells those found in the frame located last are."""
        sightings = [
            Sighting((x + width / 2, y + height / 2), cell.area_um2, cell.touches_border)
            for cell in found.cells
            for x, y, width, height in (cell.box,)
        ]
        return self._map.identify(found.um_per_px, sightings).seen
