"""What a sweep found: settings ranked by validation, each trial's figures, and a picture of both.

The test part chooses nothing: its figures stand beside the ranking, for the setting that validation chose.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from bloodedge import RESEARCH_USE
from bloodedge.bundle.manifest import Evaluation, read_metrics
from bloodedge.files import write_json, write_text
from bloodedge_train.sweep import plot
from bloodedge_train.sweep.space import Plan
from bloodedge_train.sweep.trial import TrialRecord, read_trial, run_folder

SHOWN = {"test": ("auc", "weighted_f1", "accuracy"), "shift": ("auc", "weighted_f1")}
"""Figures shown beside the ranking, by part."""

FILES = ("results.csv", "results.json", "results.md", "results.png")
"""Beside the plan and the trials in a sweep's folder."""

LEAKY = " **Leaky: the split is by image, so cells of one person stand on both sides.**"
RANKING = """\
Ranked by validation AUC, mean and standard deviation over folds and seeds. Settings that lost a trial to the pruner
come after those that finished, and a pruned trial counts with its best epoch. Test figures chose nothing: read them
for the first line only."""


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
    """Means over finished trials, by "part_figure"."""


@dataclass(frozen=True)
class Table:
    """A sweep's results: settings best first, trials in the plan's order."""

    rows: list[Row]
    records: list[TrialRecord]
    varied: list[str]


Figures = dict[str, float]


def write(out: Path, plan: Plan) -> Table:
    """Write results.csv (a line for each trial), results.json, results.md and results.png of a sweep's folder."""
    records = [read_trial(out, trial) or TrialRecord(trial=trial) for trial in plan.trials]
    figures = [_figures(out, record) for record in records]
    table = Table(_ranked(records, figures), records, plan.varied)
    write_text(out / "results.csv", _csv(plan, records, figures))
    write_json(out / "results.json", _json(plan, table, figures))
    write_text(out / "results.md", _markdown(plan, table))
    plot.draw_settings(out / "results.png", table, leaky=plan.leaky)
    return table


def _figures(out: Path, record: TrialRecord) -> Figures:
    """A trial's validation AUC and, when it finished, the other parts' figures."""
    if record.state != "finished":
        best = max((row["val_auc"] for row in record.history), default=None)
        return {} if best is None or record.state == "failed" else {"validation_auc": best}
    parts = read_metrics(run_folder(out, record.trial)).parts
    found = {"validation_auc": parts["validation"].auc}
    for part, names in SHOWN.items():
        if part in parts:
            found |= {f"{part}_{name}": _value(parts[part], name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _value(evaluation: Evaluation, name: str) -> float | None:
    value: float | None = getattr(evaluation, name)
    return value


def _ranked(records: Sequence[TrialRecord], figures: Sequence[Figures]) -> list[Row]:
    """Settings finished everywhere come first, then those that lost a fold to the pruner; each by validation AUC."""
    settings: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        settings.setdefault(record.trial.setting, []).append(number)
    rows = [_row([records[n] for n in members], [figures[n] for n in members]) for members in settings.values()]
    return sorted(rows, key=lambda row: (row.finished < row.trials, -(row.validation_auc or 0)))


def _row(records: Sequence[TrialRecord], figures: Sequence[Figures]) -> Row:
    validation = [f["validation_auc"] for f in figures if "validation_auc" in f]
    beside: dict[str, list[float]] = {}
    for of_trial in figures:
        for name, value in of_trial.items():
            if name != "validation_auc":
                beside.setdefault(name, []).append(value)
    return Row(
        model=records[0].trial.model,
        values=records[0].trial.values,
        trials=len(records),
        finished=sum(record.state == "finished" for record in records),
        validation_auc=mean(validation) if validation else None,
        spread=stdev(validation) if len(validation) > 1 else None,
        beside={name: mean(values) for name, values in beside.items()},
    )


def shown(value: Any) -> str:
    """A recipe's value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _columns(figures: Sequence[Figures]) -> list[str]:
    order = ["validation_auc", *(f"{part}_{name}" for part, names in SHOWN.items() for name in names)]
    return [name for name in order if any(name in f for f in figures)] or order[:1]


def _csv(plan: Plan, records: Sequence[TrialRecord], figures: Sequence[Figures]) -> str:
    columns = _columns(figures)
    keys = list(plan.trials[0].values)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    head = ["trial", "model", *keys, "leaky", "fold", "seed", "state", "epochs", *columns]
    rows.writerow([*head, "seconds", "host", "node", "mistake"])
    for record, found in zip(records, figures, strict=True):
        trial = record.trial
        row = [trial.id, trial.model, *(shown(trial.values[key]) for key in keys), str(plan.leaky).lower()]
        row += ["" if trial.fold is None else str(trial.fold), str(trial.seed), record.state, str(len(record.history))]
        row += [f"{found[name]:.4f}" if name in found else "" for name in columns]
        rows.writerow([*row, f"{record.seconds:.1f}", record.host, record.node, record.mistake])
    return out.getvalue()


def _json(plan: Plan, table: Table, figures: Sequence[Figures]) -> dict[str, Any]:
    return {
        "name": plan.name,
        "ranked_by": "validation AUC, mean over folds and seeds",
        "leaky": plan.leaky,
        "settings": [vars(row) for row in table.rows],
        "trials": [
            record.model_dump() | {"figures": found} for record, found in zip(table.records, figures, strict=True)
        ],
    }


def _markdown(plan: Plan, table: Table) -> str:
    states = [record.state for record in table.records]
    told = ", ".join(f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed") if state in states)
    beside = _columns([row.beside for row in table.rows])
    beside = [name for name in beside if name != "validation_auc"]
    head = ["", "model", *table.varied, "finished", "validation AUC", *(_title(name) for name in beside)]
    folds = f" on {plan.folds} folds" if plan.folds else ""
    lines = [
        f"# Sweep {plan.name}",
        "",
        RESEARCH_USE,
        "",
        f"{len(states)} trials of {len(table.rows)} settings{folds}: {told or 'none has ended'}.{LEAKY * plan.leaky}",
        RANKING,
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    for number, row in enumerate(table.rows, 1):
        cells = [str(number), row.model, *(shown(row.values[key]) for key in table.varied)]
        cells += [f"{row.finished} of {row.trials}", auc_shown(row)]
        lines.append(_line([*cells, *(f"{row.beside[name]:.3f}" if name in row.beside else "-" for name in beside)]))
    failed = [record for record in table.records if record.state == "failed"]
    lines += ["", "## Failed", ""] if failed else []
    lines += [f"- {record.trial.id}: {record.mistake}" for record in failed]
    return "\n".join([*lines, "", "![Settings and their validation AUC](results.png)", ""])


def auc_shown(row: Row) -> str:
    """A setting's validation AUC with its spread."""
    if row.validation_auc is None:
        return "-"
    return f"{row.validation_auc:.3f}" + ("" if row.spread is None else f" ± {row.spread:.3f}")


def _title(name: str) -> str:
    part, _, figure = name.partition("_")
    words = {"auc": "AUC", "weighted_f1": "weighted F1"}
    return f"{part} {words.get(figure, figure)}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
