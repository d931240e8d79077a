"""MobileNetV2 on C-NMC cells by groups of subjects: one split and five folds, each subject shown.

    python benchmarks/cnmc.py --data DIR/cnmc --weights mobilenet_v2_1.0_224_notop.weights.h5

trains what is missing under --runs (minutes each on a GPU, most of an hour on two cores; resumable) and writes
results/cnmc_mobilenetv2.json. Runs made elsewhere by the same recipe may be put there instead.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from bloodedge.console import console
from bloodedge.files import write_json
from bloodedge.manifest import Evaluation, read_metrics, read_run
from bloodedge_train.recipe import Recipe, load_recipe

RESULTS = Path(__file__).parent / "results" / "cnmc_mobilenetv2.json"
FOLDS = 5
RUNS = {"split": [], **{f"fold{n}": ["--folds", str(FOLDS), "--fold", str(n)] for n in range(FOLDS)}}
FIGURES = ("weighted_f1", "auc", "balanced_accuracy", "sensitivity", "specificity", "ece")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--weights", type=Path, help="starting weights, likewise")
    parser.add_argument("--runs", type=Path, default=Path("runs/cnmc-mobilenetv2"))
    arguments = parser.parse_args()
    for name, options in RUNS.items():
        if not (arguments.runs / name / "run.json").is_file():
            if arguments.data is None or arguments.weights is None:
                parser.error(f"{arguments.runs / name} is missing; give --data and --weights to train it")
            fit(arguments.data, arguments.weights, arguments.runs / name, options)
    result = collect(arguments.runs)
    write_json(RESULTS, result)
    show(result)


def fit(data: Path, weights: Path, out: Path, options: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "bloodedge",
        "train",
        str(data),
        "--model",
        "mobilenetv2",
        "--weights",
        str(weights),
    ]
    resume = ["--resume"] if (out / "checkpoint").is_dir() else []
    subprocess.run([*command, "--out", str(out), *options, *resume], check=True)


def collect(runs: Path) -> dict[str, Any]:
    """Every run's held-out figures, and the folds taken together."""
    recipe = load_recipe("default")
    rows = {}
    for name in RUNS:
        record, metrics = read_run(runs / name), read_metrics(runs / name)
        if not same(Recipe.model_validate(record.recipe), recipe):
            raise SystemExit(f"{runs / name} was not trained by the default recipe; remove it and train it again")
        rows[name] = {
            "hardware": record.hardware,
            "backend": record.backend,
            "versions": record.versions,
            "split": record.split.model_dump(),
            "temperature": record.temperature,
            "images_per_s": [round(row["images_per_s"]) for row in record.history],
            "latency_ms": metrics.latency_ms.model_dump(),
            "parts": {part: evaluation.model_dump() for part, evaluation in metrics.parts.items()},
        }
    return {
        "command": "python benchmarks/cnmc.py --data DIR/cnmc --weights mobilenet_v2_1.0_224_notop.weights.h5",
        "recipe": recipe.model_dump(),
        "folds": together([Evaluation.model_validate(rows[f"fold{n}"]["parts"]["test"]) for n in range(FOLDS)]),
        "runs": rows,
    }


def same(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes differ in nothing but their name and their sentence."""
    named = {"name": "", "about": ""}
    return one.model_copy(update=named) == other.model_copy(update=named)


def together(folds: list[Evaluation]) -> dict[str, Any]:
    """Means over the folds' test parts; every subject outside the shift set stands in exactly one of them."""
    people = {name: row for fold in folds for name, row in fold.per_subject.items()}
    worst = min(people, key=lambda name: people[name].accuracy)
    return {
        "mean": {figure: mean(getattr(fold, figure) for fold in folds) for figure in FIGURES},
        "each": {figure: [getattr(fold, figure) for fold in folds] for figure in FIGURES},
        "mean_subject_accuracy": mean(row.accuracy for row in people.values()),
        "worst_subject": {worst: people[worst].model_dump()},
        "per_subject": {name: row.model_dump() for name, row in people.items()},
    }


def show(result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("part", "cells", "subjects", *(figure.replace("_", " ") for figure in FIGURES))
    for run, row in result["runs"].items():
        for part in ("test", "shift") if run == "split" else ("test",):
            figures = row["parts"][part]
            shown = [f"{figures[f]:.3f}" if figures[f] is not None else "-" for f in FIGURES]
            table.add_row(f"{run} {part}", str(figures["cells"]), str(figures["subjects"]), *shown)
    means = result["folds"]["mean"]
    table.add_row("mean of folds", "", "", *(f"{means[f]:.3f}" for f in FIGURES))
    console().print(table)
    print(f"mean subject accuracy over the folds: {result['folds']['mean_subject_accuracy']:.3f}")


if __name__ == "__main__":
    main()
