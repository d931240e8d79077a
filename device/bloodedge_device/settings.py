"""The daemon's settings: one TOML file, every mistake in it reported at once."""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from bloodedge.config import Strict, read_toml, validate
from bloodedge.errors import UsageError
from bloodedge_device.calibrate.profile import read_profile
from bloodedge_device.finder.parameters import FinderParameters
from bloodedge_device.gate import GateParameters


class CameraSettings(Strict):
    """Where frames come from."""

    kind: Literal["simulated", "replay"] = "simulated"
    source: str | None = None
    """For replay: a folder of images, an image, a video file, or an http(s):// or rtsp:// stream."""
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
    """Let a slow pipeline miss frames, as a live camera does; streams always do."""
    seed: int = Field(default=0, ge=0)
    """For simulated: which specimen is rendered."""

    @model_validator(mode="after")
    def _replay_needs_a_source(self) -> Self:
        if self.kind == "replay" and not self.source:
            raise ValueError('replay needs a source: add source = "FOLDER, VIDEO or rtsp://…"')
        if self.kind == "simulated" and self.source:
            raise ValueError('a simulated camera has no source: remove it, or set kind = "replay"')
        return self


class SlideSettings(Strict):
    """The specimen under the microscope."""

    label: str = Field(default="", max_length=200)


class StainSettings(Strict):
    """The slide's dyes."""

    normalise: Literal["auto", "on", "off"] = "auto"
    """Bring cells to the training cells' stain: as in training, always, or never."""


class DomainSettings(Strict):
    """Cells unlike those that the network was trained on."""

    known_only: bool = True
    """Call them uncertain instead of giving them a class."""


class StoreSettings(Strict):
    """What is kept."""

    crops: bool = True
    """Keep each classified cell's image beside the results."""


def default_state() -> Path:
    """Where results go unless a folder is given (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "bloodedge"


class DeviceSettings(Strict):
    """Everything that ``bloodedge device run`` may be told."""

    bundle: Path | None = None
    """A bundle folder or zip; without it the one that came with the installation, if any."""
    engine: Literal["auto", "litert", "openvino"] = "auto"
    precision: Literal["int8", "dynamic", "float16", "float32"] = "int8"
    threads: int = Field(default=2, ge=1, le=64)
    state: Path = Field(default_factory=default_state)
    """Folder of the results: ``device.sqlite`` and ``crops/``."""
    camera: CameraSettings = CameraSettings()
    slide: SlideSettings = SlideSettings()
    gate: GateParameters = GateParameters()
    finder: FinderParameters = FinderParameters()
    stain: StainSettings = StainSettings()
    domain: DomainSettings = DomainSettings()
    store: StoreSettings = StoreSettings()


PREFIX = "BLOODEDGE_DEVICE__"
"""Of environment variables that stand for settings: ``BLOODEDGE_DEVICE__CAMERA__RATE=5`` for ``[camera] rate``."""


def read_settings(path: Path | None) -> DeviceSettings:
    """Settings from a TOML file, or the defaults, with the environment's in their place.

    Relative paths are relative to the file's folder, without a file to the current one. Raises UsageError naming every
    mistake.
    """
    values = {} if path is None else read_toml(path)
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    for name in given:
        _set(values, name.removeprefix(PREFIX).lower().split("__"), os.environ[name])
    sources = [str(path)] * (path is not None) + [", ".join(given)] * bool(given)
    here = Path() if path is None else path.parent
    settings = _with_profile(validate(DeviceSettings, values, " with ".join(sources)), here)
    return settings.model_copy(
        update={
            "bundle": settings.bundle and here / settings.bundle.expanduser(),
            "state": here / settings.state.expanduser(),
            "camera": settings.camera.model_copy(update={"source": _source_beside(here, settings.camera.source)}),
        }
    )


def _set(values: dict[str, Any], keys: list[str], text: str) -> None:
    """Put a value, as TOML writes it or a plain string, at a key's path."""
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = inner if isinstance(inner, dict) else {}
        values = values[key]
    try:
        values[keys[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[keys[-1]] = text


def missing_files(settings: DeviceSettings) -> list[str]:
    """What the settings name and is not there, a sentence each."""
    found = []
    source = settings.camera.source
    if settings.bundle is not None and not settings.bundle.exists():
        found.append(f"bundle: {settings.bundle} does not exist; correct the path or make it with bloodedge convert.")
    if source is not None and not is_stream(source) and not Path(source).exists():
        found.append(f"camera.source: {source} does not exist; correct the path.")
    return found


def _with_profile(settings: DeviceSettings, folder: Path) -> DeviceSettings:
    """The settings with what the camera's profile, a path relative to ``folder``, says and they do not."""
    if settings.camera.profile is None:
        return settings
    path = folder / settings.camera.profile.expanduser()
    profile = read_profile(path)
    camera: dict[str, object] = {"profile": path}
    if "um_per_px" not in settings.camera.model_fields_set:
        camera["um_per_px"] = profile.scale.um_per_px
    own = {key: getattr(settings.gate, key) for key in settings.gate.model_fields_set}
    return settings.model_copy(
        update={"camera": settings.camera.model_copy(update=camera), "gate": profile.gate.model_copy(update=own)}
    )


def is_stream(source: str) -> bool:
    """Whether a replay source is a stream's address rather than a path."""
    return source.startswith(("http://", "https://", "rtsp://"))


def _source_beside(folder: Path, source: str | None) -> str | None:
    if source is None or is_stream(source):
        return source
    return str(folder / Path(source).expanduser())


def with_options(
    settings: DeviceSettings, bundle: Path | None, state: Path | None, camera: str | None
) -> DeviceSettings:
    """The settings with what was given on the command line in place of what the file says."""
    update: dict[str, object] = {}
    if bundle is not None:
        update["bundle"] = bundle
    if state is not None:
        update["state"] = state
    if camera is not None:
        chosen = (
            {"kind": "simulated", "source": None} if camera == "simulated" else {"kind": "replay", "source": camera}
        )
        update["camera"] = settings.camera.model_copy(update=chosen)
    return settings.model_copy(update=update)


def bundle_path(settings: DeviceSettings) -> Path:
    """The bundle to run; raises UsageError when none is given and none came with the installation."""
    if settings.bundle is not None:
        return settings.bundle
    for folder in MODEL_FOLDERS:
        if (folder / DEFAULT_BUNDLE).exists():
            return folder / DEFAULT_BUNDLE
    raise UsageError(
        "No bundle was given and none came with this installation; make one with bloodedge convert and give it with"
        " --bundle."
    )


DEFAULT_BUNDLE = "cells.bundle"
MODEL_FOLDERS = (Path(__file__).parent / "models", Path(__file__).parents[2] / "models")
"""Where the released bundle lies: in an installed package, and in a checkout."""
