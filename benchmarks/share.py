"""How well a slide's share of blasts is estimated: simulated slides of known shares, and held-out people of C-NMC.

    python benchmarks/share.py [--slides 100] [--data DIR/cnmc]

Each simulated slide is of a person of its own, whose smear holds a share of blasts between 0.02 and 0.98, and goes
through gate, finder, network and decision as on a device. With ``--data``, slides are put together from the held-out
people of models/cells.bundle as well: the blasts of one patient and the normal cells of one healthy person, in a known
share, judged by rates of the other people. Four estimates are compared by how often their
95 % interval holds the truth, and how long it is:

- counting: blasts among called cells, frames as clusters;
- Rogan-Gladen: all held-out cells' sensitivity and specificity, with the interval of Lang and Reiczigel (2014);
- EM: expectation maximisation over the probabilities (Saerens, Latinne and Decaestecker, Neural Computation 14:21,
  2002; QuaPy's EMQ), with a bootstrap over frames;
- people: what the device says (bloodedge.decision.prevalence).

Writes results/share.json and docs/share.png.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from revision import revision

from bloodedge.bundle import Bundle
from bloodedge.data.dataset import read_dataset
from bloodedge.decision.error_rates import Rates, count_outcomes
from bloodedge.decision.thresholds import LABELS, decide
from bloodedge.engine import load_artifact
from bloodedge.evaluation.classifier import blast_probabilities, open_bundle
from bloodedge.evaluation.ensemble import Ensemble
from bloodedge.evaluation.filmed import film
from bloodedge.evaluation.held_out import choose_cells
from bloodedge.files import sha256, write_json
from bloodedge.finder import find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.machine import default_threads
from bloodedge.simulation import FieldSpec, SubjectStyle, render_field
from bloodedge_device.camera.simulated import DEFOCUS_UM, UM_PER_PX
from bloodedge_device.frames import Capture, Frame
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.share import SlideShare

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "share.json"
PLOT = ROOT / "docs" / "share.png"
SIMULATED, RELEASED = ROOT / "models" / "simulated.bundle", ROOT / "models" / "cells.bundle"
FIRST_SPECIMEN = 500_000
"""Far from those that anything else looks at."""
CELLS = 120
"""Called cells after which a slide ends."""
MOST_FRAMES = 80
WHITE_CELLS = (2, 6)
"""Of a field: more than the simulated camera shows, so that a slide needs fewer frames."""
SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
PUT_TOGETHER = 60
"""Slides of each of SHARES that are put together from people."""
Z = 1.959964
REPLICATES = 200
METHODS = ("counting", "Rogan-Gladen", "EM", "people")

Floats = NDArray[np.float64]
Interval = tuple[float | None, float, float]
"""(estimate, low, high), 0..1."""


@dataclass(frozen=True)
class SlideCells:
    """What a slide showed: for each frame, the probabilities and labels of its cells that the network was asked of."""

    truth: float
    frames: list[list[tuple[float, str]]]

    @property
    def counted(self) -> ClusteredShare:
        """Blasts among called cells by frame."""
        labels = [[label for _, label in frame if label in LABELS] for frame in self.frames]
        return ClusteredShare([one.count("blast") for one in labels], [len(one) for one in labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=100)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=PLOT)
    options = parser.parse_args()
    command = "python benchmarks/share.py" + (" --data DIR/cnmc" if options.data else "")
    result: dict[str, Any] = {"command": command, "commit": revision(), "simulated": simulated(options.slides)}
    if options.data:
        result["people"] = put_together(options.data)
    write_json(options.json, result)
    plot(result["simulated"], options.plot)
    for name in ("simulated", "people"):
        for method, row in result.get(name, {}).get("methods", {}).items():
            print(f"{name:10} {method:13} holds the truth {row['held']} of {row['slides']}, length {row['length']:.3f}")


def simulated(slides: int) -> dict[str, Any]:
    """Slides of the simulated microscope."""
    rows = []
    with Bundle(SIMULATED) as bundle:
        artifact = bundle.manifest.artifact("litert", "int8")
        engine = load_artifact(bundle, artifact, default_threads())
        assert artifact.rates is not None
        for number, truth in enumerate(np.linspace(0.02, 0.98, slides)):
            seen = look(Pipeline(engine, bundle.manifest, check, find_cells), number, float(truth))
            rows.append(judge(seen, artifact.rates))
            print(number, {key: rows[-1][key] for key in ("truth", "people")}, flush=True)
        return {
            "bundle": sha256(SIMULATED),
            "people_the_rates_are_of": artifact.rates.people,
            "methods": summary(rows),
            "slides": rows,
        }


def look(pipeline: Pipeline, number: int, truth: float) -> SlideCells:
    """A slide of a new person with a share of blasts."""
    seed = FIRST_SPECIMEN + number
    spec = FieldSpec(
        style=SubjectStyle.of(seed),
        um_per_px=UM_PER_PX,
        defocus_um=DEFOCUS_UM,
        blast_share=truth,
        white_cells=WHITE_CELLS,
    )
    frames: list[list[tuple[float, str]]] = []
    called = 0
    for index in range(MOST_FRAMES):
        field = render_field(seed * 1000 + index, spec)
        result = pipeline.process(Frame(Capture.now(index, 0.0), field.bgr, field.um_per_px))
        asked = [(cell.blast_probability, cell.label) for cell in result.cells if cell.blast_probability is not None]
        frames.append(asked)
        called += sum(label in LABELS for _, label in asked)
        if called >= CELLS:
            break
    pipeline.close()
    return SlideCells(truth, frames)


def put_together(data: Path) -> dict[str, Any]:
    """Slides of two held-out people's cells, by the rates of the others."""
    classifier = open_bundle(RELEASED, "litert", "int8", default_threads())
    with Bundle(RELEASED) as bundle:
        manifest = bundle.manifest
    cells, which, _ = choose_cells(Ensemble.of([classifier]), read_dataset(data), "auto")
    rates = manifest.artifact("litert", "int8").rates
    assert rates is not None
    people = rates.blast.keys() | rates.normal.keys()
    filmed = film([cell for cell in cells if cell.subject in people], [], manifest.imaging, 0)
    blast = blast_probabilities(classifier.engine, filmed.images, classifier.temperature)
    outside = np.zeros(len(blast), bool)
    if manifest.domain is not None:
        outside = manifest.domain.distances(filmed.figures) > manifest.domain.limit
    said = [
        "uncertain" if out else decide(float(p), classifier.thresholds)[0]
        for p, out in zip(blast, outside, strict=True)
    ]
    whose: dict[tuple[str, int], list[int]] = {}
    for index, cell in enumerate(filmed.cells):
        whose.setdefault((cell.subject, cell.label), []).append(index)
    rng = np.random.default_rng(0)
    rows = []
    for truth in SHARES:
        for _ in range(PUT_TOGETHER):
            patients, healthy = ([key for key in whose if key[1] == label] for label in (1, 0))
            pair = patients[rng.integers(len(patients))], healthy[rng.integers(len(healthy))]
            others = [i for key, indices in whose.items() if key not in pair for i in indices]
            of_others = count_outcomes(
                [filmed.cells[i].subject for i in others], [filmed.cells[i].label for i in others],
                [said[i] for i in others],
            )  # fmt: skip
            chosen = [int(rng.choice(whose[pair[int(rng.random() >= truth)]])) for _ in range(CELLS)]
            frames = [[(float(blast[i]), said[i])] for i in chosen]
            rows.append(judge(SlideCells(truth, frames), of_others))
    return {"bundle": sha256(RELEASED), "cells": which, "people": len({key[0] for key in whose}),
            "methods": summary(rows), "by_share": {str(share): summary([r for r in rows if r["truth"] == share])
                                                   for share in SHARES}}  # fmt: skip


