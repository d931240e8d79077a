"""Settings from the file, the environment and the command line.

Environment variables are merged here and not by pydantic-settings, which costs every start 30 ms for these few lines.
"""

import logging
import os
import tomllib
from pathlib import Path
from typing import Any

from bloodedge.config import read_toml, validate
from bloodedge.errors import UsageError, unreadable
from bloodedge.redact import address_fault
from bloodedge_device.settings.camera_profile import read_profile
from bloodedge_device.settings.model import DeviceSettings
from bloodedge_device.settings.sections import is_stream, source_problem, watch_problem

log = logging.getLogger("bloodedge.device")

BOARD_SETTINGS = Path("/etc/bloodedge/device.toml")
"""A provisioned board's settings: read where neither a settings file nor a state folder is given."""

PREFIX = "BLOODEDGE_DEVICE__"
"""Of environment variables that stand for settings: ``BLOODEDGE_DEVICE__CAMERA__RATE=5`` for ``[camera] rate``."""


def read_settings(path: Path | None, state: Path | None = None, *, profile: bool = True) -> DeviceSettings:
    """Settings from a TOML file, or the defaults; environment variables override both.

    Where neither a file nor a state folder is given, the board's own file is read, if this is a board. Relative paths
    start at the file's folder, without a file at the current one. Raises UsageError naming every mistake.

    state: replaces the settings' state folder. profile: apply the camera's profile, which then must exist.
    """
    if path is None and state is None:
        path = _board_settings()
    values = {} if path is None else read_toml(path)
    variables = sorted(name for name in os.environ if name.startswith(PREFIX))
    for name in variables:
        _set(values, name.removeprefix(PREFIX).lower().split("__"), os.environ[name])
    sources = [str(path)] * (path is not None) + [", ".join(variables)] * bool(variables)
    settings = validate(DeviceSettings, values, " with ".join(sources), None if path is None else path.parent)
    settings = settings.of_file(path)
    if state is not None:
        settings = settings.model_copy(update={"state": state})
    return _with_profile(settings) if profile else settings


def default_state() -> Path:
    """The state folder where none is given."""
    return read_settings(None).state


def default_trust() -> Path:
    """The folder of trusted public keys where none is given."""
    return read_settings(None, profile=False).trusted_keys


def _board_settings() -> Path | None:
    try:
        with BOARD_SETTINGS.open("rb"):
            log.info("Settings: %s.", BOARD_SETTINGS)
            return BOARD_SETTINGS
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(unreadable(BOARD_SETTINGS, error)) from error


def _set(values: dict[str, Any], keys: list[str], text: str) -> None:
    """Set a key; the text is a TOML value or a plain string."""
    for key in keys[:-1]:
        inner = values.get(key)
        values[key] = inner if isinstance(inner, dict) else {}
        values = values[key]
    try:
        values[keys[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[keys[-1]] = text


def _with_profile(settings: DeviceSettings) -> DeviceSettings:
    """The settings with the camera profile's values where they have none of their own."""
    if settings.camera.profile is None:
        return settings
    profile = read_profile(settings.camera.profile)
    camera = settings.camera
    if "um_per_px" not in camera.model_fields_set:
        camera = camera.model_copy(update={"um_per_px": profile.scale.um_per_px})
    own = {key: getattr(settings.gate, key) for key in settings.gate.model_fields_set}
    return settings.model_copy(update={"camera": camera, "gate": profile.gate.model_copy(update=own)})


def with_options(
    settings: DeviceSettings,
    *,
    bundle: Path | None = None,
    camera: str | None = None,
    watch: bool = False,
    port: int | None = None,
) -> DeviceSettings:
    """The settings with the command line's options; raises UsageError for a camera that cannot work."""
    update: dict[str, object] = {}
    if bundle is not None:
        update["bundle"] = bundle
    if camera is not None or watch:
        named = {} if camera is None else {**_camera_named(camera), "watch": False}
        chosen = settings.camera.model_copy(update={**named, **({"watch": True} if watch else {})})
        if camera is not None and is_stream(camera) and (fault := address_fault(camera)):
            raise UsageError(f"--camera: {fault}")
        problem = watch_problem(chosen) if watch else source_problem(chosen.source or "")
        if problem is not None:
            raise UsageError(f"{problem[0].upper()}{problem[1:]}.")
        update["camera"] = chosen
    if port is not None:
        update["web"] = settings.web.model_copy(update={"port": port})
    return settings.model_copy(update=update)


def _camera_named(source: str) -> dict[str, object]:
    """What ``--camera`` means: simulated, mixed, picamera, v4l2, /dev/videoN, or what is to be replayed."""
    if source == "mixed":
        return {"kind": "simulated", "source": None, "mixed": True}
    if source in {"simulated", "picamera", "v4l2"}:
        return {"kind": source, "source": None}
    return {"kind": "v4l2" if source.startswith("/dev/") else "replay", "source": source}
