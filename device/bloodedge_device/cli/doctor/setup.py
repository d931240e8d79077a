"""Checks of what the settings name: files, bundle, camera, results, page and broker."""

import errno
import queue
import socket
import sqlite3
import threading
from contextlib import closing, suppress

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import file_mode
from bloodedge.web_access import has_token
from bloodedge_device.cli.doctor.finding import Examination, Outcome, failed, ok, warning
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.settings import DeviceSettings, missing_files

ANSWER_WITHIN_S = 3.0


def check_files(examination: Examination) -> Outcome:
    """Files that the settings name."""
    if missing := missing_files(examination.settings):
        return failed(" ".join(missing), "Correct the settings, or let the daemon's user read the files.")
    return ok("This user can read every file that the settings name.")


def check_bundle(examination: Examination) -> Outcome:
    """The bundle loads and passes its self-test."""
    from bloodedge_device.bundles.loading import load

    loaded = load(examination.settings)
    manifest, artifact, golden = loaded.manifest, loaded.artifact, loaded.golden
    return ok(
        f"{manifest.name} (serial {manifest.serial}) runs on {artifact.engine} {artifact.precision}:"
        f" {golden.flips} of {golden.inputs} golden cells changed class."
    )


def check_slots(examination: Examination) -> Outcome:
    """The active slot's bundle may run."""
    from bloodedge_device.bundles.slot_record import read_record
    from bloodedge_device.bundles.switch import why_refused

    settings = examination.settings
    record = read_record(settings.state)
    slot = record.running
    if slot is None or record.active is None:
        return ok("No slot is active: the bundle that the settings name runs, or the one of the installation.")
    if why := why_refused(settings, record.active, slot):
        return failed(f"{why.rstrip('.')}.", "Install it again, or go back: bloodedge device rollback")
    sentence = f"{slot.title} is in slot {record.active}, {slot.state}"
    if settings.bundle is not None:
        return warning(f"{sentence}, but the settings name another bundle.", "Remove bundle from the settings.")
    return ok(f"{sentence}.")


def check_cameras(examination: Examination) -> Outcome:
    """Which cameras could be used, whatever kind is set."""
    from bloodedge_device.camera import picamera, v4l2

    cameras = [f"{camera.name} (v4l2: {camera.path})" for camera in v4l2.devices()]
    with suppress(UsageError):  # picamera2 is not installed
        cameras += [f"{model} (picamera: {number})" for number, model in enumerate(picamera.devices())]
    kind = examination.settings.camera.kind
    if cameras:
        return ok(f"Plugged in: {'; '.join(cameras)}.")
    if kind in {"v4l2", "picamera"}:
        return failed("No camera is plugged in.", "Plug it in, and check that its light is on.")
    return ok(f"No camera is plugged in, and the settings need none (camera.kind is {kind}).")


def check_camera(examination: Examination) -> Outcome:
    """The camera gives a frame."""
    camera = examination.settings.camera
    if examination.running and camera.is_hardware:
        return ok("The running daemon uses the camera.")
    frame = _first_frame(examination.settings)
    if frame is None:
        return ok(f"{camera.source} holds no image yet; the daemon will wait for new ones.")
    if isinstance(frame, BadFrame):
        return failed(frame.problem, "Check the camera or its source.")
    examination.frame = frame
    height, width = frame.bgr.shape[:2]
    return ok(f"A frame of {width} by {height} pixels came.")


def _first_frame(settings: DeviceSettings) -> Frame | BadFrame | None:
    """One frame of the camera; None where a watched folder holds no image yet, BloodedgeError when none comes."""
    from bloodedge_device.camera.open import open_camera

    camera, stop = open_camera(settings.camera), threading.Event()
    taken: queue.Queue[Frame | BadFrame | BaseException | None] = queue.Queue()

    def take() -> None:
        try:
            taken.put(next(iter(camera.frames(stop)), None))
        except BaseException as error:  # raised in the asking thread
            taken.put(error)

    threading.Thread(target=take, name="doctor's camera", daemon=True).start()
    try:
        frame = taken.get(timeout=settings.camera.timeout_s)
    except queue.Empty:
        if settings.camera.watch:
            return None
        raise BloodedgeError(
            f"{camera.name} gave no frame within {settings.camera.timeout_s:g} s; check its cable and power."
        ) from None
    finally:
        stop.set()
    if isinstance(frame, BaseException):
        raise frame
    if frame is None:
        raise BloodedgeError(f"{camera.name} ended before its first frame; check its source in the settings.")
    return frame


def check_picture(examination: Examination) -> Outcome:
    """The frame passes the frame gate."""
    from bloodedge.finder.frame_gate import check

    if examination.frame is None:
        return warning("There is no frame to judge focus and light by.", "Check the camera first.")
    result = check(examination.frame.bgr, examination.settings.gate)
    sentence = f"Focus {result.focus:.2f}, brightness {result.brightness:.0f} of 255."
    if result.reason is None:
        return ok(sentence)
    reason = result.reason.replace("_", " ")
    return warning(f"{sentence} The frame gate rejects it: {reason}.", "Focus on a smear and set the lamp.")


def check_database(examination: Examination) -> Outcome:
    """The database is undamaged."""
    from bloodedge_device.store import DATABASE, database_errors

    state = examination.settings.state
    path = state / DATABASE
    if not file_mode(path):
        return ok("There are no results yet.")
    with (
        database_errors(state, "read from"),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    if answer != "ok":
        return failed(f"{path} is damaged ({answer}).", "Rename it, and start the daemon again.")
    return ok(f"{path} is undamaged.")


def check_page(examination: Examination) -> Outcome:
    """The page can listen, and has a token where it needs one."""
    web = examination.settings.web
    if not web.enabled:
        return ok("The page is switched off.")
    if not web.is_local and not has_token(examination.settings.state):
        return failed(f"The page on {web.host} has no access token.", "Make one: bloodedge device token")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and examination.running:
            return ok(f"The running daemon serves the page on port {web.port}.")
        reason = error.strerror or str(error)
        return failed(f"The page cannot listen on {web.host}:{web.port} ({reason}).", "Change web.port or web.host.")
    return ok(f"Port {web.port} is free for the page.")


def check_broker(examination: Examination) -> Outcome:
    """The MQTT broker accepts connections."""
    mqtt = examination.settings.mqtt
    if mqtt.host is None:
        return ok("No broker is set: nothing is published.")
    from bloodedge_device.outputs.mqtt.client import why_unreachable

    try:
        socket.create_connection((mqtt.host, mqtt.port), ANSWER_WITHIN_S).close()
    except OSError as error:
        raise BloodedgeError(why_unreachable(error, f"the broker {mqtt.host}:{mqtt.port}")) from error
    return ok(f"The broker {mqtt.host}:{mqtt.port} accepts connections.")