def judge(seen: SlideCells, rates: Rates) -> dict[str, Any]:
    """A slide's truth with each method's estimate and interval."""
    counted = seen.counted
    share = SlideShare.of(counted, rates).estimate
    low, high = counted.clustered_ci95 or counted.ci95
    row: dict[str, Any] = {
        "truth": seen.truth,
        "called": counted.trials,
        "counting": (counted.share, low, high),
        "Rogan-Gladen": lang_reiczigel(counted, rates),
        "EM": em(seen),
        "people": (share.corrected, share.low, share.high),
        "limited_by": share.limited_by,
    }
    return {key: [None if v is None else round(v, 4) for v in value] if key in METHODS else value
            for key, value in row.items()}  # fmt: skip


def lang_reiczigel(counted: ClusteredShare, rates: Rates) -> Interval:
    """Rogan and Gladen's estimate with Lang and Reiczigel's interval, called cells alone."""
    if counted.share is None:
        return None, 0.0, 1.0
    n = counted.equivalent_trials or counted.trials
    positives = [sum(one.blast for one in group.values()) for group in (rates.blast, rates.normal)]
    trials = [sum(one.called for one in group.values()) for group in (rates.blast, rates.normal)]
    sensitivity = (positives[0] + 1) / (trials[0] + 2)
    specificity = (trials[1] - positives[1] + 1) / (trials[1] + 2)
    apparent = (counted.share * n + Z**2 / 2) / (n + Z**2)
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return None, 0.0, 1.0
    share = (apparent + specificity - 1) / youden
    first = sensitivity * (1 - sensitivity) / (trials[0] + 2)
    second = specificity * (1 - specificity) / (trials[1] + 2)
    shift = 2 * Z**2 * (share * first - (1 - share) * second)
    error = np.sqrt(apparent * (1 - apparent) / (n + Z**2) + share**2 * first + (1 - share) ** 2 * second) / youden
    ends = share + shift - Z * error, share + shift + Z * error, share
    low, high, estimate = (float(np.clip(value, 0, 1)) for value in ends)
    return estimate, low, high


