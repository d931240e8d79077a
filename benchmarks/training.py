"""What the training benchmarks share: runs that are made where they are missing, and read into comparable rows."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bloodedge.bundle.run_record import read_run
from bloodedge_train.compare import compare
from bloodedge_train.recipe import Recipe, load_recipe


def make(out: Path, data: Path | None, *options: str) -> None:
    """Train ``out`` by ``bloodedge train DATA *options`` unless it is there; go on where it was interrupted."""
    if (out / "run.json").is_file():
        return
    if data is None:
        raise SystemExit(f"{out} is missing; give --data (and --weights) to train it")
    resume = ["--resume"] if (out / "checkpoint").is_dir() else []
    command = [sys.executable, "-m", "bloodedge", "train", str(data), *options, "--out", str(out), *resume]
    subprocess.run(command, check=True)


def check_recipe(run: Path, name: str) -> None:
    """Stop unless ``run`` was fitted by the packaged recipe as it is now; names, sentences and splits may differ."""
    own: dict[str, Any] = {"name": "", "about": "", "split": Recipe().split}
    theirs = Recipe.model_validate(read_run(run).recipe).model_copy(update=own)
    if theirs != load_recipe(name).model_copy(update=own):
        raise SystemExit(f"{run} was not trained by the recipe {name} as it is now; remove it and train it again")


def rows(runs: Sequence[Path], part: str = "test") -> list[dict[str, Any]]:
    """The rows of ``bloodedge compare`` for these runs, without the epochs; with what each was fitted by."""
    comparison = compare(list(runs), part=part)  # type: ignore[arg-type]
    records = {run.name: read_run(run) for run in runs}
    found = []
    for row in comparison.rows:
        told = row.model_dump(exclude={"histories", "latency_ms"})
        told["runs"] = [Path(name).name for name in row.runs]
        record = records[Path(row.runs[0]).name]
        found.append(told | {name: getattr(record, name) for name in ("weights", "hardware", "backend", "versions")})
    return found
