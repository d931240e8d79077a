"""All settings as one model."""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from bloodedge.config import Strict
from bloodedge.finder.frame_gate import GateParameters
from bloodedge.finder.parameters import FinderParameters
from bloodedge_device.settings.sections import (
    CameraSettings,
    DomainSettings,
    LocalPath,
    MqttSettings,
    SlideSettings,
    StoreSettings,
    TrustSettings,
    UpdateSettings,
    WatchSettings,
    WebSettings,
)


def home_state() -> Path:
    """Where results go unless the settings say (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path.home() / ".local" / "state") / "bloodedge"


class DeviceSettings(Strict):
    """Settings of ``bloodedge device run``."""

    bundle: LocalPath | None = None
    """A bundle's file or folder; default: the installed one (bloodedge device install), else the one that came with the
    installation."""
    engine: Literal["auto", "litert", "openvino"] = "auto"
    """Inference engine: litert, openvino or auto (OpenVINO on x86 where it is installed, else LiteRT)."""
    precision: Literal["int8", "dynamic", "float16", "float32"] = "int8"
    """int8; or dynamic, float16 or float32 where the bundle has them."""
    threads: int = Field(default=2, ge=1, le=64)
    """Threads of the inference engine."""
    openvino_device: Literal["CPU", "GPU", "NPU"] = "CPU"
    """OpenVINO's device: CPU, GPU or NPU."""
    cores: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Processor cores for the daemon, such as [2, 3], which leaves the others to the camera; empty: all."""
    state: LocalPath = Field(default_factory=home_state)
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

    removed: ClassVar = {"stain": ...}
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file that they were read from, whole path; None where there was none."""
        return self._file

    def of_file(self, path: Path | None) -> Self:
        """The same, read from a file."""
        settings = self.model_copy()
        settings._file = None if path is None else path.absolute()
        return settings

    @property
    def trusted_keys(self) -> Path:
        """Folder of the trusted public keys."""
        return self.trust.keys or self.state / "trust"

    @model_validator(mode="before")
    @classmethod
    def _refuse_stain(cls, values: Any) -> Any:
        """``[stain]`` is for older versions only; its "on" made results worse (docs/results.md)."""
        if isinstance(values, dict) and values.get("stain") == {"normalise": "on"}:
            raise ValueError("stain: cells are no longer brought to one stain; remove the section [stain]")
        return values

    @model_validator(mode="after")
    def _device_is_of_the_engine(self) -> Self:
        if self.engine == "litert" and self.openvino_device != "CPU":
            raise ValueError(f'openvino_device = "{self.openvino_device}" needs engine = "openvino"')
        return self

    @model_validator(mode="after")
    def _fleet_s_bundles_are_signed(self) -> Self:
        if self.update.from_fleet and self.trust.unsigned:
            raise ValueError("update.from_fleet takes signed bundles only: remove trust.unsigned, and trust a key")
        if self.update.from_fleet and self.bundle is not None:
            raise ValueError("update.from_fleet installs bundles, but the one that bundle names would run: remove it")
        return self
