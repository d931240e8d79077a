"""Does unmixing the dyes help? One small network fed colours, densities, and dyes by a fixed and by a learned basis.

    python benchmarks/stain.py --data DIR/cnmc [--folds 3]

trains EdgeNet (96 pixels, recipes/stain_*.toml; minutes each on two cores, resumable) on the first so many of five
folds of groups, all four on the same people, and writes results/stain.json.
"""

import argparse
from pathlib import Path

from training import make, rows

from bloodedge.files import write_json
from bloodedge_train.recipe import load_recipe

HERE = Path(__file__).parent
ARMS = ("rgb", "density", "romanowsky", "learned")
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--folds", type=int, default=FOLDS, help="how many of the five")
    parser.add_argument("--runs", type=Path, default=Path("runs/stain"))
    arguments = parser.parse_args()
    recipes = {arm: str(HERE / "recipes" / f"stain_{arm}.toml") for arm in ARMS}
    runs: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for fold in range(arguments.folds):
        for arm, recipe in recipes.items():
            run = arguments.runs / f"{arm}{fold}"
            options = ["--model", "edgenet", "--recipe", recipe, "--folds", str(FOLDS), "--fold", str(fold)]
            make(run, arguments.data, *options)
            runs[arm].append(run)
    result = {
        "command": f"python benchmarks/stain.py --data DIR/cnmc --folds {arguments.folds}",
        "arms": {arm: {"recipe": load_recipe(recipes[arm]).model_dump(), "row": rows(runs[arm])[0]} for arm in ARMS},
    }
    write_json(HERE / "results" / "stain.json", result)
    for arm in ARMS:
        figures = result["arms"][arm]["row"]["figures"]  # type: ignore[index]
        print(arm, {name: figures[name]["value"] for name in ("weighted_f1", "auc", "mean_subject_accuracy")})


if __name__ == "__main__":
    main()
