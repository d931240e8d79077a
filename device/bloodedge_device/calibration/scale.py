"""Micrometres per pixel with their intervals."""

from collections.abc import Sequence

import numpy as np

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.finder.parameters import RED_CELL_UM
from bloodedge_device.settings.camera_profile import Range, ScaleRecord

FEWEST_FRAMES = 5
"""With fewer, the spread between frames is not known."""

RED_CELL_MEAN_UM = (6.7, 7.7)
"""Mean diameter of a healthy person's red cells in dry films: Price-Jones, Red Blood Cell Diameters, Oxford 1933; given
as the normal range in Dacie and Lewis, Practical Haematology."""

_BOOTSTRAPS = 2000
_ALLOWED = (0.03, 0.5)


def from_red_cells(measured: Sequence[float]) -> ScaleRecord:
    """The scale from the frames' estimates, which assume red cells of 7.5 µm.

    Raises BloodedgeError when fewer than FEWEST_FRAMES frames could be measured.
    """
    if len(measured) < FEWEST_FRAMES:
        raise BloodedgeError(
            f"Red cells could be measured in {len(measured)} frames, but {FEWEST_FRAMES} are needed; give frames of a"
            " thinner part of the smear, a stage micrometer (--micrometer) or the scale (--um-per-px)."
        )
    middle = float(np.median(measured))
    statistical = median_interval(measured)
    systematic = (middle * RED_CELL_MEAN_UM[0] / RED_CELL_UM, middle * RED_CELL_MEAN_UM[1] / RED_CELL_UM)
    return ScaleRecord(
        um_per_px=_checked(middle),
        source="red cells",
        frames=len(measured),
        statistical=statistical,
        systematic=systematic,
        interval=_combined(middle, statistical, systematic),
    )


def from_micrometer(measured: Sequence[float]) -> ScaleRecord:
    """The scale from frames of a stage micrometer; the interval comes from FEWEST_FRAMES frames or more.

    Raises BloodedgeError when no frame shows periodic lines.
    """
    if not measured:
        raise BloodedgeError(
            "No frame shows evenly spaced lines; focus on the micrometer's divisions so that at least four of them"
            " cross the frame."
        )
    interval = median_interval(measured) if len(measured) >= FEWEST_FRAMES else None
    return ScaleRecord(
        um_per_px=_checked(float(np.median(measured))),
        source="micrometer",
        frames=len(measured),
        statistical=interval,
        interval=interval,
    )


def median_interval(values: Sequence[float]) -> Range:
    """95 % percentile interval of the median, bootstrapped over frames with a fixed seed."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (_BOOTSTRAPS, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def _combined(middle: float, first: Range, second: Range) -> Range:
    """Two independent intervals added in quadrature, each side by itself."""
    low, high = (float(np.hypot(first[side] - middle, second[side] - middle)) for side in (0, 1))
    return middle - low, middle + high


def _checked(um_per_px: float) -> float:
    low, high = _ALLOWED
    if not low <= um_per_px <= high:
        raise UsageError(
            f"The frames would have {um_per_px:.3g} µm per pixel, but {low} to {high} is possible; check the division"
            " and the frames."
        )
    return um_per_px
