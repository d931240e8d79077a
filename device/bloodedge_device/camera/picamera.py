"""A Raspberry Pi camera through picamera2 (libcamera); its light is measured once, then held."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera import Pace, frame_of
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.settings.sections import CameraSettings

log = logging.getLogger("bloodedge.device")

LARGEST_WHOLE_SENSOR_PX = 2_000_000
"""Larger sensors are binned 2x2 unless a size is set: the whole field at video rate."""

VIDEO_FRAME_US = (33_333, 200_000)
"""Shortest and longest frame of the video configuration; picamera2's own 33 ms for both would cut exposures off."""

VIDEO_BUFFERS, STILL_BUFFERS = 4, 2
"""Enough for a steady stream; each holds a frame of contiguous memory, 37 MB at 4056x3040."""

SETTLE_S = 3.0
STEADY_FRAMES = 8
STEADY = 0.005
"""The light is steady when exposure, gain and colour gains vary by less than this share over so many frames."""

HELD = 0.02
"""Largest deviation from the requested light, as a share: sensors count exposure in lines and gain in steps."""

MOST_FRAMES_TO_HOLD = 30
"""Frames to wait for new light: those under way, about ten in libcamera's pipelines, keep the old."""

Metadata = Mapping[str, Any]


def devices() -> list[str]:
    """The connected cameras' models, in the order of their numbers; raises UsageError without picamera2."""
    return [str(info.get("Model", "unknown")) for info in _picamera2().global_camera_info()]


