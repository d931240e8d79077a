"""One calibration, from a camera's frames to its profile."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from bloodedge.console import Progress
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import Image, read_image
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES
from bloodedge_device.calibration.micrometer import period_px
from bloodedge_device.calibration.scale import FEWEST_FRAMES, from_micrometer, from_red_cells
from bloodedge_device.calibration.thresholds import focus_from_frames, focus_from_sweep, from_frames, sharpness, spread
from bloodedge_device.camera import Camera
from bloodedge_device.finder import estimate_um_per_px
from bloodedge_device.finder.frame_gate import GateParameters, GateResult, check
from bloodedge_device.frames import BadFrame
from bloodedge_device.settings.camera_profile import CameraProfile, FocusRecord, ScaleRecord

WIDE = 0.1
"""An interval of the scale wider than this share of it is warned of."""


@dataclass(frozen=True)
class Calibration:
    """A profile and what a person should know of it, a sentence each."""

    profile: CameraProfile
    warnings: list[str]


@dataclass
class _Seen:
    """What was measured on the frames."""

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
    """Calibrate on the first ``frames`` frames: the scale given, from a micrometer's division, or from red cells.

    Raises BloodedgeError when the frames do not show what is asked of them.
    """
    focused = None if sweep is None else _swept(sweep)
    seen = _look(camera, frames, um_per_px, micrometer_um, progress)
    if micrometer_um is None and len(seen.judged) < FEWEST_FRAMES:
        raise BloodedgeError(
            f"{camera.name} gave {len(seen.judged)} readable frames and {FEWEST_FRAMES} are needed; give more frames."
        )
    scale = _scale(seen, um_per_px, micrometer_um)
    profile = _profile(camera.name, seen, scale, focused, of_smear=micrometer_um is None)
    return Calibration(profile, _warnings(profile, seen.unreadable))


def _look(
    camera: Camera, frames: int, um_per_px: float | None, micrometer_um: float | None, progress: Progress | None
) -> _Seen:
    seen = _Seen()
    for done, frame in enumerate(islice(camera.frames(threading.Event()), frames), 1):
        if isinstance(frame, BadFrame):
            seen.unreadable += 1
        else:
            seen.judged.append(check(frame.bgr))
            if um_per_px is None and (scale := _scale_of(frame.bgr, micrometer_um)) is not None:
                seen.scales.append(scale)
        if progress:
            progress(done, frames)
    return seen


def _scale_of(bgr: Image, micrometer_um: float | None) -> float | None:
    if micrometer_um is None:
        return estimate_um_per_px(bgr)
    period = period_px(bgr)
    return None if period is None else micrometer_um / period


def _scale(seen: _Seen, um_per_px: float | None, micrometer_um: float | None) -> ScaleRecord:
    if um_per_px is not None:
        return ScaleRecord(um_per_px=um_per_px, source="given", frames=0)
    return from_red_cells(seen.scales) if micrometer_um is None else from_micrometer(seen.scales)


def _swept(folder: Path) -> tuple[float, FocusRecord]:
    """The threshold of focus from a folder of frames, sorted by name."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the frames of the focus sweep.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return focus_from_sweep([path.name for path in paths], [check(read_image(path)).focus for path in paths])


def _profile(
    camera: str, seen: _Seen, scale: ScaleRecord, focused: tuple[float, FocusRecord] | None, *, of_smear: bool
) -> CameraProfile:
    """The profile; frames of a micrometer say nothing of smears, so without a sweep the gate stays as it is."""
    created = datetime.now(UTC).replace(microsecond=0)
    if not of_smear:
        gate, focus = GateParameters(), FocusRecord(source="default", frames=0)
        if focused:
            gate, focus = gate.model_copy(update={"focus": round(focused[0], 4)}), focused[1]
        return CameraProfile(
            camera=camera, created=created, frames=len(seen.judged), scale=scale, gate=gate, focus=focus
        )
    threshold, focus = focused or focus_from_frames([result.focus for result in seen.judged])
    motion = spread([sharpness(result) for result in seen.judged])
    brightness = spread([result.brightness for result in seen.judged])
    return CameraProfile(
        camera=camera,
        created=created,
        frames=len(seen.judged),
        scale=scale,
        gate=from_frames(threshold, motion, brightness),
        focus=focus,
        brightness=brightness,
        motion=motion,
    )


def _warnings(profile: CameraProfile, unreadable: int) -> list[str]:
    return [sentence for sentence in _sentences(profile, unreadable) if sentence]


def _sentences(profile: CameraProfile, unreadable: int) -> Iterable[str | None]:
    usual = GateParameters()
    scale, light, focus = profile.scale, profile.brightness, profile.focus
    if unreadable:
        yield f"{unreadable} frames could not be read and were left out."
    if scale.relative_width is not None and scale.relative_width > WIDE:
        yield (
            f"The scale's interval is {scale.relative_width:.0%} wide; a stage micrometer (--micrometer) measures it"
            " more exactly."
        )
    if scale.source == "micrometer":
        if scale.interval is None:
            yield f"Fewer than {FEWEST_FRAMES} frames show lines, so the scale has no interval; give more frames."
        yield "Motion and light are not learned from a micrometer; calibrate on a smear with --um-per-px for them."
    if focus.source == "frames":
        yield "The threshold of focus is a cautious one, from frames in focus alone; --focus-sweep measures it."
    if focus.best is not None and focus.best < usual.focus:
        yield "The best frames look blurred; focus and calibrate again."
    if light and (light.median < usual.darkest or light.median > usual.brightest):
        yield "The frames are too dark or too bright; set the exposure so that the empty field lies near 200 of 255."