def em(seen: SlideCells) -> Interval:
    """QuaPy's EMQ over the probabilities of called cells, bootstrapped over frames."""
    from quapy.method.aggregative import EMQ

    frames = [np.array([p for p, label in frame if label in LABELS]) for frame in seen.frames]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return None, 0.0, 1.0

    def estimate(probabilities: Floats) -> float:
        posterior = np.stack([1 - probabilities, probabilities], axis=1)
        return float(EMQ.EM(np.array([0.5, 0.5]), posterior)[0][1])

    rng = np.random.default_rng(0)
    drawn = [
        estimate(np.concatenate([frames[i] for i in rng.integers(len(frames), size=len(frames))]))
        for _ in range(REPLICATES)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return estimate(np.concatenate(frames)), float(low), float(high)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each method's interval holds the truth, how long it is, and how far the estimate is off."""
    return {method: dict(_summary(rows, method)) for method in METHODS}


def _summary(rows: list[dict[str, Any]], method: str) -> Iterator[tuple[str, Any]]:
    yield "slides", len(rows)
    yield "held", sum(row[method][1] <= row["truth"] <= row[method][2] for row in rows)
    yield "length", float(np.mean([row[method][2] - row[method][1] for row in rows]))
    yield "off_by", float(np.mean([abs(row[method][0] - row["truth"]) for row in rows if row[method][0] is not None]))


def plot(result: dict[str, Any], target: Path) -> None:
    """Estimates and intervals against the truth, one picture a method."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(METHODS), figsize=(13, 3.9), sharey=True, layout="constrained")
    for axis, method in zip(axes, METHODS, strict=True):
        for row in result["slides"]:
            estimate, low, high = row[method]
            held = low <= row["truth"] <= high
            colour = "#2a6f97" if held else "#c1440e"
            axis.plot([row["truth"]] * 2, [low, high], color=colour, linewidth=1.4, alpha=0.6)
            if estimate is not None:
                axis.plot(row["truth"], estimate, "o", color=colour, markersize=2.5)
        axis.plot([0, 1], [0, 1], color="#777", linewidth=0.8)
        told = result["methods"][method]
        axis.set_title(f"{method}: {told['held']} of {told['slides']} hold the truth", fontsize=10)
        axis.set_xlabel("true share of blasts", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[0].set_ylabel("estimated share, with its 95 % interval", fontsize=9)
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main()
