"""The tables of the settings file, one model each."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from bloodedge.config import Strict
from bloodedge.redact import address_fault
from bloodedge.web_access import LOOPBACK

BOARD_NAME = "BLOODEDGE_BOARD"
"""Variable of the environment with the name that a board's first start gave it."""

Size = tuple[Annotated[int, Field(ge=64, le=16384)], Annotated[int, Field(ge=64, le=16384)]]
"""Width and height in pixels."""


class CameraSettings(Strict):
    """Where frames come from."""

    kind: Literal["simulated", "replay", "v4l2", "picamera"] = "simulated"
    """simulated; replay of images, a video or a stream; v4l2: a USB microscope; picamera: a Raspberry Pi's camera."""
    source: str | None = None
    """For replay: a folder of images, an image, a video file, or a stream (http, https, rtsp, rtsps, tcp or udp://…).
    For v4l2: a device (/dev/video0), or part of its name below /dev/v4l/by-id; default: the only one there. For
    picamera: the camera's number; default: 0."""
    watch: bool = False
    """For a folder that other software writes images into: wait for new ones, without end. Each is taken once, when it
    is whole, in the order in which they were finished; those that came while no slide was in work belong to the next.
    """
    um_per_px: float | None = Field(default=None, ge=0.03, le=0.5)
    """Micrometres per pixel of the frames (default: 0.15 when simulated, else measured from red cells)."""
    profile: Path | None = None
    """A camera profile made by ``bloodedge device calibrate``: the scale and the gate's thresholds come from it, except
    those that the settings give themselves."""
    rate: float | None = Field(default=None, gt=0, le=1000)
    """At most so many frames a second; without it, as fast as they come."""
    loop: bool = False
    """Begin again at the end of a folder or video."""
    realtime: bool = False
    """Let a slow pipeline miss frames, as a live camera does; streams and real cameras always do."""
    seed: int = Field(default=0, ge=0)
    """For simulated: which specimen is rendered."""
    size: Size | None = None
    """Width and height of frames in pixels; default for v4l2: the largest that the camera has, for picamera: its 2x2
    binned size."""
    pixel_format: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]{4}$")] | None = None
    """For v4l2: four characters, such as MJPG or YUYV."""
    exposure_us: int | None = Field(default=None, ge=1, le=10_000_000)
    """For v4l2 and picamera: exposure time in microseconds, below half of timeout_s; default: measured once when a
    slide begins, then held."""
    gain: float | None = Field(default=None, ge=0, le=255)
    """For v4l2 (the driver's units) and picamera (analogue gain, 1 = none); default: as exposure_us."""
    white_balance: tuple[float, float] | None = None
    """For picamera: red and blue gains; for v4l2: the driver's red and blue balance, in its units. Default: as
    exposure_us."""
    timeout_s: float = Field(default=5.0, ge=0.5, le=600)
    """A camera that gives neither frame nor sign of life for so long is stopped and started again."""

    @property
    def is_hardware(self) -> bool:
        """Whether frames come from a device, a network or a shared folder that may go away and come back."""
        return self.kind in {"v4l2", "picamera"} or self.watch or (self.source is not None and is_stream(self.source))

    @field_validator("source")
    @classmethod
    def _a_streams_address_can_be_read(cls, value: str | None) -> str | None:
        if value and is_stream(value) and (fault := address_fault(value)):
            raise ValueError(f"camera.source: {fault}")
        return value

    @model_validator(mode="after")
    def _kind_and_source_agree(self) -> Self:
        if self.kind == "replay" and not self.source:
            raise ValueError('replay needs a source: add source = "FOLDER, VIDEO or rtsp://…"')
        if self.kind == "replay" and self.source and (fault := fault_in_address(self.source)):
            raise ValueError(fault)
        if self.watch and (fault := fault_in_watching(self)):
            raise ValueError(fault)
        if self.kind == "simulated" and self.source:
            raise ValueError('a simulated camera has no source: remove it, or set kind = "replay"')
        if self.kind == "picamera" and self.source is not None and not self.source.isdigit():
            raise ValueError(
                f'a picamera\'s source is its number: "{self.source}" is none; bloodedge device doctor lists'
            )
        return self


class SlideSettings(Strict):
    """The specimen under the microscope."""

    label: str = Field(default="", max_length=200)
    """What the first slide is called; the page and bloodedge device slide name others."""
    half_width: float = Field(default=0.05, gt=0, lt=0.5)
    """Enough cells are seen when the share of blasts is known within so much, either way."""
    overlap: bool = True
    """Recognise a cell that an earlier frame of the slide showed, and count it once."""


class DomainSettings(Strict):
    """Cells unlike those that the network was trained on."""

    known_only: bool = True
    """Call them uncertain instead of giving them a class."""


class TrustSettings(Strict):
    """Whose networks the daemon runs; those that came with the installation need no signature."""

    keys: Path | None = None
    """Folder of the trusted public keys (bloodedge keys trust); default: trust in the state folder."""
    unsigned: bool = False
    """Run a bundle whoever made it, without asking for a signature."""


