"""Snapshots of a daemon at rest, for what renders them."""

from datetime import UTC, datetime
from typing import Any

from bloodedge_device.settings import DeviceSettings
from bloodedge_device.slide.tally import Totals
from bloodedge_device.snapshot.snapshot import Snapshot
from support import fakes

STARTED = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)


def make_totals(frames: dict[str, int], cells: dict[str, int], uncertain: dict[str, int], dropped: int = 0) -> Totals:
    """Counts since the start."""
    totals = Totals()
    totals.frames.update(frames)
    totals.cells.update(cells)
    totals.uncertain.update(uncertain)
    totals.dropped = dropped
    return totals


def make_snapshot(**changes: Any) -> Snapshot:
    """Ready, between slides, before the first frame; with other values where ``changes`` says so."""
    values: dict[str, Any] = {
        "settings": DeviceSettings(),
        "loaded": fakes.make_loaded(),
        "started": STARTED,
        "ready_s": 1.5,
        "alive": True,
        "ready": True,
        "camera": "replay of 3 images in frames",
        "camera_restarts": 0,
        "picture": None,
        "picture_age_s": 0.0,
        "frames_per_second": 6.5,
        "last_frame_age_s": None,
        "slide": None,
        "last_slide": 0,
        "conditions": {},
        "totals": Totals(),
        "finished_times": {},
        "crops_lost": 0,
        "messages_waiting": 0,
        "messages_lost": 0,
        "broker_connected": None,
        "disk_free_bytes": 5_000_000_000,
        "temperature_c": None,
        "clock_synchronised": None,
    }
    return Snapshot(**values | changes)
