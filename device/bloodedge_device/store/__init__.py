"""Results on disk: one SQLite database and a folder of images, with one writer and any number of readers."""

from bloodedge_device.store.database import (
    DATABASE,
    DamagedDatabaseError,
    DiskFullError,
    LockedError,
    ReadOnlyDiskError,
    StarvedError,
    database_errors,
    open_for_reading,
)
from bloodedge_device.store.lock import StateInUseError
from bloodedge_device.store.schema import SCHEMA_VERSION
from bloodedge_device.store.writer import RunInfo, Store

__all__ = [
    "DATABASE",
    "SCHEMA_VERSION",
    "DamagedDatabaseError",
    "DiskFullError",
    "LockedError",
    "ReadOnlyDiskError",
    "RunInfo",
    "StarvedError",
    "StateInUseError",
    "Store",
    "database_errors",
    "open_for_reading",
]
