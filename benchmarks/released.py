"""The released bundle as its own manifest says: people never seen, what int8 changes, the operating point, slides.

    python benchmarks/released.py

writes results/released.json. The bundle is fitted to everybody, so its figures are those of the heads that judged each
fold of people, float and int8 alike; nothing here is measured on cells that it was fitted to.
"""

import argparse
from pathlib import Path

from revision import revision

from bloodedge.bundle import Bundle
from bloodedge.files import sha256, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "released.json"
BUNDLE = ROOT / "models" / "cells.bundle"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with Bundle(BUNDLE) as bundle:
        manifest = bundle.manifest
    engines = {
        artifact.engine: {
            "figures": artifact.evaluation.model_dump(exclude={"latency_ms"}),
            "agreement": artifact.agreement.model_dump(),
        }
        for artifact in manifest.artifacts
        if artifact.precision == "int8"
    }
    record = {
        "commit": revision(),
        "command": "python benchmarks/released.py",
        "bundle": sha256(BUNDLE),
        "model": manifest.provenance.model,
        "parameters": manifest.provenance.parameters,
        "engines": engines,
    }
    write_json(RESULTS, record)
    for engine, row in engines.items():
        figures, agreement = row["figures"], row["agreement"]
        print(engine, {n: round(figures[n], 4) for n in ("auc", "weighted_f1", "specificity", "sensitivity")})
        print("   flips", agreement["flip_rate"], agreement["drop"])


if __name__ == "__main__":
    main()
