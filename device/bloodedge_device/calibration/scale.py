"""Micrometres per pixel and how sure they are."""

from collections.abc import Sequence

import numpy as np

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.finder.parameters import RED_CELL_UM
from bloodedge_device.settings.camera_profile import Range, ScaleRecord

FEWEST_FRAMES = 5
"""Fewer do not show how far frames differ."""

RED_CELL_MEAN_UM = (6.7, 7.7)
"""Mean diameter of a healthy person's red cells in dry films: Price-Jones, Red Blood Cell Diameters, Oxford 1933; given
as the normal range in Dacie and Lewis, Practical Haematology."""

_BOOTSTRAPS = 2000
_ALLOWED = (0.03, 0.5)


def from_red_cells(measured: Sequence[float]) -> ScaleRecord:
    """The scale from the frames' own estimates, taking red cells as 7.5 µm across.

    Raises BloodedgeError when fewer than FEWEST_FRAMES frames could be measured.
    """
    if len(measured) < FEWEST_FRAMES:
        raise BloodedgeError(
            f"Red cells could be measured in {len(measured)} frames and {FEWEST_FRAMES} are needed; give frames of a"
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
        interval=_together(middle, statistical, systematic),
    )


def from_micrometer(measured: Sequence[float]) -> ScaleRecord:
    """The scale from frames of a stage micrometer; the interval is that between frames, and needs FEWEST_FRAMES.

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


def _together(middle: float, one: Range, other: Range) -> Range:
    """Independent uncertainties add in quadrature, each side by itself."""
    low, high = (float(np.hypot(one[side] - middle, other[side] - middle)) for side in (0, 1))
    return middle - low, middle + high


def _checked(um_per_px: float) -> float:
    low, high = _ALLOWED
    if not low <= um_per_px <= high:
        raise UsageError(
            f"The frames would have {um_per_px:.3g} µm per pixel, and {low} to {high} can be used; check the division"
            " and what the frames show."
        )
    return um_per_px
