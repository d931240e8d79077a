"""Which bundle runs, and the bundles that came with the installation."""

from contextlib import suppress
from pathlib import Path

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.bundles.slot_record import read_record, slot_file
from bloodedge_device.settings import DeviceSettings

DEFAULT_BUNDLE, SIMULATED_BUNDLE = "cells.bundle", "simulated.bundle"
"""Fitted to people's cells, for every real source of frames; and to drawn cells, for the simulated microscope."""
MODEL_FOLDERS = (Path(__file__).parents[1] / "models", Path(__file__).parents[3] / "models")
"""Where the released bundles are: in an installed package, and in a checkout."""


def bundle_path(settings: DeviceSettings) -> Path:
    """The bundle to run: the one given, else that of the active slot, else the one that came with the installation.

    Raises UsageError when there is none, and BloodedgeError when the slots' record is damaged.
    """
    if settings.bundle is not None:
        return settings.bundle
    if (active := read_record(settings.state).active) is not None:
        return slot_file(settings.state, active)
    return released_bundle(settings)


def released_bundle(settings: DeviceSettings) -> Path:
    """The bundle that came with the installation for such a camera; UsageError when there is none."""
    name = SIMULATED_BUNDLE if settings.camera.kind == "simulated" else DEFAULT_BUNDLE
    for path in _released():
        if path.name == name:
            return path
    raise UsageError(
        "No bundle was given and none came with this installation; make one with bloodedge convert and give it with"
        " --bundle."
    )


def is_released(bundle: Path) -> bool:
    """Whether a bundle is one that came with the installation."""
    return bundle.resolve().parent in {folder.resolve() for folder in MODEL_FOLDERS}


def came_with_installation(bundle: Bundle) -> bool:
    """Whether an open bundle is one of those that came with the installation, or a copy; its files may differ."""
    for path in _released():
        with suppress(BloodedgeError), Bundle(path) as ours:
            if ours.manifest_bytes == bundle.manifest_bytes:
                return True
    return False


def _released() -> list[Path]:
    files = [folder / name for folder in MODEL_FOLDERS for name in (DEFAULT_BUNDLE, SIMULATED_BUNDLE)]
    return [path for path in files if path.exists()]
