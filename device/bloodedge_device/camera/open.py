"""The camera that the settings name."""

from collections.abc import Iterable

from bloodedge_device.camera import Camera
from bloodedge_device.frames import SourceFile
from bloodedge_device.settings.sections import CameraSettings


def open_camera(settings: CameraSettings, begin: int = 0, done: Iterable[SourceFile] = ()) -> Camera:
    """The camera that the settings name; what is replayed or simulated begins with frame number ``begin``.

    done: a watched folder's files that were taken before. Raises UsageError when it can never work, BloodedgeError when
    it is not there or busy.
    """
    match settings.kind:
        case "replay":
            from bloodedge_device.camera.replay import open_replay

            return open_replay(settings, begin, done)
        case "v4l2":
            from bloodedge_device.camera.v4l2 import V4l2Camera

            return V4l2Camera(settings)
        case "picamera":
            from bloodedge_device.camera.picamera import PiCamera

            return PiCamera(settings)
    from bloodedge_device.camera.simulated import SimulatedCamera

    return SimulatedCamera(settings, begin)
