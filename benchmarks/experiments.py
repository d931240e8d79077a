"""Trains what the figures of networks are made from: one table of experiments, one record each.

    python benchmarks/experiments.py EXPERIMENT --data DIR/cnmc [--weights-folder DIR] [--parallel 4]

Runs that are missing under --runs are trained; an interrupted one goes on where it was, and runs made elsewhere may be
put there. Then results/RECORD.json is written: {command, recipes, rows of ``bloodedge compare``}. Older records were
brought into this form without a change to their figures.

    zoo    the paper's eight networks and those for boards by its recipe, split by image and by group; --recipe small
           (zoo_small.json) and 112, the whole schedule at 112 pixels (zoo_112.json), are for CPUs, the whole recipe
           needs a GPU (zoo.json). A network with a weights file DIR/MODEL.h5 or DIR/MODEL.weights.h5 is fitted twice,
           from that file and from random weights
    leak   one small network by one recipe, split by image and by group
    cnmc   MobileNetV2 by the recipe honest or honest_160, five folds of groups, so that every person is held out once
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from programs import bloodedge

from bloodedge.bundle.run_record import read_run
from bloodedge.files import write_json
from bloodedge_train.compare import pages
from bloodedge_train.compare.comparison import compare
from bloodedge_train.compare.rows import Row
from bloodedge_train.recipe import Recipe, load_recipe
from bloodedge_train.zoo import ZOO

HERE = Path(__file__).parent
FOLDS = 5
SPLITS = ("image", "group")
ZOO_RECIPES = {"small": "zoo_small", "112": "paper_112"}
OWN_RECIPES = {path.stem: str(path) for path in (HERE / "recipes").glob("*.toml")}
Runs = dict[str, list[str]]
"""Options of ``bloodedge train`` by the run's name."""


def zoo(options: argparse.Namespace) -> Runs:
    recipe = OWN_RECIPES[ZOO_RECIPES[options.recipe]] if options.recipe else "paper_70_15_15"
    return {
        f"{model}-{split}-{start}": ["--model", model, "--split", split, "--weights", weights, "--recipe", recipe]
        for split in options.splits
        for model in options.models
        for start, weights in starts(options.weights_folder, model).items()
    }


def leak(_: argparse.Namespace) -> Runs:
    return {
        split: ["--model", "edgenet", "--recipe", OWN_RECIPES["leak"], "--split", split] for split in ("image", "group")
    }


def cnmc(options: argparse.Namespace) -> Runs:
    weights = starts(options.weights_folder, "mobilenetv2").get("pretrained", "imagenet")
    network = ["--model", "mobilenetv2", "--weights", weights, "--recipe", options.recipe]
    return {f"fold{fold}": [*network, "--folds", str(FOLDS), "--fold", str(fold)] for fold in range(FOLDS)}


EXPERIMENTS = {"zoo": zoo, "leak": leak, "cnmc": cnmc}


def main() -> None:
    options = parse()
    runs = EXPERIMENTS[options.experiment](options)
    record = "_".join([options.experiment, *([options.recipe] if options.recipe else [])])
    folder = options.runs / record
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(lambda name: train(folder / name, options.data, runs[name]), runs))
    comparison = compare([folder / name for name in runs])
    result = {
        "command": "python benchmarks/experiments.py " + " ".join(Path(word).name for word in sys.argv[1:]),
        "recipes": {recipe.name: recipe.model_dump() for recipe in map(load_recipe, recipes(list(runs.values())))},
        "rows": [described(row) for row in comparison.rows],
    }
    write_json(HERE / "results" / f"{record}.json", result)
    pages.write(comparison, folder / "comparison")
    print(f"results/{record}.json; tables and charts: {folder / 'comparison'}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--recipe", help="zoo: small or 112; cnmc: honest_160")
    parser.add_argument("--models", nargs="+", default=list(ZOO), choices=list(ZOO), help="zoo's networks")
    parser.add_argument("--splits", nargs="+", default=SPLITS, choices=SPLITS, help="zoo's splits")
    parser.add_argument("--weights-folder", type=Path, help="starting weights")
    parser.add_argument("--parallel", type=int, default=1, help="runs at once; a large GPU takes several")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    options = parser.parse_args()
    if options.experiment == "cnmc":
        options.recipe = options.recipe or "honest"
    return options


def starts(folder: Path | None, model: str) -> dict[str, str]:
    """What a network begins from, by name: random weights, and its weights file where there is one."""
    files = [folder / f"{model}{suffix}" for suffix in (".h5", ".weights.h5")] if folder else []
    file = next((path for path in files if path.is_file()), None)
    return {"random": "none"} | ({"pretrained": str(file)} if file else {})


def recipes(runs: Sequence[list[str]]) -> list[str]:
    """The recipes that these runs name."""
    return sorted({options[options.index("--recipe") + 1] for options in runs})


def train(run: Path, data: Path | None, options: list[str]) -> None:
    """Train ``run`` unless it is there, or go on where it was interrupted; refuses one of another recipe."""
    if not (run / "run.json").is_file():
        if data is None:
            raise SystemExit(f"{run} is missing; put it there, or give --data to train it")
        resume = ["--resume"] if (run / "checkpoint").is_dir() else []
        subprocess.run(bloodedge("train", data, *options, "--out", run, *resume), check=True)
    (name,) = recipes([options])
    fields = {"name", "about", "split"}
    then = Recipe.model_validate(read_run(run).recipe).model_dump(exclude=fields)
    if then != load_recipe(name).model_dump(exclude=fields):
        raise SystemExit(f"{run} was not trained by the recipe {name} as it is now; remove it and train it again")


def described(row: Row) -> dict[str, Any]:
    """A row of the comparison without its epochs, with what its first run was fitted by and on."""
    run = read_run(Path(row.runs[0]))
    fields = row.model_dump(exclude={"histories", "latency_ms"}) | {"runs": [Path(name).name for name in row.runs]}
    return fields | {name: getattr(run, name) for name in ("weights", "hardware", "backend", "versions")}


if __name__ == "__main__":
    main()