class PiCamera:
    """A camera on the board's ribbon cable; exposure, gain and white balance are given, or measured on opening.

    Frames come from the video configuration; from the still configuration (best noise reduction, slower) where the
    settings ask for at most one frame a second, or for more pixels than the binned sensor has.

    The page's picture is the shrunk full frame, made only while somebody looks; libcamera's lores stream would cost
    memory, bandwidth and a copy between the processes for every frame.
    """

    live = True
    ending = ""

    def __init__(self, settings: CameraSettings) -> None:
        """Open the camera.

        Raises BloodedgeError while it is unplugged or in use, UsageError where the settings cannot work with it.
        """
        self._settings = settings
        self._number = int(settings.source or 0)
        self._frame_wait_s = settings.timeout_s / 2
        self.name = f"{_model(self._number)} (camera {self._number})"
        self._camera: Any = self._open()

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames without end; raises BloodedgeError when the camera gives no more."""
        camera, self._camera = self._camera or self._open(), None
        try:
            pace = Pace(self._settings.rate, stop)
            index = 0
            while pace.wait():
                yield self._read(camera, index)
                index += 1
        finally:
            camera.close()

    def _open(self) -> Any:
        try:
            camera = _picamera2()(self._number)
        except (RuntimeError, IndexError) as error:
            raise BloodedgeError(
                f"{self.name} cannot be opened; close the other program that uses it, or check its ribbon cable."
            ) from error
        try:
            self._configure(camera)
            self._start(camera)
            self._hold_light(camera)
        except BaseException:
            camera.close()
            raise
        return camera

    def _configure(self, camera: Any) -> None:
        if "AwbEnable" not in camera.camera_controls:
            raise UsageError(
                f"{self.name} has no white balance: it is monochrome, or a USB camera; use a colour camera, or set "
                'camera.kind = "v4l2" for a USB camera.'
            )
        wanted = self._settings.size or default_size(camera.sensor_resolution)
        _check_size(self.name, wanted, camera.sensor_resolution)
        try:
            camera.configure(self._configuration(camera, wanted))
        except (RuntimeError, OSError) as error:
            raise BloodedgeError(
                f"{self.name} has no memory for {wanted[0]}x{wanted[1]} pixels; set a smaller camera.size, or close "
                "other programs."
            ) from error
        got = camera.camera_configuration()["main"]["size"]
        if tuple(got) != wanted:
            raise UsageError(
                f"{self.name} has no size {wanted[0]}x{wanted[1]} and offers {got[0]}x{got[1]}; set camera.size to it."
            )
        self._check_limit(camera, "exposure_us", "ExposureTime", self._settings.exposure_us)
        self._check_limit(camera, "gain", "AnalogueGain", self._settings.gain)

    def _configuration(self, camera: Any, size: tuple[int, int]) -> Any:
        main = {"format": "RGB888", "size": size}  # libcamera's RGB888 lies in memory as B, G, R
        if wants_still(size, camera.sensor_resolution, self._settings.rate):
            return camera.create_still_configuration(main=main, raw=None, buffer_count=STILL_BUFFERS, queue=False)
        longest = max(VIDEO_FRAME_US[1], self._settings.exposure_us or 0)
        controls = {"FrameDurationLimits": (VIDEO_FRAME_US[0], longest)}
        return camera.create_video_configuration(main=main, raw=None, buffer_count=VIDEO_BUFFERS, controls=controls)

    def _check_limit(self, camera: Any, key: str, control: str, value: float | None) -> None:
        least, most, _ = camera.camera_controls[control]
        if value is not None and not least <= value <= most:
            raise UsageError(
                f"camera.{key} is {value:g}, but {self.name} takes {least:g} to {most:g}; choose from these."
            )

    def _start(self, camera: Any) -> None:
        settings = self._settings
        camera.set_controls(_light(camera, settings.exposure_us, settings.gain, settings.white_balance))
        try:
            camera.start()
        except (RuntimeError, OSError) as error:
            raise BloodedgeError(f"{self.name} does not start; check its ribbon cable.") from error

    def _hold_light(self, camera: Any) -> None:
        """Let the camera measure the light that the settings do not give, then hold all until it is closed."""
        measured = self._settled(camera)
        settings = self._settings
        exposure_us = settings.exposure_us or int(measured["ExposureTime"])
        gain = settings.gain if settings.gain is not None else float(measured["AnalogueGain"])
        colours = settings.white_balance or tuple(measured["ColourGains"])
        camera.set_controls(_light(camera, exposure_us, gain, colours))
        wanted = (exposure_us, gain, *colours)
        got = self._wait_until_held(camera, wanted)
        log.info("%s: exposure %d µs, gain %.2f, colour gains %.2f and %.2f, held.", self.name, *got)
        if not _alike(wanted, got, HELD):
            log.warning(
                "%s does not hold exposure %d µs, gain %.2f, colour gains %.2f and %.2f as asked: "
                "cells may look different.",
                self.name,
                *wanted,
            )

    def _settled(self, camera: Any) -> Metadata:
        """Metadata of the first frame whose light is steady, or of the last one within SETTLE_S."""
        end_s = monotonic() + SETTLE_S
        automatic = self._settings.exposure_us is None or self._settings.gain is None
        seen: list[tuple[float, ...]] = []
        while True:
            metadata = self._metadata(camera)
            seen = [*seen, _light_of(metadata)][-STEADY_FRAMES:]
            full = len(seen) == STEADY_FRAMES
            searching = automatic and _is_searching(metadata)
            if full and not searching and all(_alike(seen[-1], light, STEADY) for light in seen):
                return metadata
            if full and monotonic() >= end_s:
                log.warning("%s was still adapting to the light when its exposure was held.", self.name)
                return metadata

    def _wait_until_held(self, camera: Any, wanted: tuple[float, ...]) -> tuple[float, ...]:
        """The light of the first frame that has the wanted light, or of the last of MOST_FRAMES_TO_HOLD."""
        for _ in range(1 + MOST_FRAMES_TO_HOLD):
            got = _light_of(self._metadata(camera))
            if _alike(wanted, got, HELD):
                break
        return got

    def _metadata(self, camera: Any) -> Metadata:
        with self._request(camera) as request:
            return dict(request.get_metadata())

    @contextmanager
    def _request(self, camera: Any) -> Iterator[Any]:
        """The next frame; raises BloodedgeError when none comes in time."""
        try:
            request = camera.capture_request(wait=False).get_result(timeout=self._frame_wait_s)
        except (TimeoutError, RuntimeError) as error:
            camera.cancel_all_and_flush()  # else closing waits for the frame that does not come
            raise BloodedgeError(f"{self.name} stopped giving frames; check its ribbon cable.") from error
        try:
            yield request
        finally:
            request.release()

    def _read(self, camera: Any, index: int) -> Frame | BadFrame:
        start_s = monotonic()
        with self._request(camera) as request:
            image = request.make_array("main")  # a copy of the buffer, so it outlives the request
        return frame_of(image, index, start_s, self._settings.um_per_px)


def default_size(sensor: tuple[int, int]) -> tuple[int, int]:
    """Width and height where the settings give none; even, as libcamera needs."""
    binning = 2 if sensor[0] * sensor[1] > LARGEST_WHOLE_SENSOR_PX else 1
    width, height = sensor[0] // binning, sensor[1] // binning
    return width - width % 2, height - height % 2


def wants_still(size: tuple[int, int], sensor: tuple[int, int], rate: float | None) -> bool:
    """Whether frames of ``size`` pixels, ``rate`` a second, come from the still configuration."""
    largest = default_size(sensor)
    return (rate is not None and rate <= 1) or size[0] > largest[0] or size[1] > largest[1]


def _picamera2() -> Any:
    try:
        from picamera2 import Picamera2
    except (ImportError, ValueError, AttributeError) as error:
        raise UsageError(_why_not_loaded(error)) from error
    return Picamera2


def _why_not_loaded(error: Exception) -> str:
    # The system's python3-simplejpeg is built for its own numpy: a ValueError, AttributeError or ImportError.
    if any(word in str(error) for word in ("numpy", "_ARRAY_API")):
        return (
            f"picamera2 cannot be loaded ({error}): the system's simplejpeg is built for another numpy than "
            "bloodedge's; install the package for this Debian (firmware_configs/README.md), or "
            "python3 -m pip install simplejpeg into bloodedge's environment."
        )
    if isinstance(error, ImportError):
        return (
            "The camera needs picamera2, which this Python lacks; install it (sudo apt install python3-picamera2) and "
            "make the environment with --system-site-packages."
        )
    return (
        f"picamera2 cannot be loaded ({error}); check whether the system's Python can: /usr/bin/python3 -c "
        "'import picamera2'."
    )


def _model(number: int) -> str:
    models = devices()
    if not models:
        raise BloodedgeError("No camera answers on the board's ribbon cable; switch the board off and check the cable.")
    if number >= len(models):
        there = ", ".join(f"{i} ({model})" for i, model in enumerate(models))
        raise BloodedgeError(f"There is no camera {number}; check its cable, or set camera.source to one of: {there}.")
    return models[number]


def _check_size(name: str, wanted: tuple[int, int], sensor: tuple[int, int]) -> None:
    if wanted[0] > sensor[0] or wanted[1] > sensor[1] or wanted[0] % 2 or wanted[1] % 2:
        raise UsageError(
            f"{name} has no size {wanted[0]}x{wanted[1]}; set camera.size to an even width and height of at most "
            f"{sensor[0]}x{sensor[1]}."
        )


def _light(
    camera: Any, exposure_us: int | None, gain: float | None, colours: tuple[float, ...] | None
) -> dict[str, object]:
    """The controls that fix what is given and leave the rest automatic, by this libcamera's names."""
    controls: dict[str, object] = {"AwbEnable": colours is None}
    if "ExposureTimeMode" in camera.camera_controls:  # since libcamera 0.5; 0 is automatic, 1 manual
        controls |= {"ExposureTimeMode": int(exposure_us is not None), "AnalogueGainMode": int(gain is not None)}
    else:  # here a given exposure or gain is kept while the other stays automatic
        controls["AeEnable"] = exposure_us is None or gain is None
    given = {"ExposureTime": exposure_us, "AnalogueGain": gain, "ColourGains": colours}
    return controls | {name: value for name, value in given.items() if value is not None}


def _light_of(metadata: Metadata) -> tuple[float, ...]:
    return (metadata["ExposureTime"], metadata["AnalogueGain"], *metadata["ColourGains"])


def _is_searching(metadata: Metadata) -> bool:
    """Whether automatic exposure has yet to find its value: AeLocked, or from libcamera 0.5 on AeState 1."""
    return metadata.get("AeLocked", True) is False or metadata.get("AeState") == 1


def _alike(wanted: tuple[float, ...], got: tuple[float, ...], share: float) -> bool:
    return all(abs(a - b) <= share * abs(a) for a, b in zip(wanted, got, strict=True))
