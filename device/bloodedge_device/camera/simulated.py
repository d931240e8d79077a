"""Rendered frames of one specimen, without end: for a board without a microscope."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

from bloodedge.simulation import MIXED, FieldSpec, SubjectStyle, render_field
from bloodedge_device.camera import Pace
from bloodedge_device.frames import Capture, Frame
from bloodedge_device.settings.sections import CameraSettings

UM_PER_PX = 0.15
"""Wide enough a field (96 by 72 µm) that most of its white cells are whole."""

DEFOCUS_UM = 0.2
"""The mean of the rendered data sets, which the simulated microscope's bundle was trained on."""

FIELDS_PER_SPECIMEN = 1_000_000
"""Keeps the fields of one specimen apart from those of the next."""


class SimulatedCamera:
    """The simulated microscope over one subject's smear; the same seed shows the same fields."""

    def __init__(self, settings: CameraSettings, begin: int = 0) -> None:
        self.name = f"simulated microscope, {'mixed ' * settings.mixed}specimen {settings.seed}"
        self.live = settings.realtime
        self.ending = ""
        self._settings, self._begin = settings, begin
        style, um_per_px = SubjectStyle.of(settings.seed), settings.um_per_px or UM_PER_PX
        others = MIXED if settings.mixed else {}
        self._spec = FieldSpec(style=style, um_per_px=um_per_px, defocus_um=DEFOCUS_UM, other_kinds=others)

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Rendered fields without end."""
        pace = Pace(self._settings.rate, stop)
        index = self._begin
        while pace.wait():
            start = monotonic()
            field = render_field(self._settings.seed * FIELDS_PER_SPECIMEN + index, self._spec)
            labels = Counter(cell.label for cell in field.cells)
            capture = replace(Capture.now(index, start), truth=(labels["blast"], labels["normal"]))
            yield Frame(capture, field.bgr, field.um_per_px)
            index += 1
