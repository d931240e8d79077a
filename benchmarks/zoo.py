"""The paper's table: its eight networks (and those for boards) by its recipe, shared out by image and by group.

    python benchmarks/zoo.py --data DIR/cnmc [--models resnetrs50 alexnet] [--parallel 4] [--weights-folder DIR]
    python benchmarks/zoo.py --data DIR/cnmc --recipe small

trains what is missing under --runs (resumable, so it may be interrupted and repeated) and writes results/zoo.json
(zoo_small.json), and the tables and charts of ``bloodedge compare`` into --out. The paper's recipe wants a GPU; "small"
(recipes/zoo_small.toml) is for two cores. A network whose weights file is found as DIR/MODEL.h5 or
DIR/MODEL.weights.h5 is fitted twice, from that file and from random weights; the others from random weights alone.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from training import make, rows

from bloodedge.files import write_json
from bloodedge_train.compare import compare, pages
from bloodedge_train.recipe import load_recipe

HERE = Path(__file__).parent
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
    "efficientnet_lite0",
    "edgenet",
)
RECIPES = {"paper": ("paper_70_15_15", "zoo"), "small": (str(HERE / "recipes" / "zoo_small.toml"), "zoo_small")}
"""Each recipe and what its results are called."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--splits", nargs="+", default=["image", "group"], choices=["image", "group"])
    parser.add_argument("--recipe", default="paper", choices=RECIPES)
    parser.add_argument("--parallel", type=int, default=1, help="runs at once; a large GPU takes several")
    parser.add_argument("--weights-folder", type=Path)
    parser.add_argument("--runs", type=Path, help="default: runs/zoo, runs/zoo_small")
    parser.add_argument("--out", type=Path, help="default: runs/zoo-comparison, runs/zoo_small-comparison")
    arguments = parser.parse_args()
    recipe, name = RECIPES[arguments.recipe]
    folder, out = arguments.runs or Path("runs") / name, arguments.out or Path("runs") / f"{name}-comparison"
    wanted = {
        folder / f"{model}-{split}-{start}": ["--model", model, "--split", split, "--weights", weights]
        for split in arguments.splits
        for model in arguments.models
        for start, weights in starts(arguments.weights_folder, model).items()
    }
    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(lambda run: make(run, arguments.data, "--recipe", recipe, *wanted[run]), wanted))
    result = {
        "command": f"python benchmarks/zoo.py --data DIR/cnmc --recipe {arguments.recipe} --weights-folder DIR "
        f"--splits {' '.join(arguments.splits)} --models {' '.join(arguments.models)}",
        "recipe": load_recipe(recipe).model_dump(),
        "rows": rows(list(wanted)),
    }
    write_json(HERE / "results" / f"{name}.json", result)
    pages.write(compare(list(wanted)), out)
    print(f"results/{name}.json; tables and charts: {out}")


def starts(folder: Path | None, model: str) -> dict[str, str]:
    """What the network begins from, by name: random weights, and a file where there is one."""
    files = [folder / f"{model}{suffix}" for suffix in (".h5", ".weights.h5")] if folder else []
    file = next((path for path in files if path.is_file()), None)
    return {"random": "none"} | ({"pretrained": str(file)} if file else {})


if __name__ == "__main__":
    main()
