"""What int8 costs and gives: drop, flips, size and latency of every artifact of a bundle.

    python benchmarks/int8.py NAME.bundle [--rounds 200] [--threads N] [--out FILE]

Drop and flips are those that the gate measured on held-out cells at conversion. Latency is timed here and now, the
artifacts of one engine in turns; LiteRT's own benchmark tool is run beside it as a check from outside.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from bloodedge.bench import interleaved, percentiles
from bloodedge.bundle import Bundle
from bloodedge.engine import load_artifact
from bloodedge.evaluate import default_threads
from bloodedge.files import write_json
from bloodedge.host import hardware_name
from bloodedge.simulation import golden_inputs

RESULTS = Path(__file__).parent / "results" / "int8.json"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("bundle", type=Path)
    arguments.add_argument("--rounds", type=int, default=200)
    arguments.add_argument("--threads", type=int, default=default_threads())
    arguments.add_argument("--out", type=Path, default=RESULTS)
    options = arguments.parse_args()
    with Bundle(options.bundle) as bundle:
        result = {
            "command": f"python benchmarks/int8.py {options.bundle.name} --rounds {options.rounds}"
            f" --threads {options.threads}",
            "machine": hardware_name(),
            "threads": options.threads,
            "model": bundle.manifest.provenance.model,
            "run": bundle.manifest.provenance.run,
            "input": f"{bundle.manifest.input.width}x{bundle.manifest.input.height}",
            "baseline": {
                name: getattr(bundle.manifest.baseline.evaluation, name) for name in ("weighted_f1", "auc", "cells")
            },
            "artifacts": artifacts(bundle, options.rounds, options.threads),
        }
    write_json(options.out, result)
    json.dump(result, sys.stdout, indent=2)


def artifacts(bundle: Bundle, rounds: int, threads: int) -> dict[str, dict[str, object]]:
    """Figures by "engine/precision"; speed-up is the median over rounds of float32 time over this artifact's."""
    image = golden_inputs(bundle.manifest.imaging, count=1)[0]
    rows: dict[str, dict[str, object]] = {}
    for engine in dict.fromkeys(a.engine for a in bundle.manifest.artifacts):
        same = [a for a in bundle.manifest.artifacts if a.engine == engine]
        loaded = {str(a.precision): load_artifact(bundle, a, threads) for a in same}
        times = interleaved(loaded, image, rounds)
        for artifact in same:
            mine = times[artifact.precision]
            rows[f"{engine}/{artifact.precision}"] = {
                "runtime": loaded[artifact.precision].runtime,
                "size_bytes": artifact.size_bytes,
                "weighted_f1": artifact.evaluation.weighted_f1,
                "weighted_f1_ci95": artifact.evaluation.ci95.get("weighted_f1"),
                "auc": artifact.evaluation.auc,
                "drop_points": artifact.agreement.drop,
                "drop_ci95": artifact.agreement.drop_ci95,
                "flip_rate": artifact.agreement.flip_rate,
                "max_probability_difference": artifact.agreement.max_probability_difference,
                "latency_ms": percentiles(mine).model_dump(),
                "speed_up": median(np.divide(times["float32"], mine)),
            }
            if engine == "litert":
                model = bundle.read(artifact.file)
                rows[f"{engine}/{artifact.precision}"]["litert_benchmark_p50_ms"] = official(model, threads)
    return rows


def official(model: bytes, threads: int) -> float | None:
    """Median latency in ms by LiteRT's own tool; None where it is not installed."""
    tool = Path(sysconfig.get_path("scripts")) / "litert-benchmark"
    if not tool.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        file, report = Path(folder) / "model.tflite", Path(folder) / "report.json"
        file.write_bytes(model)
        command = [
            str(tool),
            "--model",
            str(file),
            "--num_threads",
            str(threads),
            "--num_runs",
            "60",
            "--warmup_runs",
            "5",
        ]
        subprocess.run([*command, "--result_json", str(report)], check=True, capture_output=True)
        return float(json.loads(report.read_text())["latency"]["median_ms"])


if __name__ == "__main__":
    main()
