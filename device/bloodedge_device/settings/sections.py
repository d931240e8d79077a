"""The tables of the settings file, one model each."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from bloodedge.config import Strict
from bloodedge.redact import address_fault
from bloodedge.web_access import LOOPBACK

BOARD_NAME = "BLOODEDGE_BOARD"
"""Environment variable with the name that the board's first start gave it."""


def _beside_file(path: Path, info: ValidationInfo) -> Path:
    """Relative paths start at the folder of the settings file, which the validation's context names."""
    return (info.context or Path()) / path.expanduser()


LocalPath = Annotated[Path, AfterValidator(_beside_file)]

Size = tuple[Annotated[int, Field(ge=64, le=16384)], Annotated[int, Field(ge=64, le=16384)]]
"""Width and height in pixels."""


class CameraSettings(Strict):
    """Where frames come from."""

    kind: Literal["simulated", "replay", "v4l2", "picamera"] = "simulated"
    """simulated; replay: images, a video or a stream; v4l2: a USB microscope; picamera: a Raspberry Pi camera."""
    source: str | None = None
    """For replay: a folder of images, an image, a video file, or a stream (http, https, rtsp, rtsps, tcp or udp://…).
    For v4l2: a device (/dev/video0), or part of its name below /dev/v4l/by-id; default: the only one there. For
    picamera: the camera's number; default: 0."""
    watch: bool = False
    """For a folder that other software writes images into: wait for new images, without end. Each is taken once, when
    it is complete, in the order of writing; images written between two slides belong to the second."""
    um_per_px: float | None = Field(default=None, ge=0.03, le=0.5)
    """Micrometres per pixel; default: 0.15 when simulated, else measured from the red cells."""
    profile: LocalPath | None = None
    """A camera profile (bloodedge device calibrate); its scale and gate thresholds apply where none are set here."""
    rate: float | None = Field(default=None, gt=0, le=1000)
    """Most frames a second; default: as fast as they come."""
    loop: bool = False
    """Start a folder or video again when it ends."""
    realtime: bool = False
    """Drop frames when the pipeline is slow; streams and cameras always do."""
    seed: int = Field(default=0, ge=0)
    """For simulated: number of the rendered specimen."""
    mixed: bool = False
    """For simulated: neutrophils, monocytes, eosinophils and basophils are among the cells, as in blood."""
    size: Size | None = None
    """Width and height of frames in pixels; default for v4l2: the camera's largest, for picamera: its 2x2 binned
    size."""
    pixel_format: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{4}$")] | None = None
    """For v4l2: four characters, such as MJPG or YUYV."""
    exposure_us: int | None = Field(default=None, ge=1, le=10_000_000)
    """For v4l2 and picamera: exposure time in microseconds, below half of timeout_s; default: measured when a slide
    begins, then held."""
    gain: float | None = Field(default=None, ge=0, le=255)
    """For v4l2 (the driver's units) and picamera (analogue gain, 1 = none); default: as exposure_us."""
    white_balance: tuple[float, float] | None = None
    """For picamera: red and blue gains; for v4l2: red and blue balance in the driver's units. Default: as exposure_us.
    """
    timeout_s: float = Field(default=5.0, ge=0.5, le=600)
    """Seconds without a frame or sign of life after which the camera is restarted."""

    @property
    def is_hardware(self) -> bool:
        """Whether frames come from a device, stream or shared folder, which may go away and come back."""
        return self.kind in {"v4l2", "picamera"} or self.watch or (self.source is not None and is_stream(self.source))

    @field_validator("source")
    @classmethod
    def _source_can_be_read(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and is_stream(value):
            if fault := address_fault(value):
                raise ValueError(f"camera.source: {fault}")
            return value
        if not value or info.data.get("kind") != "replay":
            return value
        if problem := source_problem(value):
            raise ValueError(problem)
        return str(_beside_file(Path(value), info))

    @model_validator(mode="after")
    def _kind_and_source_agree(self) -> Self:
        if self.kind == "replay" and not self.source:
            raise ValueError('replay needs a source: add source = "FOLDER, VIDEO or rtsp://…"')
        if self.watch and (problem := watch_problem(self)):
            raise ValueError(problem)
        if self.kind == "simulated" and self.source:
            raise ValueError('a simulated camera has no source: remove it, or set kind = "replay"')
        if self.kind == "picamera" and self.source is not None and not self.source.isdigit():
            raise ValueError(f'a picamera\'s source is its number, not "{self.source}"; see: bloodedge device doctor')
        return self


class SlideSettings(Strict):
    """The specimen under the microscope."""

    label: str = Field(default="", max_length=200)
    """Label of the first slide; later ones get theirs from the page or bloodedge device slide."""
    half_width: float = Field(default=0.05, gt=0, lt=0.5)
    """A slide has enough cells when its share of blasts is known within plus or minus this."""
    differential_cells: Literal[100, 200, 400] = 200
    """Leucocytes that a differential count needs (CLSI H20): 100, 200 or 400."""
    overlap: bool = True
    """Recognise cells that an earlier frame of the slide showed, and count them once."""


class DomainSettings(Strict):
    """Cells unlike the training cells."""

    known_only: bool = True
    """Call them uncertain."""


class TrustSettings(Strict):
    """Whose bundles run; those that came with the installation need no signature."""

    keys: LocalPath | None = None
    """Folder of trusted public keys (bloodedge keys trust); default: trust/ in the state folder."""
    unsigned: bool = False
    """Accept unsigned bundles."""


class UpdateSettings(Strict):
    """Trial and probation of an installed bundle (bloodedge device install)."""

    probation_minutes: float = Field(default=30.0, ge=0, le=100_000)
    """Minutes in good health before a bundle is good."""
    probation_cells: int = Field(default=200, ge=0)
    """Cells to classify before a bundle is good; with fewer, its share of uncertain cells is not judged."""
    most_latency_ms: float | None = Field(default=None, gt=0)
    """Longest median time per cell, in milliseconds; default: twice the previous one, 5 ms longer at least."""
    most_memory_mb: int | None = Field(default=None, ge=32)
    """Most memory of its process, in megabytes; default: the service manager's or the machine's limit."""
    from_fleet: bool = False
    """Download and install the bundle that the fleet's server asks for over MQTT. Trusted keys, trial and probation
    here decide whether it runs, as for any other."""


class StoreSettings(Strict):
    """What is kept on the disk."""

    crops: bool = True
    """Keep the image of each classified cell."""
    keep_free_mb: int = Field(default=500, ge=0)
    """Megabytes to keep free: the oldest images are removed, results never."""
    keep_days: int | None = Field(default=None, ge=1, le=36_500)
    """Remove images after so many days by the board's clock, results never; default: keep them. Images taken before the
    clock was right count as taken when it became right."""
    reserve_mb: int = Field(default=16, ge=0, le=1024)
    """Megabytes set aside, so that results can still be stored for a while when the disk is full."""


class WebSettings(Strict):
    """The page and the interface for programs."""

    enabled: bool = True
    """Serve the page; the command line reaches the daemon in any case, by a socket in the state folder."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs an access token (bloodedge device token)."""
    port: int = Field(default=8765, ge=0, le=65535)
    """TCP port; 0: any free one."""
    names: tuple[str, ...] = ()
    """Further host names under which browsers may ask for the page, beside its address and the machine's name."""
    certificate: LocalPath | None = None
    """TLS certificate chain (PEM); without one the page is not encrypted."""
    key: LocalPath | None = None
    """Its private key (PEM)."""

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the page."""
        return self.host in LOOPBACK

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("web.certificate and web.key belong together: give both, or neither")
        return self


def _own_name() -> str:
    """The name from the board's first start, else the machine's."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", os.environ.get(BOARD_NAME) or socket.gethostname()) or "board"


