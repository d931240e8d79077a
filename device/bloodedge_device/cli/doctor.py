"""Whether this machine is fit to run the daemon: independent checks, each with what to do when it fails."""

import errno
import fcntl
import getpass
import os
import queue
import re
import shutil
import socket
import sqlite3
import stat
import statistics
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from rich.text import Text

from bloodedge import RESEARCH_USE
from bloodedge.errors import BloodedgeError, UsageError, quoted, unreadable
from bloodedge.files import file_mode
from bloodedge.machine import cpu_temperature_c
from bloodedge.redact import redacted
from bloodedge.tables import print_table
from bloodedge.web_access import has_token
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.settings import BOARD_SETTINGS, DeviceSettings, missing_files, readable
from bloodedge_device.system.clock import clock_synchronised
from bloodedge_device.system.thermal import read_throttling

Level = Literal["ok", "warning", "failed"]

SYNC_MS = 50.0
"""A synced write slower than this holds the results of a camera at 10 frames a second up."""

HOT_C = 80.0
"""A Raspberry Pi's processor slows itself from 80 degrees on (Raspberry Pi documentation, frequency management)."""

CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
"""Of control groups (kernel documentation, admin-guide/cgroup-v2); a Raspberry Pi's kernel starts without memory."""
OVERLAYROOT = Path("/etc/overlayroot.local.conf")
"""Where a provisioned board asks for a read-only root (Debian's package overlayroot)."""
MOUNTS = Path("/proc/self/mountinfo")
OVERLAY = ("overlayroot", "overlay")
"""Source and type of a root that overlayroot has mounted."""
ASKED = re.compile(r"^overlayroot=(?![\"']?(?:disabled)?[\"']?\s*$)", re.MULTILINE)
ESCAPED = re.compile(rb"\\([0-7]{3})")
"""A blank and the like in mountinfo."""
ROOT_CURE = (
    "Start again after: sudo apt install overlayroot busybox. If it still is none, sudo cat"
    " /run/initramfs/overlayroot.log says why; if there is no such file: sudo update-initramfs -u"
)
STATE_CURE = (
    "systemctl status var-lib-bloodedge.mount says why its partition is not there; it is made with: sudo mkfs.ext4 -L"
    " bloodedge /dev/PARTITION"
)
CLOCK_CURE = (
    "With a network: sudo timedatectl set-ntp true. Without: sudo timedatectl set-ntp false, then set it by hand: sudo"
    " timedatectl set-time 'YEAR-MONTH-DAY HOUR:MINUTE'."
)
MEMORY_MB = 300
ANSWER_WITHIN_S = 3.0
COLOURS = {"ok": "green", "warning": "bold yellow", "failed": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    level: Level
    sentence: str
    """What is."""
    cure: str = ""
    """What to do; empty when all is well."""


class Patient:
    """The settings under examination, and what one check learns for another."""

    def __init__(self, settings: DeviceSettings) -> None:
        self.settings = settings
        self.frame: Frame | None = None
        self.running = is_running(settings.state)


def examine(settings: DeviceSettings) -> list[Finding]:
    """Every check's finding; a check that breaks is a failed finding."""
    patient = Patient(settings)
    found = [_finding(name, check, patient) for name, check in CHECKS.items()]
    return [replace(one, sentence=redacted(one.sentence), cure=redacted(one.cure)) for one in found]


def _finding(name: str, check: Callable[[Patient], tuple[Level, str, str]], patient: Patient) -> Finding:
    try:
        return Finding(name, *check(patient))
    except BloodedgeError as error:
        return _failed(name, str(error))
    except PermissionError as error:
        return _failed(name, unreadable(Path(error.filename or patient.settings.state), error))
    except Exception as error:  # one broken check must not hide the others
        return Finding(
            name, "failed", f"The check broke off ({type(error).__name__}: {error}).", "Look into its cause."
        )


def _failed(name: str, sentence: str) -> Finding:
    what, _, cure = sentence.rpartition("; ")
    if not what:
        return Finding(name, "failed", cure, "Do as it says.")
    return Finding(name, "failed", f"{what}.", cure[:1].upper() + cure[1:])


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings for programs."""
    healthy = all(finding.level != "failed" for finding in findings)
    return {"research_use": RESEARCH_USE, "healthy": healthy, "findings": [asdict(finding) for finding in findings]}


def show(findings: list[Finding]) -> None:
    """Print the findings as a table."""
    columns = ("check", "", "finding")
    rows = [
        (
            finding.name,
            Text(finding.level, COLOURS[finding.level]),
            Text(finding.sentence).append(f"\n{finding.cure}" if finding.cure else "", "bold"),
        )
        for finding in findings
    ]
    print_table(columns, rows, left=columns, sentences={"finding"})


def is_running(state: Path) -> bool:
    """Whether a daemon holds the state folder's lock."""
    try:
        with (state / "lock").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _files(patient: Patient) -> tuple[Level, str, str]:
    missing = missing_files(patient.settings)
    if missing:
        return "failed", " ".join(missing), "Correct the settings, or let the daemon's user read the files."
    return "ok", "Every file that the settings name is there, and this user may read it.", ""


def _bundle(patient: Patient) -> tuple[Level, str, str]:
    from bloodedge_device.bundles.loading import load

    loaded = load(patient.settings)
    manifest, artifact, golden = loaded.manifest, loaded.artifact, loaded.golden
    sentence = (
        f"{manifest.name} (serial {manifest.serial}) runs on {artifact.engine} {artifact.precision}:"
        f" {golden.flips} of {golden.inputs} golden cells changed class."
    )
    return "ok", sentence, ""


def _slots(patient: Patient) -> tuple[Level, str, str]:
    from bloodedge_device.bundles.slot_record import read_record
    from bloodedge_device.bundles.switch import why_refused

    settings = patient.settings
    record = read_record(settings.state)
    if record.running is None or record.active is None:
        return "ok", "No slot is active: the bundle that the settings name runs, or the one of the installation.", ""
    slot = record.running
    if why := why_refused(settings, record.active, slot):
        return "failed", f"{why.rstrip('.')}.", "Install it again, or go back: bloodedge device rollback"
    sentence = f"{slot.title} is in slot {record.active}, {slot.state}."
    if settings.bundle is not None:
        return "warning", f"{sentence[:-1]}, but the settings name another bundle.", "Take bundle out of the settings."
    return "ok", sentence, ""


def first_frame(settings: DeviceSettings) -> Frame | BadFrame | None:
    """One frame of the camera; None where a watched folder holds no whole image, BloodedgeError when none comes."""
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


def _camera(patient: Patient) -> tuple[Level, str, str]:
    if patient.running and patient.settings.camera.is_hardware:
        return "ok", "The camera is in use by the daemon, which runs.", ""
    frame = first_frame(patient.settings)
    if frame is None:
        return "ok", f"{patient.settings.camera.source} holds no image yet; new ones are awaited.", ""
    if isinstance(frame, BadFrame):
        return "failed", frame.problem, "Check the camera or its source."
    patient.frame = frame
    height, width = frame.bgr.shape[:2]
    return "ok", f"A frame of {width} by {height} pixels came.", ""


def _cameras(patient: Patient) -> tuple[Level, str, str]:
    """Which cameras could be used, whatever kind is set."""
    from bloodedge_device.camera import picamera, v4l2

    there = [f"{one.name} (v4l2: {one.path})" for one in v4l2.devices()]
    with suppress(UsageError):  # no picamera2: not a board with that connector
        there += [f"{model} (picamera: {number})" for number, model in enumerate(picamera.devices())]
    if there:
        return "ok", f"Plugged in: {'; '.join(there)}.", ""
    if patient.settings.camera.kind in {"v4l2", "picamera"}:
        return "failed", "No camera is plugged in.", "Plug it in, and see that its light is on."
    return "ok", f"None is plugged in; the settings want none (camera.kind is {patient.settings.camera.kind}).", ""


def _picture(patient: Patient) -> tuple[Level, str, str]:
    from bloodedge_device.finder.frame_gate import check

    if patient.frame is None:
        return "warning", "There is no frame to judge focus and light by.", "See to the camera first."
    result = check(patient.frame.bgr, patient.settings.gate)
    sentence = f"Focus {result.focus:.2f}, brightness {result.brightness:.0f} of 255."
    if result.reason is None:
        return "ok", sentence, ""
    reason = result.reason.replace("_", " ")
    return "warning", f"{sentence} The frame gate turns it away: {reason}.", "Focus on a smear and set the lamp."


def _disk(patient: Patient) -> tuple[Level, str, str]:
    free_mb = shutil.disk_usage(_existing(patient.settings.state)).free / 1e6
    wanted_mb = patient.settings.store.keep_free_mb
    sentence = f"{free_mb:.0f} MB are free for results."
    if free_mb < wanted_mb:
        return "warning", f"{sentence[:-1]}, fewer than store.keep_free_mb, {wanted_mb}.", "Free some space."
    return "ok", sentence, ""


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def _root(patient: Patient) -> tuple[Level, str, str]:
    state = patient.settings.state
    if _mounted(Path("/")) != OVERLAY:
        if OVERLAYROOT.is_file() and ASKED.search(OVERLAYROOT.read_text(errors="replace")):
            return "warning", f"{OVERLAYROOT} asks for a read-only root, and the root is not one.", ROOT_CURE
        return "ok", "The root is not kept read-only.", ""
    if _mounted(state) == OVERLAY or _mounted(state)[1] == "tmpfs":
        return "failed", f"The root is read-only, and what {state} holds is gone at the next start.", STATE_CURE
    return "ok", "The root is read-only, and results go to a partition of their own.", ""


def _mounted(path: Path) -> tuple[str, str]:
    """Source and type of the file system that a path lies on (proc(5), mountinfo); of two at one place the latter."""
    found, deepest = ("", ""), -1
    for line in MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, source = after.split()[:2]
        point = Path(os.fsdecode(ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), before.split()[4])))
        if path.resolve().is_relative_to(point) and len(point.parts) >= deepest:
            found, deepest = (source.decode(), kind.decode()), len(point.parts)
    return found


