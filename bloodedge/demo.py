"""``bloodedge demo``: the whole way from cells to a report, offline, by the same commands that a user types."""

import shlex
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from time import monotonic

import click

from bloodedge import RESEARCH_USE
from bloodedge.errors import BloodedgeError, UsageError

SUBJECTS, CELLS_PER_SUBJECT, FRAMES = 24, 50, 60


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("bloodedge-demo"),
    show_default=True,
    help="Folder for everything the demo makes; replaced if an earlier demo made it.",
)
def demo(out: Path) -> None:
    """Draw cells, train, convert to int8, run the device on simulated frames, and write a report. Offline; minutes.

    The cells are drawn by the simulated microscope: the figures say that the parts work together, and nothing about
    real blood.
    """
    run_demo(out)


def run_demo(out: Path) -> None:
    """Make everything in the folder ``out``; raises UsageError when it holds anything but an earlier demo."""
    began = monotonic()
    cells, run, bundle, state = out / "cells", out / "run", out / "demo.bundle", out / "state"
    _clear(out)
    click.echo(RESEARCH_USE)
    click.echo(f"Everything goes to {out}/. The cells are drawn: the figures are about no real blood.\n")
    _draw(cells)
    _step("data", "audit", cells, "--json", out / "audit.json")
    _step("train", cells, "--model", "edgenet", "--recipe", "demo", "--out", run)
    click.echo(f"\n{WIDER_GATE}")
    _step("convert", run, "--int8", "--engine", "litert", "--engine", "openvino", *chain(*GATE.items()), "-o", bundle)
    _step("keys", "new", "demo", "--out", out / "keys")
    _step("sign", bundle, "--key", out / "keys" / "demo.key")
    _step("keys", "trust", out / "keys" / "demo.pub", "--trust", state / "trust")
    _step("device", "run", "--bundle", bundle, "--frames", FRAMES, "--state", state, "--no-page")
    _step("device", "report", "--state", state, "--html", out / "report.html")
    click.echo(f"\nDone in {(monotonic() - began) / 60:.1f} minutes. The report of the device run:")
    click.echo(out / "report.html")


GATE = {"--max-drop": 3, "--max-balanced-drop": 3, "--max-auc-drop": 2, "--max-flips": 5}
"""Wider than convert's defaults: a net this small, minutes old, leaves more of its 300 held-out cells near the line."""
WIDER_GATE = (
    "The gate is set wider here than usual, because a network this small, fitted for minutes, leaves many of its cells"
    f" near the decision line: int8 may lose {GATE['--max-drop']} points of weighted F1, {GATE['--max-balanced-drop']}"
    f" of balanced accuracy and {GATE['--max-auc-drop']} of AUC, and change the class of {GATE['--max-flips']} % of the"
    " cells. Convert a network for real work without these options."
)


MADE = ("cells", "run", "demo.bundle", "keys", "state", "audit.json", "report.html")
"""All that a demo leaves in its folder."""


def _clear(out: Path) -> None:
    """Remove an earlier demo's files; raises UsageError when anything else is in the folder, which is the user's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose a folder for the demo with --out.")
    there = sorted(out.iterdir()) if out.is_dir() else []
    foreign = next((path.name for path in there if path.name not in MADE and ".partial" not in path.name), None)
    if foreign:
        raise UsageError(f"{out} holds {foreign}, which no demo made; choose another folder with --out.")
    for path in there:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _draw(cells: Path) -> None:
    from bloodedge.console import progress
    from bloodedge.simulation import write_dataset

    click.secho(f"Drawing {SUBJECTS * CELLS_PER_SUBJECT} cells of {SUBJECTS} synthetic subjects", bold=True)
    with progress("Drawing cells") as update:
        write_dataset(cells, subjects=SUBJECTS, cells_per_subject=CELLS_PER_SUBJECT, progress=update)


def _step(*arguments: object) -> None:
    """Run one bloodedge command as the user would, showing it first."""
    words = [str(argument) for argument in arguments]
    click.secho(f"\n$ bloodedge {shlex.join(words)}", bold=True)
    code = subprocess.run([sys.executable, "-m", "bloodedge", *words], check=False).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise BloodedgeError(f"The demo stopped because the command above failed (exit code {code}).")
