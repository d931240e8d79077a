"""The paper's table: its eight networks (and MobileNetV2) by its recipe, shared out by image and by group.

    python benchmarks/zoo.py --data DIR/cnmc [--models resnetrs50 alexnet] [--parallel 4] [--weights-folder DIR]

trains what is missing under --runs (minutes each on a GPU; resumable, so it may be interrupted and repeated) and writes
results/zoo.json, and the tables and charts of ``bloodedge compare`` into --out. Starting weights are looked for as
DIR/MODEL.h5 or DIR/MODEL.weights.h5; without them a network begins at random.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training import make, rows

from bloodedge.files import write_json
from bloodedge_train.compare import compare, pages
from bloodedge_train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "zoo.json"
MODELS = (
    "resnetrs50",
    "regnetx016",
    "alexnet",
    "convnext_tiny",
    "efficientnetb0",
    "inceptionv3",
    "xception",
    "vgg19",
    "mobilenetv2",
)
RECIPE = "paper_70_15_15"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--splits", nargs="+", default=["image", "group"], choices=["image", "group"])
    parser.add_argument("--parallel", type=int, default=1, help="runs at once; a large GPU takes several")
    parser.add_argument("--weights-folder", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--out", type=Path, default=Path("runs/zoo-comparison"))
    arguments = parser.parse_args()
    wanted = [(model, split) for split in arguments.splits for model in arguments.models]
    runs = [arguments.runs / f"{model}-{split}" for model, split in wanted]

    def one(number: int) -> None:
        model, split = wanted[number]
        weights = find_weights(arguments.weights_folder, model)
        options = ["--model", model, "--recipe", RECIPE, "--split", split, "--weights", weights]
        make(runs[number], arguments.data, *options)

    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(one, range(len(wanted))))
    command = "python benchmarks/zoo.py --data DIR/cnmc"
    write_json(RESULTS, {"command": command, "recipe": load_recipe(RECIPE).model_dump(), "rows": rows(runs)})
    pages.write(compare(runs), arguments.out)
    print(f"{RESULTS}; tables and charts: {arguments.out}")


def find_weights(folder: Path | None, model: str) -> str:
    names = [folder / f"{model}{suffix}" for suffix in (".h5", ".weights.h5")] if folder else []
    return next((str(path) for path in names if path.is_file()), "none")


if __name__ == "__main__":
    main()
