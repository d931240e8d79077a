"""A stand-in for picamera2 on a board: calls, states, checks and errors of the real one, over a scene of one colour.

Written after raspberrypi/picamera2 (picamera2.py, request.py, job.py, controls.py): a camera is opened by its number,
configured, then started; unknown controls are refused; a request keeps its buffer until it is released, and no frame
comes when all are kept; a job that timed out stays queued, and closing behind one never ends.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LINE_US = 18.6
"""Exposure is counted in lines of the sensor: 3280 pixels at 182.4 MHz and their blanking (IMX219)."""

DELAY_FRAMES = 3
"""Controls reach the frames that are begun after them."""

SCENE_RGB = (200, 120, 40)

Stream = dict[str, Any]
Configuration = dict[str, Any]


@dataclass
class Sensor:
    """What is connected, and what it has measured so far."""

    model: str = "imx477"
    resolution: tuple[int, int] = (4056, 3040)
    colour: bool = True
    modern: bool = True
    """Whether libcamera has exposure and gain modes (0.5 and later), or AeEnable alone."""
    busy: bool = False
    no_memory: bool = False
    gives: tuple[int, int] | None = None
    """The size that libcamera adjusts every request to."""
    frames_left: int = 1_000_000
    lamp: float = 1.0
    drift: float = 0.0
    """How much the lamp grows brighter with each frame: automatic light follows and never settles."""
    deaf: bool = False
    """Takes controls and heeds none."""
    exposure_us: float = 1000.0
    gain: float = 8.0
    colours: tuple[float, float] = (1.0, 1.0)
    opened: list["Picamera2"] = field(default_factory=list)


BOARD: list[Sensor] = []
"""The connected cameras, by number."""

AE_TARGET_US, AE_TARGET_GAIN, AWB_TARGET = 12_000.0, 2.0, (2.4, 1.6)


class Picamera2:
    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        return [
            {"Model": s.model, "Location": 2, "Rotation": 180, "Id": f"/base/{s.model}@1a", "Num": i}
            for i, s in enumerate(BOARD)
        ]

    def __init__(self, camera_num: int = 0) -> None:
        self._sensor = BOARD[camera_num]
        if self._sensor.busy:
            raise RuntimeError("Camera __init__ sequence did not complete.")
        self.sensor_resolution = self._sensor.resolution
        self.is_open, self.started = True, False
        self.config: Configuration | None = None
        self.held = 0
        self.pending_jobs = 0
        self._applied: dict[str, Any] = {}
        self._under_way: list[dict[str, Any]] = []
        self._sensor.opened.append(self)

    @property
    def camera_controls(self) -> dict[str, tuple[object, object, object]]:
        controls: dict[str, tuple[object, object, object]] = {
            "AeEnable": (False, True, True),
            "ExposureTime": (31, 66_512_892, 20_000),
            "AnalogueGain": (1.0, 22.26, 1.0),
            "FrameDurationLimits": (19_989, 674_181_621, 33_333),
        }
        if self._sensor.modern:
            controls |= {"ExposureTimeMode": (0, 1, 0), "AnalogueGainMode": (0, 1, 0)}
        if self._sensor.colour:
            controls |= {"AwbEnable": (False, True, None), "ColourGains": (0.0, 32.0, None)}
        return controls

    def create_video_configuration(
        self, main: Stream, raw: Stream, buffer_count: int = 6, controls: Any = (), queue: bool = True
    ) -> Configuration:
        limits = {"FrameDurationLimits": (33333, 33333)} | dict(controls)
        return _configuration("video", main, raw, buffer_count, limits, queue)

    def create_still_configuration(
        self, main: Stream, raw: Stream, buffer_count: int = 1, controls: Any = (), queue: bool = True
    ) -> Configuration:
        limits = {"FrameDurationLimits": (100, 1_000_000_000)} | dict(controls)
        return _configuration("still", main, raw, buffer_count, limits, queue)

    def configure(self, config: Configuration) -> None:
        if self.started:
            raise RuntimeError("Camera must be stopped before configuring")
        if self._sensor.no_memory:
            raise RuntimeError("Failed to allocate buffers.")
        width, height = config["main"]["size"]
        size = self._sensor.gives or (width - width % 2, height - height % 2)
        self.config = config | {"main": config["main"] | {"size": size}}
        self.set_controls(config["controls"])

    def camera_configuration(self) -> Configuration:
        assert self.config is not None
        return self.config

    def set_controls(self, controls: dict[str, Any]) -> None:
        for name in controls:
            if name not in self.camera_controls:
                raise RuntimeError(f"Control {name} is not advertised by libcamera")
        if self.started:
            self._under_way.append(controls | {"_due": DELAY_FRAMES})
        else:
            self._applied |= controls

    def start(self) -> None:
        if self.config is None:
            raise RuntimeError("Camera has not been configured")
        self.started = True

    def capture_request(self, wait: bool | float | None = None) -> "Job":
        assert wait is False, "waiting for ever hangs when the cable comes loose"
        self.pending_jobs += 1
        return Job(self)

    def cancel_all_and_flush(self) -> None:
        self.pending_jobs = 0

    def close(self) -> None:
        assert not self.pending_jobs, "closing waits behind a job that never ends"
        self.started = self.is_open = False

    def expose(self) -> dict[str, Any]:
        """One frame: what the sensor has measured so far, moved on by the controls in force."""
        for controls in list(self._under_way):
            controls["_due"] -= 1
            if controls["_due"] < 0:
                self._applied |= controls
                self._under_way.remove(controls)
        applied = {} if self._sensor.deaf else self._applied
        return self._metadata(self._adapt(applied))

    def _adapt(self, applied: dict[str, Any]) -> bool:
        """Set what is fixed, move the rest towards the scene; whether automatic exposure has found its value."""
        sensor = self._sensor
        sensor.lamp *= 1 + sensor.drift
        us, gain = self._fixed(applied, "ExposureTime"), self._fixed(applied, "AnalogueGain")
        sensor.exposure_us = us or _towards(sensor.exposure_us, AE_TARGET_US / sensor.lamp)
        sensor.gain = gain or _towards(sensor.gain, AE_TARGET_GAIN)
        red, blue = (_towards(a, b) for a, b in zip(sensor.colours, AWB_TARGET, strict=True))
        sensor.colours = applied.get("ColourGains", (red, blue)) if applied.get("AwbEnable") is False else (red, blue)
        target = AE_TARGET_US / sensor.lamp
        found = us or abs(sensor.exposure_us - target) < 0.01 * target
        return bool(found) and not (us and gain)

    def _fixed(self, applied: dict[str, Any], control: str) -> Any:
        """The value that holds ``control``: in its manual mode, or before there were modes whenever one was given."""
        mode = {"ExposureTime": "ExposureTimeMode", "AnalogueGain": "AnalogueGainMode"}[control]
        manual = applied.get(mode) == 1 if self._sensor.modern else True
        return applied.get(control) if manual else None

    def _metadata(self, converged: bool) -> dict[str, Any]:
        sensor = self._sensor
        state = {"AeState": 2 if converged else 1} if sensor.modern else {"AeLocked": converged}
        lines = int(sensor.exposure_us / LINE_US)
        exposure = {"ExposureTime": round(lines * LINE_US), "AnalogueGain": sensor.gain}
        return state | exposure | {"ColourGains": sensor.colours}


def _configuration(
    use_case: str, main: Stream, raw: Stream, buffer_count: int, controls: dict[str, Any], queue: bool
) -> Configuration:
    return {
        "use_case": use_case,
        "main": main,
        "raw": raw,
        "buffer_count": buffer_count,
        "controls": controls,
        "queue": queue,
    }


def _towards(value: float, target: float) -> float:
    return value + 0.3 * (target - value)


class Job:
    def __init__(self, camera: Picamera2) -> None:
        self._camera = camera

    def get_result(self, timeout: float | None = None) -> "CompletedRequest":
        camera = self._camera
        assert timeout is not None
        if (
            not camera.started
            or camera.held >= camera.camera_configuration()["buffer_count"]
            or camera._sensor.frames_left <= 0
        ):
            raise TimeoutError
        camera._sensor.frames_left -= 1
        camera.pending_jobs -= 1
        camera.held += 1
        return CompletedRequest(camera, camera.expose())


class CompletedRequest:
    def __init__(self, camera: Picamera2, metadata: dict[str, Any]) -> None:
        self._camera, self._metadata, self._released = camera, metadata, False

    def get_metadata(self) -> dict[str, Any]:
        assert not self._released
        return self._metadata

    def make_array(self, name: str) -> np.ndarray:
        assert not self._released
        config = self._camera.camera_configuration()[name]
        rgb = {"RGB888": SCENE_RGB[::-1], "BGR888": SCENE_RGB}[config["format"]]
        width, height = config["size"]
        return np.full((height, width, 3), rgb, np.uint8)

    def release(self) -> None:
        if self._released:
            raise RuntimeError("CompletedRequest: lock now has negative ref_count")
        self._released = True
        self._camera.held -= 1
