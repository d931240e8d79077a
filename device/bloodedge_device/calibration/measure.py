"""Calibration from a camera's frames to its profile."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from bloodedge.console import Progress
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.finder import estimate_um_per_px
from bloodedge.finder.frame_gate import GateParameters, GateResult, check
from bloodedge.imaging import Image, read_image
from bloodedge.imaging.picture_files import is_image
from bloodedge_device.calibration.micrometer import period_px
from bloodedge_device.calibration.scale import FEWEST_FRAMES, from_micrometer, from_red_cells
from bloodedge_device.calibration.thresholds import focus_from_frames, focus_from_sweep, from_frames, sharpness, spread
from bloodedge_device.camera import Camera
from bloodedge_device.frames import BadFrame
from bloodedge_device.settings.camera_profile import CameraProfile, FocusRecord, ScaleRecord

WIDE = 0.1
"""Warn when the scale's interval is wider than this share of it."""


@dataclass(frozen=True)
class Calibration:
    """A profile and warnings about it, a sentence each."""

    profile: CameraProfile
    warnings: list[str]


@dataclass
class _Measured:
    """Measurements on the frames."""

    judged: list[GateResult] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)
    unreadable: int = 0


def calibrate(
    camera: Camera,
    frames: int,
    um_per_px: float | None = None,
    micrometer_um: float | None = None,
    sweep: Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate on the first ``frames`` frames; the scale is given, or comes from a micrometer or from red cells.

    Raises BloodedgeError when too few frames can be measured.
    """
    focused = None if sweep is None else _swept(sweep)
    measured = _measure(camera, frames, um_per_px, micrometer_um, progress)
    if micrometer_um is None and len(measured.judged) < FEWEST_FRAMES:
        raise BloodedgeError(
            f"{camera.name} gave {len(measured.judged)} readable frames, but {FEWEST_FRAMES} are needed; give more."
        )
    scale = _scale(measured, um_per_px, micrometer_um)
    profile = _profile(camera.name, measured, scale, focused, of_smear=micrometer_um is None)
    return Calibration(profile, list(_warnings(profile, measured.unreadable)))


def _measure(
    camera: Camera, frames: int, um_per_px: float | None, micrometer_um: float | None, progress: Progress | None
) -> _Measured:
    measured = _Measured()
    for done, frame in enumerate(islice(camera.frames(threading.Event()), frames), 1):
        if isinstance(frame, BadFrame):
            measured.unreadable += 1
        else:
            measured.judged.append(check(frame.bgr))
            if um_per_px is None and (scale := _scale_of(frame.bgr, micrometer_um)) is not None:
                measured.scales.append(scale)
        if progress:
            progress(done, frames)
    return measured


def _scale_of(bgr: Image, micrometer_um: float | None) -> float | None:
    if micrometer_um is None:
        return estimate_um_per_px(bgr)
    period = period_px(bgr)
    return None if period is None else micrometer_um / period


def _scale(measured: _Measured, um_per_px: float | None, micrometer_um: float | None) -> ScaleRecord:
    if um_per_px is not None:
        return ScaleRecord(um_per_px=um_per_px, source="given", frames=0)
    return from_red_cells(measured.scales) if micrometer_um is None else from_micrometer(measured.scales)


def _swept(folder: Path) -> tuple[float, FocusRecord]:
    """The threshold of focus from a folder of frames, sorted by name."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder with the frames of the focus sweep.")
    paths = sorted(filter(is_image, folder.iterdir()))
    return focus_from_sweep([path.name for path in paths], [check(read_image(path)).focus for path in paths])


def _profile(
    camera: str, measured: _Measured, scale: ScaleRecord, focused: tuple[float, FocusRecord] | None, *, of_smear: bool
) -> CameraProfile:
    """The profile; frames of a micrometer do not show smears, so without a sweep the gate keeps its defaults."""
    motion = brightness = None
    if of_smear:
        threshold, focus = focused or focus_from_frames([result.focus for result in measured.judged])
        motion = spread([sharpness(result) for result in measured.judged])
        brightness = spread([result.brightness for result in measured.judged])
        gate = from_frames(threshold, motion, brightness)
    elif focused:
        gate, focus = GateParameters(focus=round(focused[0], 4)), focused[1]
    else:
        gate, focus = GateParameters(), FocusRecord(source="default", frames=0)
    return CameraProfile(
        camera=camera,
        created=datetime.now(UTC).replace(microsecond=0),
        frames=len(measured.judged),
        scale=scale,
        gate=gate,
        focus=focus,
        brightness=brightness,
        motion=motion,
    )


def _warnings(profile: CameraProfile, unreadable: int) -> Iterator[str]:
    usual = GateParameters()
    scale, light, focus = profile.scale, profile.brightness, profile.focus
    if unreadable:
        yield f"{unreadable} frames could not be read and were skipped."
    if scale.relative_width is not None and scale.relative_width > WIDE:
        yield (
            f"The scale's interval is {scale.relative_width:.0%} wide; a stage micrometer (--micrometer) measures it"
            " more exactly."
        )
    if scale.source == "micrometer":
        if scale.interval is None:
            yield f"Fewer than {FEWEST_FRAMES} frames show lines, so the scale has no interval; give more frames."
        yield "A micrometer does not show motion and light; calibrate on a smear with --um-per-px for them."
    if focus.source == "frames":
        yield "The threshold of focus is only estimated, from frames in focus; --focus-sweep measures it."
    if focus.best is not None and focus.best < usual.focus:
        yield "Even the sharpest frames look blurred; focus and calibrate again."
    if light and (light.median < usual.darkest or light.median > usual.brightest):
        yield "The frames are too dark or too bright; set the exposure so that the empty field is near 200 of 255."
