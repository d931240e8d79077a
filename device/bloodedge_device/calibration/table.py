"""A calibration as a table in a terminal."""

from rich.markup import escape

from bloodedge.console import console
from bloodedge.tables import print_table
from bloodedge_device.calibration.measure import Calibration
from bloodedge_device.settings.camera_profile import CameraProfile, Range

SOURCES = {"sweep": "focus sweep", "frames": "frames in focus", "default": "not measured"}


def show(calibration: Calibration) -> None:
    """Print the figures, then the warnings."""
    profile, out = calibration.profile, console()
    columns = ("", "value", "measured")
    print_table(columns, _rows(profile), title=profile.camera, left=columns)
    for warning in calibration.warnings:
        out.print(f"[bold yellow]Mind:[/] {escape(warning)}")


def _rows(profile: CameraProfile) -> list[tuple[str, str, str]]:
    scale, gate, focus = profile.scale, profile.gate, profile.focus
    measured = "given" if scale.source == "given" else f"{scale.source}, {scale.frames} frames"
    rows = [("micrometres per pixel", f"{scale.um_per_px:.4f}", measured)]
    parts = {"95 % interval": scale.interval, "  between frames": scale.statistical, "  red cells": scale.systematic}
    rows += [(name, _range(part), "") for name, part in parts.items() if part]
    best = f", best {focus.best:.3f}" if focus.best is not None else ""
    rows.append(("least focus", f"{gate.focus:.3f}", f"{SOURCES[focus.source]}{best}"))
    if profile.motion:
        rows.append(("least focus times isotropy", f"{gate.motion:.3f}", f"median {profile.motion.median:.3f}"))
    if profile.brightness:
        light = profile.brightness
        rows.append(
            ("brightness", f"{gate.darkest:.0f} to {gate.brightest:.0f}", f"{light.least:.0f} to {light.greatest:.0f}")
        )
    return rows


def _range(ends: Range) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}"
