"""The released bundle on people it never saw: figures of both int8 models, and what is lost when cells are resized.

    python benchmarks/released.py --data DIR/cnmc

writes results/released.json. The cells are the run's test part; each is also made 0.8 and 1.25 times as large before it
is classified, which must matter little: size is no proof of disease.
"""

import argparse
from pathlib import Path
from typing import Any

from bloodedge.evaluation.classifier import open_bundle
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.evaluate import evaluate
from bloodedge.files import sha256, write_json
from bloodedge.machine import default_threads

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "released.json"
BUNDLE = ROOT / "models" / "cells.bundle"
SCALES = (1.0, 0.8, 1.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    engines: dict[str, Any] = {}
    for engine in ("litert", "openvino"):
        classifier = open_bundle(BUNDLE, engine, "int8", default_threads())
        scored = {f"{scale:g}": evaluate(Ensemble.of([classifier]), data, rescale=scale)[0] for scale in SCALES}
        whole = scored["1"].accuracy
        engines[engine] = {
            "figures": scored["1"].model_dump(exclude={"latency_ms"}),
            "rescaled": {
                scale: {"accuracy": e.accuracy, "auc": e.auc, "falls_by_points": 100 * (whole - e.accuracy)}
                for scale, e in scored.items()
            },
        }
        for scale, row in engines[engine]["rescaled"].items():
            print(engine, scale, {name: round(value, 4) for name, value in row.items()})
    command = "python benchmarks/released.py --data DIR/cnmc"
    write_json(RESULTS, {"command": command, "bundle": sha256(BUNDLE), "engines": engines})


if __name__ == "__main__":
    main()
