"""The daemon's settings: one TOML file, every mistake in it reported at once."""

from bloodedge_device.settings.files import missing_files, readable
from bloodedge_device.settings.model import DeviceSettings, home_state
from bloodedge_device.settings.read import default_state, default_trust, read_settings, with_options

__all__ = [
    "DeviceSettings",
    "default_state",
    "default_trust",
    "home_state",
    "missing_files",
    "read_settings",
    "readable",
    "with_options",
]
