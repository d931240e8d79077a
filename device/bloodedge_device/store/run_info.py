"""What the store keeps of a run."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """One row of ``runs``."""

    started: datetime
    ready_ms: float
    """From the start of the process to ready."""
    bundle_name: str
    bundle_serial: int
    engine: str
    engine_reason: str
    runtime: str
    precision: str
    threads: int
    hardware: str
    camera: str
    golden: dict[str, Any]
    manifest: str
    """JSON."""
    clock_synchronised: bool | None = None
    """None when the system does not report it."""
