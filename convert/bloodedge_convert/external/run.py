"""A run folder of a network that was trained elsewhere, so that it goes through the same gate as any other."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge import __version__
from bloodedge.bench.latency import measure_latency
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import RunMetrics, RunRecord
from bloodedge.data.dataset import CellFile, Dataset, check_readable, inputs, owners, read_dataset
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures
from bloodedge.data.split import Parts, SplitSpec, split
from bloodedge.decision.operating_point import choose_thresholds
from bloodedge.decision.thresholds import LABELS, Thresholds, require_probabilities
from bloodedge.engine import Engine
from bloodedge.engine.keras import KerasEngine
from bloodedge.evaluation.scoring import score
from bloodedge.files import write_bytes, write_text
from bloodedge.machine import hardware_name, versions
from bloodedge_convert.external.doubts import check_spec
from bloodedge_convert.external.keras_network import framed, load_network
from bloodedge_convert.external.spec import ModelSpec
from bloodedge_convert.job import Report

SPLIT = SplitSpec(validation=0.3, test=0.45)
"""Nothing is fitted: few people calibrate int8, the others choose thresholds and judge."""
CHOSEN_ON = "the validation part of the data that the network was converted with"


@dataclass(frozen=True)
class External:
    """A model of another program, and the data to judge it by."""

    model: Path
    spec: ModelSpec
    data: Path
    layout: DataLayout
    allow_worthless: bool


def write_run(external: External, folder: Path, report: Report) -> None:
    """Write the run folder; raises UsageError when the spec does not fit the network or the data."""
    report("Loading the network", 0, 1)
    network = load_network(external.model)
    whole = framed(network, external.spec)
    folder.mkdir()
    whole.save(folder / "model.keras")
    engine = KerasEngine(folder)
    report("Loading the network", 1, 1)
    dataset = read_dataset(external.data, lambda done, total: report("Reading cells", done, total), external.layout)
    check_readable(dataset, allow=False)
    spec = SPLIT.model_copy(update={"kind": "image"}) if external.spec.seen else SPLIT
    parts, record = split(dataset, spec, seed=0)
    blasts = {name: _blast(engine, parts[name], external.spec, report) for name in ("validation", "test")}
    if not external.allow_worthless:
        check_spec(
            network, external.spec, [*parts["validation"], *parts["test"]], np.concatenate(list(blasts.values()))
        )
    thresholds, point = choose_thresholds(
        blasts["validation"], [c.label for c in parts["validation"]], owners(parts["validation"]), CHOSEN_ON
    ) or (Thresholds(), None)
    figures = {name: _figures(parts[name], blast, thresholds, leaky=record.leaky) for name, blast in blasts.items()}
    fitted = FittedPictures.of(parts)
    write_bytes(folder / FITTED_FILE, fitted.pack())
    write_record(folder / "metrics.json", _metrics(engine, figures, parts, external.spec))
    write_text(folder / "MODEL_CARD.md", _card(external, dataset, figures["test"]))
    write_record(
        folder / "run.json",
        RunRecord(
            name=external.model.stem,
            created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            bloodedge=__version__,
            model=external.model.stem,
            parameters=whole.count_params(),
            labels=list(LABELS),
            weights=external.model.name,
            recipe={"split": spec.model_dump(mode="json"), "spec": external.spec.model_dump(mode="json")},
            imaging=external.spec.imaging,
            seed=0,
            data=dataset.record,
            split=record,
            fitted=fitted.record(),
            temperature=1.0,
            thresholds=thresholds,
            operating_point=point,
            backend=engine.runtime,
            hardware="not known: it was trained elsewhere",
            versions=versions(("keras", "tensorflow", "numpy")),
            history=[],
            best_epoch=0,
        ),
    )


def _blast(engine: Engine, cells: Sequence[CellFile], spec: ModelSpec, report: Report) -> NDArray[np.float64]:
    images = inputs(cells, spec.imaging, lambda done, total: report("Cells of the network's size", done, total))
    outputs = engine.predict(images)
    require_probabilities(outputs, "With this spec the network")
    return np.asarray(outputs[:, 1], np.float64)


def _figures(
    cells: Sequence[CellFile], blast: NDArray[np.float64], thresholds: Thresholds, *, leaky: bool
) -> Evaluation:
    return score([c.label for c in cells], blast, owners(cells), threshold=thresholds.blast, leaky=leaky)


def _metrics(engine: Engine, figures: dict[str, Evaluation], parts: Parts, spec: ModelSpec) -> RunMetrics:
    image = inputs(parts["test"][:1], spec.imaging)[0]
    return RunMetrics(
        parts=figures,
        ece_before_temperature=figures["validation"].ece or 0.0,
        latency_ms=measure_latency(engine, image),
        hardware=hardware_name(),
    )


def _card(external: External, dataset: Dataset, test: Evaluation) -> str:
    seen = "some of these people" if external.spec.seen else "none of these people, as its spec says"
    source = "cells drawn by the simulated microscope" if dataset.rendered else "cells"
    return (
        f"# {external.model.name}\n\n*For Research Use Only. Not for use in diagnostic procedures.*\n\n"
        f"A network that was trained elsewhere, judged on {test.cells} {source} of {test.subjects} subjects; it was "
        f"fitted to {seen}.\n"
    )
