"""MobileNetV2 on C-NMC cells by groups of subjects: five folds, so that every person is held out once.

    python benchmarks/cnmc.py --data DIR/cnmc --weights mobilenet_v2_1.0_224_notop.weights.h5 [--recipe honest]

trains what is missing under --runs (minutes each on a GPU, an hour or more on two cores; resumable) and writes
results/cnmc_RECIPE.json: each fold, their mean, all cells pooled, every subject. Runs made elsewhere by the same recipe
may be put there instead.
"""

import argparse
from pathlib import Path

from training import check_recipe, make, rows

from bloodedge.files import write_json
from bloodedge_train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
FOLDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--weights", default="none", help="starting weights, likewise")
    parser.add_argument("--recipe", default="honest")
    parser.add_argument("--runs", type=Path, default=Path("runs/cnmc"))
    arguments = parser.parse_args()
    runs = []
    for fold in range(FOLDS):
        run = arguments.runs / arguments.recipe / f"fold{fold}"
        options = ["--model", "mobilenetv2", "--weights", arguments.weights, "--recipe", arguments.recipe]
        make(run, arguments.data, *options, "--folds", str(FOLDS), "--fold", str(fold))
        check_recipe(run, arguments.recipe)
        runs.append(run)
    command = "python benchmarks/cnmc.py --data DIR/cnmc --weights mobilenet_v2_1.0_224_notop.weights.h5"
    result = {
        "command": f"{command} --recipe {arguments.recipe}",
        "recipe": load_recipe(arguments.recipe).model_dump(),
        "folds": rows(runs)[0],
    }
    target = RESULTS / f"cnmc_{arguments.recipe}.json"
    write_json(target, result)
    print(f"{target}: {result['folds']['pooled']['weighted_f1']}")


if __name__ == "__main__":
    main()