class MqttSettings(Strict):
    """Publishing to an MQTT broker."""

    host: str | None = None
    """The broker's host name or address; default: publish nothing."""
    port: int = Field(default=1883, ge=1, le=65535)
    """The broker's port, usually 1883, or 8883 with TLS."""
    username: str | None = None
    """User name at the broker."""
    password_file: LocalPath | None = None
    """A file whose first line is the password."""
    tls: bool = False
    """Use TLS."""
    ca: LocalPath | None = None
    """Certificates (PEM) that the broker's certificate is checked against; default: the system's."""
    certificate: LocalPath | None = None
    """This board's certificate (PEM), where the broker asks for one."""
    key: LocalPath | None = None
    """Its private key (PEM)."""
    topic: str = "bloodedge"
    """First part of all topics: ``TOPIC/BOARD/...``."""
    board: str = Field(default_factory=_own_name)
    """This board's name in topics; default: the environment variable BLOODEDGE_BOARD, else the machine's name."""
    discovery: str | None = "homeassistant"
    """Prefix of Home Assistant's discovery topics; "" for none."""
    most_waiting: int = Field(default=200_000, ge=100)
    """Most messages kept while the broker is away; then the oldest are dropped, and counted."""
    report_s: float = Field(default=60.0, ge=0, le=3600)
    """Seconds between two reports about the board to the fleet's server, at least 1; 0: no reports."""

    @field_validator("report_s")
    @classmethod
    def _not_too_often(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError(f"mqtt.report_s is {value:g}; give 0 for no reports, or at least 1 second")
        return value

    @field_validator("topic", "board")
    @classmethod
    def _no_wildcards(cls, value: str) -> str:
        if not value or any(mark in value for mark in "+#\0") or value.startswith("$") or value != value.strip("/"):
            raise ValueError(f'"{value}" cannot be part of an MQTT topic: remove +, #, a leading $ and outer slashes')
        return value

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("mqtt.certificate and mqtt.key belong together: give both, or neither")
        return self


class WatchSettings(Strict):
    """When the daemon reports itself alive, and when it rests to cool the board."""

    alive_s: float = Field(default=10.0, ge=1, le=3600)
    """The daemon is alive when it processed a frame within so many seconds."""
    slow_at_c: float | None = Field(default=None, ge=30, le=120)
    """CPU temperature (°C) from which the daemon rests after each frame for as long as the frame took, until the CPU
    has cooled by 5 degrees; default: never."""
    stop_at_c: float | None = Field(default=None, ge=30, le=120)
    """CPU temperature (°C) from which it processes no frame, until the CPU has cooled by 5 degrees; default: never."""

    @model_validator(mode="after")
    def _slow_before_stop(self) -> Self:
        if self.slow_at_c is not None and self.stop_at_c is not None and self.slow_at_c >= self.stop_at_c:
            raise ValueError("watch.slow_at_c must be below watch.stop_at_c")
        return self


STREAMS = ("http", "https", "rtsp", "rtsps", "tcp", "udp")
"""URL schemes of streams."""


def is_stream(source: str) -> bool:
    """Whether a replay source is a stream's URL, not a path."""
    scheme, mark, _ = source.partition("://")
    return bool(mark) and scheme.lower() in STREAMS


def source_problem(source: str) -> str | None:
    """What is wrong with a replay source that is a URL of an unknown scheme; None where it is none."""
    scheme, mark, _ = source.partition("://")
    if not mark or not scheme.isalnum() or is_stream(source):
        return None
    known = ", ".join(f"{name}://" for name in STREAMS)
    return f"streams at {scheme}:// cannot be read; give a URL that begins with one of {known}, or a file's path"


def watch_problem(camera: CameraSettings) -> str | None:
    """Why a camera's settings cannot be a watched folder's; None where they can."""
    if camera.kind != "replay" or camera.source is None or is_stream(camera.source):
        return "watch needs a folder that images are written into; give it as the camera's source"
    if camera.loop or camera.realtime:
        return "watch takes each image once; remove loop and realtime"
    return None
