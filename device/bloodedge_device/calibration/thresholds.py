"""The frame gate's thresholds for one camera, from its measurements on that camera's frames."""

from collections.abc import Sequence

import numpy as np

from bloodedge.errors import BloodedgeError
from bloodedge.finder.frame_gate import GateParameters, GateResult
from bloodedge_device.settings.camera_profile import FocusRecord, SpreadRecord

FEWEST_SWEEP_FRAMES = 7

FOCUS_SHARE = 0.8
"""Share of the best focus that a frame must have. At the limit of the depth of focus, a quarter of a wavelength of
defocus, the Strehl ratio is 0.8 (Born and Wolf, Principles of Optics, section 8.8)."""

_LEAST_FALL = 0.9
"""A sweep must fall to this share of its peak on both sides, else it does not show the end of the focus."""

MOTION_SHARE = 0.7
"""Share of the frames' median. Frames of two microscopes as taken have at least 0.73 of their camera's median."""

_DIMMER, _BRIGHTER = 0.75, 1.15
"""Allowed change of light from slide to slide."""


def focus_from_sweep(names: Sequence[str], focus: Sequence[float]) -> tuple[float, FocusRecord]:
    """The threshold from frames in order through focus.

    Raises BloodedgeError when they are fewer than FEWEST_SWEEP_FRAMES or their focus has no peak inside.
    """
    if len(focus) < FEWEST_SWEEP_FRAMES:
        raise BloodedgeError(
            f"The focus sweep has {len(focus)} readable frames, but {FEWEST_SWEEP_FRAMES} are needed; take more frames,"
            " from well below focus to well above it."
        )
    best = int(np.argmax(focus))
    fallen = _LEAST_FALL * focus[best]
    if best in (0, len(focus) - 1) or min(focus[:best]) > fallen or min(focus[best + 1 :]) > fallen:
        raise BloodedgeError(
            "The focus sweep has no peak inside; take frames from well below focus to well above it, named in order."
        )
    record = FocusRecord(source="sweep", frames=len(focus), best=focus[best], best_frame=names[best])
    return FOCUS_SHARE * focus[best], record


def focus_from_frames(focus: Sequence[float]) -> tuple[float, FocusRecord]:
    """A threshold that all of these frames, taken to be in focus, pass."""
    median = float(np.median(focus))
    return min(FOCUS_SHARE * median, *focus), FocusRecord(source="frames", frames=len(focus), best=median)


def spread(values: Sequence[float]) -> SpreadRecord:
    """Least, median and greatest."""
    return SpreadRecord(least=min(values), median=float(np.median(values)), greatest=max(values))


def sharpness(result: GateResult) -> float:
    """The figure that the gate's threshold of motion applies to."""
    return result.focus * result.isotropy


def from_frames(focus: float, motion: SpreadRecord, brightness: SpreadRecord) -> GateParameters:
    """The gate with this threshold of focus, and thresholds of motion and light that all these frames pass."""
    return GateParameters(
        focus=round(focus, 4),
        motion=round(min(MOTION_SHARE * motion.median, motion.least), 4),
        darkest=round(_DIMMER * brightness.least, 1),
        brightest=round(min(max(GateParameters().brightest, brightness.greatest), _BRIGHTER * brightness.greatest), 1),
    )
