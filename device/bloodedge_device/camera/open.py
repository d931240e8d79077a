"""The camera that the settings name."""

from collections.abc import Iterable
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES, is_image
from bloodedge.redact import address_fault
from bloodedge_device.camera import Camera
from bloodedge_device.frames import SourceFile
from bloodedge_device.settings.sections import CameraSettings, is_stream


def open_camera(
    settings: CameraSettings, begin: int = 0, done: Iterable[SourceFile] = (), *, pass_over: bool = False
) -> Camera:
    """Open the camera that the settings name; a replay or simulation begins with frame number ``begin``.

    done: files of a watched folder that were taken before; pass_over: whether the first image is not to be read,
    because the process ended over it. Raises UsageError when the settings can never work,
    BloodedgeError when the camera is missing or busy.
    """
    match settings.kind:
        case "replay":
            return _open_replay(settings, begin, done, pass_over=pass_over)
        case "v4l2":
            from bloodedge_device.camera.v4l2 import V4l2Camera

            return V4l2Camera(settings)
        case "picamera":
            from bloodedge_device.camera.picamera import PiCamera

            return PiCamera(settings)
    from bloodedge_device.camera.simulated import SimulatedCamera

    return SimulatedCamera(settings, begin)


def _open_replay(settings: CameraSettings, begin: int, done: Iterable[SourceFile], *, pass_over: bool) -> Camera:
    from bloodedge_device.camera.replay import FolderCamera, VideoCamera

    source = settings.source or ""
    if is_stream(source):
        if fault := address_fault(source):
            raise UsageError(fault)
        return VideoCamera(settings, source, live=True)
    path = Path(source)
    if settings.watch:
        from bloodedge_device.camera.watched_folder import WatchCamera

        if path.is_file():
            raise UsageError(f"{path} is a file; give the folder that images are written into.")
        return WatchCamera(settings, path, begin, done, pass_over=pass_over)
    if path.is_dir():
        images = sorted(file for file in path.rglob("*") if is_image(file) and file.is_file())
        if not images:
            raise UsageError(f"{path} has no image (bmp, jpg, png, tif or webp); give a folder of frames.")
        return FolderCamera(settings, path, images, begin, pass_over=pass_over)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a folder of frames, a video file or a stream's URL.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FolderCamera(settings, path.parent, [path], begin, pass_over=pass_over)
    return VideoCamera(settings, source, live=settings.realtime, begin=begin)