def _sync(patient: Patient) -> tuple[Level, str, str]:
    folder = _existing(patient.settings.state)
    try:
        median_ms = _sync_ms(folder)
    except PermissionError:
        return "failed", f"This user may not write to {folder}.", "Change its owner, or choose another state folder."
    sentence = f"A synced write takes {median_ms:.1f} ms (median of 20)."
    if median_ms > SYNC_MS:
        return "warning", sentence, "Put the state folder on a faster disk: an SSD, or a card of class A2."
    return "ok", sentence, ""


def _sync_ms(folder: Path) -> float:
    times = []
    with tempfile.TemporaryFile(dir=folder) as handle:
        for _ in range(20):
            start = perf_counter()
            handle.write(b"\0" * 4096)
            handle.flush()
            os.fsync(handle.fileno())
            times.append(perf_counter() - start)
    return statistics.median(times) * 1000


def _database(patient: Patient) -> tuple[Level, str, str]:
    from bloodedge_device.store import DATABASE, database_errors

    path = patient.settings.state / DATABASE
    if not file_mode(path):
        return "ok", "There are no results yet.", ""
    with (
        database_errors(patient.settings.state, "read from"),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        answer = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    if answer != "ok":
        return "failed", f"{path} is damaged ({answer}).", "Set it aside (rename it) and start again."
    return "ok", f"{path} is whole.", ""


def _clock(_: Patient) -> tuple[Level, str, str]:
    synchronised = clock_synchronised()
    if synchronised is None:
        return "warning", "The system does not tell whether its clock is right.", "Compare it with another clock."
    if not synchronised:
        return "warning", "The clock is not held to a time source.", CLOCK_CURE
    return "ok", "The clock is held to a time source.", ""


def _heat(_: Patient) -> tuple[Level, str, str]:
    temperature, throttling = cpu_temperature_c(), read_throttling()
    sentence = (
        "The system tells no temperature." if temperature is None else f"The processor is at {temperature:.0f} °C."
    )
    if throttling is not None and (slowed := throttling.now + throttling.since_start):
        return (
            "warning",
            f"{sentence} Now or since the start: {', '.join(slowed)}.",
            "Cool it; use its own power supply.",
        )
    if temperature is not None and temperature >= HOT_C:
        return "warning", sentence, "Cool it: a heat sink with a fan."
    return "ok", sentence, ""


def _memory(_: Patient) -> tuple[Level, str, str]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    free_mb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6
    sentence = f"{free_mb:.0f} MB of memory are available."
    if free_mb < MEMORY_MB:
        return "warning", sentence, f"End other programs: the daemon needs about {MEMORY_MB} MB."
    if CONTROLLERS.exists() and "memory" not in CONTROLLERS.read_text().split():
        sentence += " The kernel keeps no account of it, so that the service's limit does nothing."
        return "warning", sentence, "Add cgroup_enable=memory to the kernel's command line, as provisioning a Pi does."
    return "ok", sentence, ""


def _permissions(patient: Patient) -> tuple[Level, str, str]:
    state = readable(patient.settings.state, "doctor ...")
    closed = [path for path in sorted(Path("/dev").glob("video*")) if not os.access(path, os.R_OK | os.W_OK)]
    if patient.settings.camera.kind in {"v4l2", "picamera"} and closed:
        cure = f"Let it: sudo usermod -aG video {getpass.getuser()}, then log in again."
        return "failed", f"This user may not use {', '.join(map(str, closed))}.", cure
    if state.exists() and state.stat().st_mode & stat.S_IWOTH:
        return "warning", f"Every user of this machine may change {state}.", f"Close it: chmod o-w {quoted(state)}"
    source = patient.settings.camera.source or ""
    if redacted(source) != source and file_mode(BOARD_SETTINGS) & stat.S_IROTH:
        cure = f"Close it: sudo chgrp bloodedge {quoted(BOARD_SETTINGS)}, then sudo chmod 640 {quoted(BOARD_SETTINGS)}"
        return "warning", f"Every user of this machine may read what opens the camera in {BOARD_SETTINGS}.", cure
    return "ok", "This user may use what the settings name, and others may not change the results.", ""


def _page(patient: Patient) -> tuple[Level, str, str]:
    web = patient.settings.web
    if not web.enabled:
        return "ok", "The page is switched off.", ""
    if not web.is_local and not has_token(patient.settings.state):
        return "failed", f"The page on {web.host} has no access token.", "Make one: bloodedge device token"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and patient.running:
            return "ok", f"The daemon, which runs, has port {web.port}.", ""
        what = error.strerror or str(error)
        return "failed", f"The page cannot listen on {web.host}:{web.port} ({what}).", "Change web.port or web.host."
    return "ok", f"Port {web.port} is free for the page.", ""


def _broker(patient: Patient) -> tuple[Level, str, str]:
    mqtt = patient.settings.mqtt
    if mqtt.host is None:
        return "ok", "No broker is set: nothing is published.", ""
    from bloodedge_device.outputs.mqtt.sentences import why_unreachable

    where = f"the broker {mqtt.host}:{mqtt.port}"
    try:
        socket.create_connection((mqtt.host, mqtt.port), ANSWER_WITHIN_S).close()
    except OSError as error:
        raise BloodedgeError(why_unreachable(error, where)) from error
    return "ok", f"{where[0].upper()}{where[1:]} takes connections.", ""


CHECKS: dict[str, Callable[[Patient], tuple[Level, str, str]]] = {
    "files": _files,
    "bundle": _bundle,
    "slots": _slots,
    "cameras": _cameras,
    "camera": _camera,
    "picture": _picture,
    "disk": _disk,
    "root": _root,
    "sync": _sync,
    "database": _database,
    "clock": _clock,
    "heat": _heat,
    "memory": _memory,
    "permissions": _permissions,
    "page": _page,
    "broker": _broker,
}
