"""``bloodedge demo``: the whole way from cells to a report, offline, by the same commands that a user types."""

import json
import shlex
import subprocess
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from time import monotonic

import click

from bloodedge import RESEARCH_USE
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import folder_beside, sha256, write_json
from bloodedge.text import as_text

SUBJECTS, CELLS_PER_SUBJECT, FRAMES = 40, 50, 60

GATE = {"--max-drop": 3, "--max-balanced-drop": 3, "--max-auc-drop": 2, "--max-flips": 5}
"""Wider than convert's defaults: a net this small, minutes old, leaves more of its 600 held-out cells near the line."""
WIDER_GATE = (
    "The gate is set wider here than usual, because a network this small, fitted for minutes, leaves many of its cells"
    f" near the decision line: int8 may lose {GATE['--max-drop']} points of weighted F1, {GATE['--max-balanced-drop']}"
    f" of balanced accuracy and {GATE['--max-auc-drop']} of AUC, and change the class of {GATE['--max-flips']} % of the"
    " cells. Convert a network for real work without these options."
)

MADE = ("cells", "run", "demo.bundle", "keys", "state", "audit.json", "report.html")
"""All that a demo leaves in its folder, beside the marker."""

MARKER = ".bloodedge-demo.json"
"""What a demo made: SHA-256 by path. A file that differs is the user's."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("bloodedge-demo"),
    show_default=True,
    help="Folder for everything the demo makes; an unchanged earlier demo there is replaced.",
)
@click.option("--force", is_flag=True, help=f"Replace {', '.join(MADE)} in the folder even if they were changed.")
def demo(out: Path, force: bool) -> None:
    """Draw cells, train, convert to int8, run the device on simulated frames, and write a report. Offline; minutes.

    The cells are drawn by the simulated microscope: the figures say that the parts work together, and nothing about
    real blood.
    """
    run_demo(out, force=force)


def run_demo(out: Path, *, force: bool = False) -> None:
    """Make everything in the folder ``out``, which appears whole at the end or not at all.

    Raises UsageError when ``out`` holds anything but an unchanged earlier demo; force: only the files' names must be
    the demo's.
    """
    began = monotonic()
    _check_replaceable(out, force)
    click.echo(RESEARCH_USE)
    click.echo(f"Everything goes to {out}/. The cells are drawn: the figures are about no real blood.\n")
    with folder_beside(out) as work:
        _make(work, out)
        write_json(work / MARKER, {"made": _digests(work)})
        _check_replaceable(out, force)  # minutes have passed
    click.echo("\nTo see the simulated microscope on the device's page, with cells of every kind:")
    click.echo("bloodedge device run --camera mixed --open")
    click.echo(f"\nDone in {(monotonic() - began) / 60:.1f} minutes. The report of the device run:")
    click.echo(out / "report.html")


def _make(work: Path, out: Path) -> None:
    """Run every step inside the folder ``work``, which will be ``out``; paths are given as they are from there."""
    cells, run, bundle, state, keys = Path("cells"), Path("run"), Path("demo.bundle"), Path("state"), Path("keys")
    step = partial(_step, work)
    _draw(work / cells)
    click.secho(f"\n$ cd {shlex.quote(str(out))}", bold=True)
    step("data", "audit", cells, "--json", "audit.json")
    step("train", cells, "--model", "edgenet", "--recipe", "demo", "--out", run)
    click.echo(f"\n{WIDER_GATE}")
    step("convert", run, "--int8", "--engine", "litert", "--engine", "openvino", *chain(*GATE.items()), "-o", bundle)
    step("keys", "new", "demo", "--out", keys)
    step("sign", bundle, "--key", keys / "demo.key")
    step("keys", "trust", keys / "demo.pub", "--trust", state / "trust")
    step("device", "run", "--bundle", bundle, "--frames", FRAMES, "--state", state, "--no-page")
    step("device", "report", "--state", state, "--html", "report.html")
    _move_data(work / run, (out / cells).absolute())


def _move_data(run: Path, cells: Path) -> None:
    """Store the final place of the cells in a run's record."""
    from bloodedge.bundle.json_records import write_record
    from bloodedge.bundle.run_record import read_run

    record = read_run(run)
    data = record.data.model_copy(update={"root": as_text(cells)})
    write_record(run / "run.json", record.model_copy(update={"data": data}))


def _check_replaceable(out: Path, force: bool) -> None:
    """UsageError unless ``out`` is absent, empty or an unchanged earlier demo.

    force: only the names of what lies in the folder count.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; choose a folder for the demo with --out.")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if unknown := sorted(names - {*MADE, MARKER}):
        raise UsageError(f"{out} holds {unknown[0]}, which no demo made; choose another folder with --out.")
    if names and not force and (changed := _changed_file(out)):
        raise UsageError(
            f"{out} holds {changed}, which no demo made or which was changed since; choose another folder with --out,"
            " or replace it with --force."
        )


def _changed_file(out: Path) -> str | None:
    """A file in the folder that differs from the demo's marker; None if all match."""
    try:
        made = json.loads((out / MARKER).read_bytes())["made"]
    except (OSError, ValueError, KeyError, TypeError):
        made = {}
    found = _digests(out)
    return next((name for name, digest in found.items() if made.get(name) != digest), None)


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder but the marker, by path; a link's is empty."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {
        path.relative_to(folder).as_posix(): "" if path.is_symlink() or not path.is_file() else sha256(path)
        for path in files
        if path != folder / MARKER and not _is_sqlite_leftover(path)
    }


def _is_sqlite_leftover(path: Path) -> bool:
    """Whether a file is one that SQLite leaves, without results, beside a database that was only read."""
    return path.name.endswith(".sqlite-shm") or (path.name.endswith(".sqlite-wal") and path.stat().st_size == 0)


def _draw(cells: Path) -> None:
    from bloodedge.console import progress
    from bloodedge.simulation import write_dataset

    click.secho(f"Drawing {SUBJECTS * CELLS_PER_SUBJECT} cells of {SUBJECTS} synthetic subjects", bold=True)
    with progress("Drawing cells") as update:
        write_dataset(cells, subjects=SUBJECTS, cells_per_subject=CELLS_PER_SUBJECT, progress=update)


def _step(folder: Path, *arguments: object) -> None:
    """Run one bloodedge command in a folder as the user would, showing it first."""
    words = [str(argument) for argument in arguments]
    click.secho(f"\n$ bloodedge {shlex.join(words)}", bold=True)
    code = subprocess.run([sys.executable, "-m", "bloodedge", *words], cwd=folder, check=False).returncode
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise BloodedgeError(f"The demo stopped because the command above failed (exit code {code}).")
