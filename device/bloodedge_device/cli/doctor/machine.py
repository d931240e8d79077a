"""Checks of the machine: disk, root, clock, heat, memory and permissions."""

import getpass
import os
import re
import shutil
import stat
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from bloodedge.errors import quoted
from bloodedge.files import file_mode
from bloodedge.machine import cpu_temperature_c
from bloodedge.redact import redacted
from bloodedge_device.cli.doctor.finding import Examination, Outcome, failed, ok, warning
from bloodedge_device.settings import readable
from bloodedge_device.settings.read import BOARD_SETTINGS
from bloodedge_device.store.crops import lacks_files
from bloodedge_device.system.clock import clock_synchronised
from bloodedge_device.system.thermal import read_throttling

SYNC_MS = 50.0
"""A slower synced write delays the results of a camera at 10 frames a second."""

HOT_C = 80.0
"""A Raspberry Pi's CPU slows down from 80 degrees on (Raspberry Pi documentation, frequency management)."""

MEMORY_MB = 300

CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
"""Control groups (kernel documentation, admin-guide/cgroup-v2); a Raspberry Pi's kernel starts without memory."""
OVERLAYROOT = Path("/etc/overlayroot.local.conf")
"""Where a provisioned board asks for a read-only root (Debian's package overlayroot)."""
MOUNTS = Path("/proc/self/mountinfo")
OVERLAY = ("overlayroot", "overlay")
"""Source and type of a root that overlayroot mounted."""
ASKED = re.compile(r"^overlayroot=(?![\"']?(?:disabled)?[\"']?\s*$)", re.MULTILINE)
ESCAPED = re.compile(rb"\\([0-7]{3})")
"""An escaped blank or the like in mountinfo."""

ROOT_CURE = (
    "Restart after: sudo apt install overlayroot busybox. If that does not help, see the reason with: sudo cat"
    " /run/initramfs/overlayroot.log; if that file is missing: sudo update-initramfs -u"
)
STATE_CURE = (
    "Its partition is missing; see the reason with: systemctl status var-lib-bloodedge.mount. To make the partition:"
    " sudo mkfs.ext4 -L bloodedge /dev/PARTITION"
)
CLOCK_CURE = (
    "With a network: sudo timedatectl set-ntp true. Without: sudo timedatectl set-ntp false, then set it by hand: sudo"
    " timedatectl set-time 'YEAR-MONTH-DAY HOUR:MINUTE'."
)


def check_disk(examination: Examination) -> Outcome:
    """The disk has room."""
    free_mb = shutil.disk_usage(_existing(examination.settings.state)).free / 1e6
    keep_free_mb = examination.settings.store.keep_free_mb
    if free_mb < keep_free_mb:
        sentence = f"{free_mb:.0f} MB are free for results, less than store.keep_free_mb ({keep_free_mb})."
        return warning(sentence, "Free some space.")
    if lacks_files(_existing(examination.settings.state)):
        sentence = f"{free_mb:.0f} MB are free for results, but hardly any further file (inode) fits on the disk."
        return warning(sentence, "Delete small files there, or make the file system anew with more inodes.")
    return ok(f"{free_mb:.0f} MB are free for results.")


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def check_root(examination: Examination) -> Outcome:
    """A read-only root is mounted as asked, and keeps the results."""
    state = examination.settings.state
    if _mounted(Path("/")) != OVERLAY:
        if OVERLAYROOT.is_file() and ASKED.search(OVERLAYROOT.read_text(errors="replace")):
            return warning(f"{OVERLAYROOT} asks for a read-only root, but the root is writable.", ROOT_CURE)
        return ok("The root is writable, as usual.")
    if _mounted(state) == OVERLAY or _mounted(state)[1] == "tmpfs":
        return failed(f"The root is read-only, and a restart loses everything in {state}.", STATE_CURE)
    return ok("The root is read-only, and results have a partition of their own.")


def _mounted(path: Path) -> tuple[str, str]:
    """Source and type of a path's file system (proc(5), mountinfo); of two mounted at one place, the later one."""
    found, deepest = ("", ""), -1
    for line in MOUNTS.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        kind, source = after.split()[:2]
        point = Path(os.fsdecode(ESCAPED.sub(lambda octal: bytes([int(octal[1], 8)]), before.split()[4])))
        if path.resolve().is_relative_to(point) and len(point.parts) >= deepest:
            found, deepest = (source.decode(), kind.decode()), len(point.parts)
    return found


