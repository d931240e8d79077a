"""The camera profile: a camera's scale and gate thresholds on its microscope, measured by calibration, in TOML."""

from datetime import datetime
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import Field

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError
from bloodedge.files import write_text
from bloodedge.finder.frame_gate import GateParameters

Range = tuple[float, float]
"""Low and high end."""


class ScaleRecord(Strict):
    """Micrometres per pixel with their 95 % intervals."""

    um_per_px: float = Field(ge=0.03, le=0.5)
    source: Literal["given", "micrometer", "red cells"]
    frames: int = Field(ge=0)
    """Frames that the scale was measured on."""
    statistical: Range | None = None
    """From the spread between frames."""
    systematic: Range | None = None
    """From the mean diameter of red cells, which differs between people: the same error in every frame."""
    interval: Range | None = None
    """From both."""

    @property
    def relative_width(self) -> float | None:
        """Width of the interval as a share of the scale; None without one."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / self.um_per_px


class FocusRecord(Strict):
    """How the threshold of focus was found."""

    source: Literal["sweep", "frames", "default"]
    """frames: only frames in focus were seen, and the threshold lets all of them pass."""
    frames: int = Field(ge=0)
    best: float | None = None
    """The sweep's peak, or the frames' median."""
    best_frame: str | None = None


class SpreadRecord(Strict):
    """Smallest, median and largest value over the frames."""

    least: float
    median: float
    greatest: float


class CameraProfile(Strict):
    """Written by ``bloodedge device calibrate``; the setting ``camera.profile`` names the file."""

    camera: str
    created: datetime
    frames: int = Field(ge=0)
    scale: ScaleRecord
    gate: GateParameters
    focus: FocusRecord
    brightness: SpreadRecord | None = None
    """Green level of the empty field, 0..255."""
    motion: SpreadRecord | None = None
    """Focus times isotropy, as the gate measures them."""


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
            f"{path} is damaged, or not a camera profile; make it again with bloodedge device calibrate --force."
        ) from error


def write_profile(profile: CameraProfile, path: Path) -> None:
    """Write a profile atomically."""
    write_text(path, tomli_w.dumps(profile.model_dump(mode="json", exclude_none=True)))
