"""A sweep's settings ranked by validation; the test part's figures are shown beside the ranking and choose nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bloodedge.bundle.run_record import calibration_part, read_metrics
from bloodedge_train.compare.rows import FIGURES
from bloodedge_train.sweep.plan import Plan
from bloodedge_train.sweep.trial import TrialRecord, read_trial, run_folder

SHOWN = {"test": ("auc", "weighted_f1", "accuracy"), "shift": ("auc", "weighted_f1")}
BESIDE = {f"{part}_{name}": f"{part} {FIGURES[name]}" for part, names in SHOWN.items() for name in names}
"""Figures shown beside the ranking: by part, and each "part_figure" with its title."""

Figures = dict[str, float]
"""By "part_figure", such as "test_auc"."""


@dataclass(frozen=True)
class Row:
    """One setting over all its folds and seeds."""

    model: str
    values: dict[str, Any]
    trials: int
    finished: int
    validation_auc: float | None
    """Mean over the trials that have one; a pruned trial counts with its best epoch."""
    spread: float | None
    """Standard deviation of it, over two trials or more."""
    beside: dict[str, float]
    """Means of those of BESIDE that finished trials have."""


@dataclass(frozen=True)
class Table:
    """A sweep's results: settings best first, trials in the plan's order."""

    rows: list[Row]
    records: list[TrialRecord]
    figures: list[Figures]
    """Each trial's, in the same order."""
    varied: list[str]


def rank(out: Path, plan: Plan) -> Table:
    """The settings of a sweep's folder with their figures so far, best first."""
    records = [read_trial(out, trial) or TrialRecord(trial=trial) for trial in plan.trials]
    figures = [_figures(out, record) for record in records]
    return Table(_ranked(records, figures), records, figures, plan.varied)


def _figures(out: Path, record: TrialRecord) -> Figures:
    """A trial's validation AUC and, when it finished, the other parts' figures."""
    if record.state != "finished":
        best = max((row["val_auc"] for row in record.history), default=None)
        return {} if best is None or record.state == "failed" else {"validation_auc": best}
    parts = read_metrics(run_folder(out, record.trial)).parts
    found = {"validation_auc": parts[calibration_part(parts)].auc}
    for part, names in SHOWN.items():
        if part in parts:
            found |= {f"{part}_{name}": getattr(parts[part], name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _ranked(records: Sequence[TrialRecord], figures: Sequence[Figures]) -> list[Row]:
    """Settings finished everywhere come first, then those that lost a fold to the pruner; each by validation AUC."""
    settings: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        settings.setdefault(record.trial.setting, []).append(number)
    rows = [_row([records[n] for n in members], [figures[n] for n in members]) for members in settings.values()]
    return sorted(rows, key=lambda row: (row.finished < row.trials, -(row.validation_auc or 0)))


def _row(records: Sequence[TrialRecord], figures: Sequence[Figures]) -> Row:
    validation = [f["validation_auc"] for f in figures if "validation_auc" in f]
    known = {name: [f[name] for f in figures if name in f] for name in BESIDE}
    return Row(
        model=records[0].trial.model,
        values=records[0].trial.values,
        trials=len(records),
        finished=sum(record.state == "finished" for record in records),
        validation_auc=mean(validation) if validation else None,
        spread=stdev(validation) if len(validation) > 1 else None,
        beside={name: mean(values) for name, values in known.items() if values},
    )
