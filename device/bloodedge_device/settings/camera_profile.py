"""The camera profile: what calibration learned of a camera on its microscope, as one TOML file."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from bloodedge.config import Strict, read_toml, to_toml, validate
from bloodedge.errors import UsageError
from bloodedge.files import write_text
from bloodedge_device.finder.frame_gate import GateParameters

Range = tuple[float, float]
"""Low and high end."""


class ScaleRecord(Strict):
    """Micrometres per pixel, where they come from, and 95 % intervals."""

    um_per_px: float = Field(ge=0.03, le=0.5)
    source: Literal["given", "micrometer", "red cells"]
    frames: int = Field(ge=0)
    """Frames that it was measured on."""
    statistical: Range | None = None
    """What the spread between frames leaves open."""
    systematic: Range | None = None
    """What the red cells leave open, whose mean diameter differs between people: the same in every frame."""
    interval: Range | None = None
    """Both together."""

    @property
    def relative_width(self) -> float | None:
        """Width of the interval over the scale."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / self.um_per_px


class FocusRecord(Strict):
    """Where the threshold of focus comes from."""

    source: Literal["sweep", "frames", "default"]
    """"frames" knows only frames in focus and is set low enough to let all of them pass."""
    frames: int = Field(ge=0)
    best: float | None = None
    """The sweep's peak, or the frames' median."""
    best_frame: str | None = None


class SpreadRecord(Strict):
    """Least, median and greatest value over the frames."""

    least: float
    median: float
    greatest: float


class CameraProfile(Strict):
    """What ``bloodedge device calibrate`` writes and the settings' ``camera.profile`` names."""

    camera: str
    created: datetime
    frames: int = Field(ge=0)
    scale: ScaleRecord
    gate: GateParameters
    focus: FocusRecord
    brightness: SpreadRecord | None = None
    """Green level of the empty field, 0..255."""
    motion: SpreadRecord | None = None
    """Focus times isotropy."""


def read_profile(path: Path) -> CameraProfile:
    """A profile from its file; raises UsageError when it is missing or damaged."""
    try:
        return validate(CameraProfile, read_toml(path), str(path))
    except UsageError as error:
        if not path.exists():
            raise UsageError(
                f"The camera profile {path} does not exist; make it with bloodedge device calibrate, or check its name."
            ) from error
        raise UsageError(
            f"{path} is not a whole camera profile; make it again with bloodedge device calibrate --force."
        ) from error


def write_profile(profile: CameraProfile, path: Path) -> None:
    """Write a profile, whole or not at all."""
    write_text(path, to_toml(profile.model_dump(mode="json", exclude_none=True)))
