"""What a teacher is worth: a network for boards fitted with and without one, on the same people, beside the teacher.

    python benchmarks/distil.py --data DIR/cnmc --teacher runs/cells [--student edgenet] [--weights FILE]

The teacher is a finished run on the split with seed 0 (README's runs/cells). Students see 96 pixels
(recipes/small.toml; minutes on two cores, resumable). Adds its rows to results/distil.json.
"""

import argparse
import json
from pathlib import Path

from training import make, rows

from bloodedge.files import write_json
from bloodedge_train.recipe import load_recipe

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "distil.json"
RECIPE = HERE / "recipes" / "small.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of C-NMC cells; needed only for runs that are missing")
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--student", default="edgenet")
    parser.add_argument("--weights", default="none", help="the student's starting weights")
    parser.add_argument("--runs", type=Path, default=Path("runs/distil"))
    arguments = parser.parse_args()
    student = ["--model", arguments.student, "--weights", arguments.weights, "--recipe", str(RECIPE)]
    alone, taught = (arguments.runs / f"{arguments.student}-{how}" for how in ("alone", "taught"))
    make(alone, arguments.data, *student)
    make(taught, arguments.data, *student, "--teacher", str(arguments.teacher))
    found = dict(zip(("teacher", "alone", "taught"), rows([arguments.teacher, alone, taught]), strict=True))
    command = f"python benchmarks/distil.py --data DIR/cnmc --teacher runs/cells --student {arguments.student}"
    if arguments.weights != "none":
        command += f" --weights {Path(arguments.weights).name}"
    before = json.loads(RESULTS.read_text())["students"] if RESULTS.is_file() else {}
    students = before | {arguments.student: {"command": command, **found}}
    write_json(RESULTS, {"recipe": load_recipe(str(RECIPE)).model_dump(), "students": students})
    for name, row in found.items():
        print(name, {figure: row["figures"][figure]["value"] for figure in ("weighted_f1", "auc")})


if __name__ == "__main__":
    main()
