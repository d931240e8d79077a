"""The leak: one small network by one recipe, its cells shared out by image and by group.

    python benchmarks/leak.py --data DIR/cnmc

trains EdgeNet twice (96 pixels; minutes each on two cores, resumable) and writes results/leak.json, and the tables and
charts of ``bloodedge compare`` into --out. The recipe is recipes/leak.toml, the paper's made small.
"""

import argparse
from pathlib import Path

from training import make, rows

from bloodedge.files import write_json
from bloodedge_train.compare import compare, pages
from bloodedge_train.recipe import load_recipe

HERE = Path(__file__).parent
RECIPE = HERE / "recipes" / "leak.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--runs", type=Path, default=Path("runs/leak"))
    parser.add_argument("--out", type=Path, default=Path("runs/leak-comparison"))
    arguments = parser.parse_args()
    runs = [arguments.runs / split for split in ("image", "group")]
    for run in runs:
        make(run, arguments.data, "--model", "edgenet", "--recipe", str(RECIPE), "--split", run.name)
    command = "python benchmarks/leak.py --data DIR/cnmc"
    result = {"command": command, "recipe": load_recipe(str(RECIPE)).model_dump(), "rows": rows(runs)}
    write_json(HERE / "results" / "leak.json", result)
    pages.write(compare(runs), arguments.out)
    print(f"results/leak.json; tables and charts: {arguments.out}")


if __name__ == "__main__":
    main()
