"""The daemon's settings: one TOML file, every mistake in it reported at once."""

import logging
import os
import shlex
import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bloodedge.config import Model, Strict, read_toml, validate, without_removed
from bloodedge.errors import UsageError, as_owner, quoted, unreadable, user_name
from bloodedge.files import file_mode
from bloodedge.redact import address_fault
from bloodedge_device.finder.frame_gate import GateParameters
from bloodedge_device.finder.parameters import FinderParameters
from bloodedge_device.settings.camera_profile import read_profile
from bloodedge_device.settings.sections import (
    CameraSettings,
    DomainSettings,
    MqttSettings,
    SlideSettings,
    StoreSettings,
    TrustSettings,
    UpdateSettings,
    WatchSettings,
    WebSettings,
    fault_in_address,
    fault_in_watching,
    is_stream,
)

__all__ = [
    "BOARD_SETTINGS",
    "CameraSettings",
    "DeviceSettings",
    "MqttSettings",
    "StoreSettings",
    "TrustSettings",
    "UpdateSettings",
    "WebSettings",
    "default_state",
    "default_trust",
    "home_state",
    "is_stream",
    "missing_files",
    "read_settings",
    "readable",
    "with_options",
]


log = logging.getLogger("bloodedge.device")

BOARD_SETTINGS = Path("/etc/bloodedge/device.toml")
"""A provisioned board's: read where neither a settings file nor a state folder is given."""


def default_state() -> Path:
    """Where results are unless a folder is given: where the settings that are read then say."""
    return read_settings(None).state


def default_trust() -> Path:
    """Where the public keys lie that a board here trusts, unless a folder is given."""
    return read_settings(None, profile=False).trusted_keys


def readable(state: Path, command: str = "...") -> Path:
    """The state folder itself; UsageError for a user who may not look into it, with the ``command`` for its owner."""
    try:
        closed = stat.S_ISDIR(file_mode(state)) and not os.access(state, os.R_OK | os.X_OK, effective_ids=True)
    except PermissionError:
        closed = True
    if closed:
        raise UsageError(f"{state} cannot be read by this user; {as_owner(state, f'bloodedge device {command}')}.")
    return state


def home_state() -> Path:
    """Where results go unless the settings say (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "bloodedge"


class DeviceSettings(Strict):
    """Everything that ``bloodedge device run`` may be told."""

    bundle: Path | None = None
    """A bundle folder or zip; without it the one that was installed (bloodedge device install), else the one that came
    with the installation."""
    engine: Literal["auto", "litert", "openvino"] = "auto"
    """auto: OpenVINO on x86 where it is installed, else LiteRT; or litert, openvino."""
    precision: Literal["int8", "dynamic", "float16", "float32"] = "int8"
    """Or dynamic, float16, float32, where the bundle has them."""
    threads: int = Field(default=2, ge=1, le=64)
    """Of the engine."""
    openvino_device: Literal["CPU", "GPU", "NPU"] = "CPU"
    """Where OpenVINO computes."""
    cores: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Processor cores that the daemon keeps to, such as [2, 3], and leaves the others to the camera; none: any."""
    state: Path = Field(default_factory=home_state)
    """Folder of the results: ``device.sqlite`` and ``crops/``."""
    camera: CameraSettings = CameraSettings()
    slide: SlideSettings = SlideSettings()
    gate: GateParameters = GateParameters()
    finder: FinderParameters = FinderParameters()
    domain: DomainSettings = DomainSettings()
    trust: TrustSettings = TrustSettings()
    update: UpdateSettings = UpdateSettings()
    store: StoreSettings = StoreSettings()
    web: WebSettings = WebSettings()
    mqtt: MqttSettings = Field(default_factory=MqttSettings)
    watch: WatchSettings = WatchSettings()

    @property
    def trusted_keys(self) -> Path:
        """Folder of the trusted public keys."""
        return self.trust.keys or self.state / "trust"

    @model_validator(mode="before")
    @classmethod
    def _older(cls, values: Any) -> Any:
        """``[stain]`` of files written for older versions; its "on" made results worse (docs/results.md)."""
        if isinstance(values, dict) and values.get("stain") == {"normalise": "on"}:
            raise ValueError("stain: cells are no longer brought to one stain; leave the section [stain] out")
        return without_removed(values, stain=...)

    @model_validator(mode="after")
    def _device_is_of_the_engine(self) -> Self:
        if self.engine == "litert" and self.openvino_device != "CPU":
            raise ValueError(f'openvino_device = "{self.openvino_device}" needs engine = "openvino"')
        return self

    @model_validator(mode="after")
    def _fleet_s_bundles_are_signed(self) -> Self:
        if self.update.from_fleet and self.trust.unsigned:
            raise ValueError("update.from_fleet takes signed bundles only: leave out trust.unsigned, and trust a key")
        if self.update.from_fleet and self.bundle is not None:
            raise ValueError("update.from_fleet installs into the slots, which a bundle named here keeps from running")
        return self


PREFIX = "BLOODEDGE_DEVICE__"
"""Of environment variables that stand for settings: ``BLOODEDGE_DEVICE__CAMERA__RATE=5`` for ``[camera] rate``."""