def check_sync(examination: Examination) -> Outcome:
    """Synced writes are fast enough."""
    folder = _existing(examination.settings.state)
    try:
        median_ms = _sync_ms(folder)
    except PermissionError:
        return failed(f"This user may not write to {folder}.", "Change its owner, or choose another state folder.")
    sentence = f"A synced write takes {median_ms:.1f} ms (median of 20)."
    if median_ms > SYNC_MS:
        return warning(sentence, "Put the state folder on a faster disk: an SSD, or a card of class A2.")
    return ok(sentence)


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


def check_clock(_: Examination) -> Outcome:
    """The clock is synchronised."""
    synchronised = clock_synchronised()
    if synchronised is None:
        return warning("The system does not report whether its clock is synchronised.", "Compare it with another.")
    if not synchronised:
        return warning("The clock is not synchronised.", CLOCK_CURE)
    return ok("The clock is synchronised.")


def check_heat(_: Examination) -> Outcome:
    """The CPU is neither hot nor throttled."""
    temperature, throttling = cpu_temperature_c(), read_throttling()
    sentence = "No CPU temperature sensor was found." if temperature is None else f"The CPU is at {temperature:.0f} °C."
    if throttling is not None and (slowed := throttling.now + throttling.since_start):
        reasons = ", ".join(slowed)
        return warning(f"{sentence} Now or since the start: {reasons}.", "Cool it; use its own power supply.")
    if temperature is not None and temperature >= HOT_C:
        return warning(sentence, "Cool it: a heat sink with a fan.")
    return ok(sentence)


def check_memory(_: Examination) -> Outcome:
    """There is memory, and the service's limit on it works."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free_mb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024 / 1e6
    sentence = f"{free_mb:.0f} MB of memory are available."
    if free_mb < MEMORY_MB:
        return warning(sentence, f"End other programs: the daemon needs about {MEMORY_MB} MB.")
    if CONTROLLERS.exists() and "memory" not in CONTROLLERS.read_text().split():
        cure = "Add cgroup_enable=memory to the kernel's command line, as provisioning a Pi does."
        return warning(f"{sentence} The kernel does not count it, so the service's memory limit has no effect.", cure)
    return ok(sentence)


def check_permissions(examination: Examination) -> Outcome:
    """This user may use camera and results, and others may not change or read what they should not."""
    state = readable(examination.settings.state, "doctor ...")
    camera = examination.settings.camera
    closed = [path for path in sorted(Path("/dev").glob("video*")) if not os.access(path, os.R_OK | os.W_OK)]
    if camera.kind in {"v4l2", "picamera"} and closed:
        cure = f"Allow it: sudo usermod -aG video {getpass.getuser()}, then log in again."
        return failed(f"This user may not use {', '.join(map(str, closed))}.", cure)
    if state.exists() and state.stat().st_mode & stat.S_IWOTH:
        return warning(f"Every user of this machine may change {state}.", f"Close it: chmod o-w {quoted(state)}")
    keys = examination.settings.trusted_keys
    files = sorted(keys.iterdir()) if stat.S_ISDIR(file_mode(keys)) else []
    if opened := [path for path in (keys, *files) if file_mode(path) & stat.S_IWOTH and not path.is_symlink()]:
        cure = f"Close it: chmod o-w {quoted(opened[0])}, then compare the keys with their owners'."
        return failed(f"Every user of this machine may change whose bundles are trusted, in {opened[0]}.", cure)
    source = camera.source or ""
    if redacted(source) != source and file_mode(BOARD_SETTINGS) & stat.S_IROTH:
        cure = f"Close it: sudo chgrp bloodedge {quoted(BOARD_SETTINGS)}, then sudo chmod 640 {quoted(BOARD_SETTINGS)}"
        return warning(f"Every user of this machine may read the camera's password in {BOARD_SETTINGS}.", cure)
    return ok("This user may use what the settings name, and others may not change the results.")