class UpdateSettings(Strict):
    """What a bundle that was installed has to show before it is kept (bloodedge device install)."""

    probation_minutes: float = Field(default=30.0, ge=0, le=100_000)
    """It has to run in good health for so long."""
    probation_cells: int = Field(default=200, ge=0)
    """And to classify so many cells; before that its share of uncertain ones is not judged."""
    most_latency_ms: float | None = Field(default=None, gt=0)
    """A network whose median time per cell is longer is refused; default: twice that of the one before it."""
    most_memory_mb: int | None = Field(default=None, ge=32)
    """A network whose process takes more is refused; default: what the service manager or the machine allows."""
    from_fleet: bool = False
    """Fetch and install the bundle that the fleet's server asks for over MQTT. Whether it is run is decided here, as
    for any other: by the trusted keys, the trial and the probation."""


class StoreSettings(Strict):
    """What is kept."""

    crops: bool = True
    """Keep each classified cell's image beside the results."""
    keep_free_mb: int = Field(default=500, ge=0)
    """Oldest images are removed until so many megabytes are free on the disk; results never are."""
    keep_days: int | None = Field(default=None, ge=1, le=36_500)
    """Images older than so many days, by the board's clock, are removed; results never are. Without it none is for its
    age. Images taken before the clock was right are spared until it is, and count as taken then."""
    reserve_mb: int = Field(default=16, ge=0, le=1024)
    """Set aside, so that results can still be stored for a while when something else fills the disk."""


class WebSettings(Strict):
    """The page and the interface for programs."""

    enabled: bool = True
    """Serve the page; without it, the command line still reaches the daemon, by a socket in the state folder."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs an access token: make one with ``bloodedge device token``."""
    port: int = Field(default=8765, ge=0, le=65535)
    """0: any free one."""
    names: tuple[str, ...] = ()
    """Host names, beside its address and the machine's own, under which browsers may ask for the page."""
    certificate: Path | None = None
    """TLS certificate chain (PEM); without one the page is not encrypted."""
    key: Path | None = None
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
    """What a board is called where its settings do not say: as its first start named it, else as the machine is."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", os.environ.get(BOARD_NAME) or socket.gethostname()) or "board"


class MqttSettings(Strict):
    """Results to an MQTT broker."""

    host: str | None = None
    """The broker's name or address; without it nothing is published."""
    port: int = Field(default=1883, ge=1, le=65535)
    """1883 as a rule, 8883 with TLS."""
    username: str | None = None
    """For the broker's own access control."""
    password_file: Path | None = None
    """A file whose first line is the password."""
    tls: bool = False
    """Speak TLS to the broker."""
    ca: Path | None = None
    """Certificates (PEM) that the broker's is checked against; default: the system's."""
    certificate: Path | None = None
    """This board's own certificate (PEM), where the broker asks for one."""
    key: Path | None = None
    """Its private key (PEM)."""
    topic: str = "bloodedge"
    """Topics begin so: ``TOPIC/BOARD/...``."""
    board: str = Field(default_factory=_own_name)
    """This board's name in topics; default: BLOODEDGE_BOARD of the environment, else the machine's name."""
    discovery: str | None = "homeassistant"
    """Prefix of Home Assistant's discovery topics; "" for none."""
    most_waiting: int = Field(default=200_000, ge=100)
    """Messages kept while the broker is away; beyond it the oldest go, and the count of them is told."""
    report_s: float = Field(default=60.0, ge=0, le=3600)
    """Seconds between two reports on the board itself, for the fleet's server; 0 for none, else at least 1."""

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
            raise ValueError(
                f'"{value}" cannot be part of an MQTT topic: leave out +, #, a leading $ and outer slashes'
            )
        return value

    @model_validator(mode="after")
    def _certificate_and_key_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("mqtt.certificate and mqtt.key belong together: give both, or neither")
        return self


class WatchSettings(Strict):
    """When the daemon calls itself well, and spares the board."""

    alive_s: float = Field(default=10.0, ge=1, le=3600)
    """Alive means that a frame went through the pipeline within so many seconds."""
    slow_at_c: float | None = Field(default=None, ge=30, le=120)
    """From this temperature of the processor (°C) on, the daemon rests after each frame for as long as the frame took,
    until it has cooled by 5 degrees; default: never."""
    stop_at_c: float | None = Field(default=None, ge=30, le=120)
    """From here on it looks at no frame until the processor has cooled by 5 degrees; default: never."""

    @model_validator(mode="after")
    def _slow_before_stop(self) -> Self:
        if self.slow_at_c is not None and self.stop_at_c is not None and self.slow_at_c >= self.stop_at_c:
            raise ValueError("watch.slow_at_c must be below watch.stop_at_c")
        return self


STREAMS = ("http", "https", "rtsp", "rtsps", "tcp", "udp")
"""Schemes of the streams' addresses that can be read."""


def is_stream(source: str) -> bool:
    """Whether a replay source is a stream's address rather than a path."""
    scheme, mark, _ = source.partition("://")
    return bool(mark) and scheme.lower() in STREAMS


def fault_in_address(source: str) -> str | None:
    """What is wrong with a replay source that looks like an address of an unknown kind; None where nothing is."""
    scheme, mark, _ = source.partition("://")
    if not mark or not scheme.isalnum() or is_stream(source):
        return None
    known = ", ".join(f"{name}://" for name in STREAMS)
    return f"streams at {scheme}:// cannot be read; give an address that begins with one of {known}, or a file's path"


def fault_in_watching(camera: CameraSettings) -> str | None:
    """What keeps the settings of a camera from being a watched folder's; None where nothing does."""
    if camera.kind != "replay" or camera.source is None or is_stream(camera.source):
        return "watch needs a folder that images are written into: name it as the camera's source"
    if camera.loop or camera.realtime:
        return "watch takes each image once: leave out loop and realtime"
    return None