def read_settings(path: Path | None, state: Path | None = None, *, profile: bool = True) -> DeviceSettings:
    """Settings from a TOML file, or the defaults, with the environment's in their place.

    Where neither a file nor a state folder is given, a board's own file is read, if this is a board. Relative paths are
    relative to the file's folder, without a file to the current one. Raises UsageError naming every mistake.

    profile: with what the camera's profile says, which then must be there.
    """
    if path is None and state is None:
        path = _board_settings()
    values = {} if path is None else read_toml(path)
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    for name in given:
        _set(values, name.removeprefix(PREFIX).lower().split("__"), os.environ[name])
    sources = [str(path)] * (path is not None) + [", ".join(given)] * bool(given)
    here = Path() if path is None else path.parent
    settings = validate(DeviceSettings, values, " with ".join(sources))
    if profile:
        settings = _with_profile(settings, here)
    return settings.model_copy(
        update={
            "bundle": settings.bundle and here / settings.bundle.expanduser(),
            "state": here / settings.state.expanduser(),
            "camera": settings.camera.model_copy(update={"source": _source_beside(here, settings.camera)}),
            "trust": _beside(here, settings.trust, ("keys",)),
            "web": _beside(here, settings.web, FILES["web"]),
            "mqtt": _beside(here, settings.mqtt, FILES["mqtt"]),
        }
    )


def _board_settings() -> Path | None:
    try:
        with BOARD_SETTINGS.open("rb"):
            log.info("The settings are those of %s.", BOARD_SETTINGS)
            return BOARD_SETTINGS
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(unreadable(BOARD_SETTINGS, error)) from error


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
    """What the settings name and is not there, or not for this user to read, a sentence each."""
    found = []
    source = settings.camera.source
    if settings.bundle is not None and not file_mode(settings.bundle):
        found.append(f"bundle: {settings.bundle} does not exist; correct the path or make it with bloodedge convert.")
    if settings.camera.kind == "replay" and source and not is_stream(source) and not file_mode(Path(source)):
        found.append(f"camera.source: {source} does not exist; correct the path.")
    for name, table in (("web", settings.web), ("mqtt", settings.mqtt)):
        for key in FILES[name]:
            path: Path | None = getattr(table, key)
            if path is not None and (fault := _fault(path, settings.state)):
                found.append(f"{name}.{key}: {path} {fault}.")
    return found


def _fault(path: Path, state: Path) -> str | None:
    """What keeps this user from reading a file, and what to do; None: nothing."""
    try:
        there = stat.S_ISREG(file_mode(path))
    except PermissionError:
        there = True
    if not there:
        return "does not exist; correct the path"
    if os.access(path, os.R_OK, effective_ids=True):
        return None
    told = f"cannot be read by {user_name(os.geteuid())}"
    if _is_another_users(state):  # whose daemon needs the file; this user's group may not
        return f"{told}, and {state} is another user's; {as_owner(state)}"
    return f"{told}; let it: sudo chgrp {shlex.quote(_own_group())} {quoted(path)}, then sudo chmod g+r {quoted(path)}"


def _is_another_users(folder: Path) -> bool:
    try:
        return folder.stat().st_uid != os.geteuid()
    except PermissionError:
        return True
    except OSError:  # not made yet
        return False


def _own_group() -> str:
    import grp

    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


FILES = {"web": ("certificate", "key"), "mqtt": ("password_file", "ca", "certificate", "key")}
"""Keys of tables that name files."""


def _beside(here: Path, table: Model, keys: tuple[str, ...]) -> Model:
    """A table whose files' relative paths are relative to ``here``."""
    given = {key: getattr(table, key) for key in keys}
    return table.model_copy(update={k: here / path.expanduser() for k, path in given.items() if path is not None})


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


def _source_beside(folder: Path, camera: CameraSettings) -> str | None:
    if camera.kind != "replay" or camera.source is None or is_stream(camera.source):
        return camera.source
    return str(folder / Path(camera.source).expanduser())


def with_options(
    settings: DeviceSettings,
    bundle: Path | None,
    state: Path | None,
    camera: str | None,
    *,
    watch: bool = False,
    port: int | None = None,
) -> DeviceSettings:
    """The settings with what was given on the command line in place of what the file says.

    Raises UsageError for a camera that cannot work.
    """
    update: dict[str, object] = {}
    if bundle is not None:
        update["bundle"] = bundle
    if state is not None:
        update["state"] = state
    if camera is not None or watch:
        named = {} if camera is None else {**camera_named(camera), "watch": False}
        chosen = settings.camera.model_copy(update={**named, **({"watch": True} if watch else {})})
        if camera is not None and is_stream(camera) and (unreadable_address := address_fault(camera)):
            raise UsageError(f"--camera: {unreadable_address}")
        fault = fault_in_watching(chosen) if watch else fault_in_address(chosen.source or "")
        if fault is not None:
            raise UsageError(f"{fault[0].upper()}{fault[1:]}.")
        update["camera"] = chosen
    if port is not None:
        update["web"] = settings.web.model_copy(update={"port": port})
    return settings.model_copy(update=update)


def camera_named(source: str) -> dict[str, object]:
    """What ``--camera`` says: simulated, picamera, v4l2, /dev/videoN, or what is to be replayed."""
    if source in {"simulated", "picamera", "v4l2"}:
        return {"kind": source, "source": None}
    return {"kind": "v4l2" if source.startswith("/dev/") else "replay", "source": source}
