"""A sweep's results as files: a table of trials, the ranking as JSON and Markdown, and a picture of it."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bloodedge import RESEARCH_USE
from bloodedge.files import write_json, write_text
from bloodedge_train.sweep.plan import Plan
from bloodedge_train.sweep.plot import draw_settings
from bloodedge_train.sweep.ranking import BESIDE, Row, Table, rank

FILES = ("results.csv", "results.json", "results.md", "results.png")
"""Beside the plan and the trials in a sweep's folder."""

LEAKY = " **Leaky: the split is by image, so cells of one person are in training and in test.**"
RANKING = """\
Ranked by validation AUC, mean and standard deviation over folds and seeds. Settings that lost a trial to the pruner
come after those that finished, and a pruned trial counts with its best epoch. Test figures chose nothing: read them
for the first line only."""


def write(out: Path, plan: Plan) -> Table:
    """Write results.csv (a line for each trial), results.json, results.md and results.png of a sweep's folder."""
    table = rank(out, plan)
    write_text(out / "results.csv", _csv(plan, table))
    write_json(out / "results.json", _json(plan, table))
    write_text(out / "results.md", _markdown(plan, table))
    draw_settings(out / "results.png", table, leaky=plan.leaky)
    return table


def shown(value: Any) -> str:
    """A recipe's value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _csv(plan: Plan, table: Table) -> str:
    columns = ["validation_auc", *(name for name in BESIDE if any(name in found for found in table.figures))]
    keys = list(plan.trials[0].values)
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    head = ["trial", "model", *keys, "leaky", "fold", "seed", "state", "epochs", *columns]
    rows.writerow([*head, "seconds", "host", "node", "mistake"])
    for record, found in zip(table.records, table.figures, strict=True):
        trial = record.trial
        row = [trial.id, trial.model, *(shown(trial.values[key]) for key in keys), str(plan.leaky).lower()]
        row += ["" if trial.fold is None else str(trial.fold), str(trial.seed), record.state, str(len(record.history))]
        row += [f"{found[name]:.4f}" if name in found else "" for name in columns]
        rows.writerow([*row, f"{record.seconds:.1f}", record.host, record.node, record.mistake])
    return out.getvalue()


def _json(plan: Plan, table: Table) -> dict[str, Any]:
    return {
        "name": plan.name,
        "ranked_by": "validation AUC, mean over folds and seeds",
        "leaky": plan.leaky,
        "settings": [vars(row) for row in table.rows],
        "trials": [
            record.model_dump() | {"figures": found} for record, found in zip(table.records, table.figures, strict=True)
        ],
    }


def _markdown(plan: Plan, table: Table) -> str:
    states = [record.state for record in table.records]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("finished", "pruned", "failed") if state in states
    )
    head, rows = settings_table(table)
    folds = f" on {plan.folds} folds" if plan.folds else ""
    lines = [
        f"# Sweep {plan.name}",
        "",
        RESEARCH_USE,
        "",
        f"{len(states)} trials of {len(table.rows)} settings{folds}: {counts or 'none has ended'}.{LEAKY * plan.leaky}",
        RANKING,
        "",
        _line(head),
        _line(["---"] * len(head)),
        *map(_line, rows),
    ]
    failed = [record for record in table.records if record.state == "failed"]
    lines += ["", "## Failed", ""] if failed else []
    lines += [f"- {record.trial.id}: {record.mistake}" for record in failed]
    return "\n".join([*lines, "", "![Settings and their validation AUC](results.png)", ""])


def settings_table(table: Table, beside: Iterable[str] = BESIDE) -> tuple[list[str], list[list[str]]]:
    """Heads, and a row for each setting, best first; beside: test figures to show, where any setting has them."""
    known = [name for name in beside if any(name in row.beside for row in table.rows)]
    rows = [
        [
            str(number),
            row.model,
            *(shown(row.values[key]) for key in table.varied),
            f"{row.finished} of {row.trials}",
            _auc_shown(row),
            *(f"{row.beside[name]:.3f}" if name in row.beside else "-" for name in known),
        ]
        for number, row in enumerate(table.rows, 1)
    ]
    return ["", "model", *table.varied, "finished", "validation AUC", *(BESIDE[name] for name in known)], rows


def _auc_shown(row: Row) -> str:
    """A setting's validation AUC with its spread."""
    if row.validation_auc is None:
        return "-"
    return f"{row.validation_auc:.3f}" + ("" if row.spread is None else f" ± {row.spread:.3f}")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
