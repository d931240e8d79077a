"""The comparison as tables of cells, which the terminal, Markdown and HTML each lay out."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.report import count, milliseconds
from bloodedge_train.compare.rows import FIGURES, Converted, Estimate, Row, Versus

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ENGINES = {"litert": "LiteRT", "openvino": "OpenVINO", "onnx": "ONNX Runtime", "keras": "Keras"}
DECIMAL = {"auc", "ece"}
"""Figures shown as decimals; the others are in per cent."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Cell:
    """A table cell: a value and smaller lines below it."""

    main: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A titled table; its first column names the row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]


def _laid_out(title: str, note: str, items: Iterable[Item], columns: dict[str, Callable[[Item], Cell]]) -> Table:
    """A table of ``items``; columns: how each shows one, by title."""
    return Table(title, note, tuple(columns), [[show(item) for show in columns.values()] for item in items])


def _name(row: Row) -> Cell:
    """The network with its run, where it has several rows, its split and its recipe."""
    return Cell(row.network, (*([row.label] if row.label else []), row.split_label, f"recipe {row.recipe}"))


def _figure(estimate: Estimate, name: str, *notes: str) -> Cell:
    """A figure with its range below it, then the notes."""
    if estimate.value is None:
        return Cell(DASH, notes)
    known = estimate.low is not None and estimate.high is not None
    limits = [_number(limit, name) for limit in (estimate.low, estimate.high) if limit is not None and known]
    return Cell(_number(estimate.value, name), (DASH.join(limits), *notes))


def _number(value: float, figure: str) -> str:
    return f"{value:.3f}" if figure in DECIMAL else f"{100 * value:.1f}"


def figures_table(rows: Sequence[Row]) -> Table:
    """The paper's Table 1 from our runs, the paper's own figures beside them."""

    def column(name: str) -> Callable[[Row], Cell]:
        return lambda row: _figure(row.figures[name], name, *([against(row.paper[name])] if name in row.paper else []))

    return _laid_out(
        "Figures",
        "Per cent, but AUC. Below a figure: its 95 % interval over subjects, or of a mean over folds the lowest and "
        "the highest fold; then the paper's figure, and ours minus it in points. Blasts are the positive class.",
        rows,
        {"network": _name}
        | {FIGURES[f]: column(f) for f in ("accuracy", "precision", "recall", "f1", "weighted_f1", "auc")},
    )


def against(versus: Versus) -> str:
    """The paper's figure and our distance from it: "paper ≥ 99.0: +0.4"."""
    bound = "\N{GREATER-THAN OR EQUAL TO} " if versus.at_least else ""
    ours = "" if versus.points is None else f": {versus.points:+.1f}".replace("-", MINUS)
    return f"paper {bound}{100 * versus.paper:.1f}{ours}"


def subjects_table(rows: Sequence[Row]) -> Table:
    """Calibration, and how figures vary over people."""
    return _laid_out(
        "By subject",
        "Of several folds, the subjects of all. ECE: expected calibration error after the temperature.",
        rows,
        {
            "network": _name,
            "cells": lambda row: Cell(count(row.cells)),
            "subjects": lambda row: Cell(str(row.subjects)),
            "mean accuracy": lambda row: _figure((row.pooled or row.figures)["mean_subject_accuracy"], "accuracy"),
            "worst subject": _worst,
            "below 50 %": lambda row: Cell(str(sum(s.accuracy < 0.5 for s in row.per_subject.values()))),
            "ECE": lambda row: _figure(row.figures["ece"], "ece"),
        },
    )


def _worst(row: Row) -> Cell:
    score = row.per_subject[row.worst_subject]
    return Cell(f"{100 * score.accuracy:.1f}", (f"{row.worst_subject}, {score.label}, {score.cells} cells",))


def cost_table(rows: Sequence[Row]) -> Table:
    """The cost of each network, whatever it was fitted to."""
    shown = _costed(rows)
    met = Counter(row.network for row in shown)
    timed = {f"{row.hardware} (Keras)" for row in shown}
    converted = {c.machine for row in shown for c in row.converted if c.latency_ms}
    several = len(timed) > 1 or len(converted) > 1
    machines = f" Float latency: {_listed(timed)}." + (f" int8 latency: {_listed(converted)}." if converted else "")
    return _laid_out(
        "Cost",
        "MACs: multiply-accumulates of one cell. Latency: one cell at a time, p50." + ("" if several else machines),
        shown,
        {
            "network": lambda row: Cell(row.network, (row.label,) if met[row.network] > 1 else ()),
            "parameters": lambda row: Cell(scaled(row.parameters)),
            "MACs": lambda row: Cell(scaled(row.macs) if row.macs else DASH),
            "input": lambda row: Cell(f"{row.views} x " * (row.views > 1) + f"{row.size_px} px"),
            "float file": lambda row: _size(row, "float32"),
            "int8 file": lambda row: _size(row, "int8"),
            "float latency": lambda row: Cell(
                f"{milliseconds(row.latency_ms.p50)} ms", (row.hardware,) if several else ()
            ),
            "int8 latency": lambda row: _int8_latency(row, named=several),
        },
    )


def _costed(rows: Sequence[Row]) -> list[Row]:
    """Each network and input size once, but every converted one."""
    of_kind: dict[tuple[str, int, int, int], list[Row]] = {}
    for row in rows:
        of_kind.setdefault((row.network, row.parameters, row.size_px, row.views), []).append(row)
    return [row for alike in of_kind.values() for row in ([r for r in alike if r.converted] or alike[:1])]


def _listed(machines: set[str]) -> str:
    return ", ".join(sorted(machines))


def scaled(number: int) -> str:
    """A large count with three digits: "2.26 M", "300 M", "19.6 G"."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            value = number / size
            return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"
    return str(number)


def _size(row: Row, precision: str) -> Cell:
    sizes = [c.size_bytes for c in row.converted if c.precision == precision]
    if precision == "float32" and row.float_bytes:
        sizes = [row.float_bytes]
    return Cell(f"{min(sizes) / 1e6:.1f} MB" if sizes else DASH)


def _int8_latency(row: Row, *, named: bool) -> Cell:
    timed = [c for c in row.converted if c.precision == "int8" and c.latency_ms]
    lines = [f"{milliseconds(c.latency_ms.p50)} ms {ENGINES[c.engine]}" for c in timed if c.latency_ms]
    machines = sorted({c.machine for c in timed}) if named else []
    return Cell(lines[0], (*lines[1:], *machines)) if lines else Cell(DASH)


def converted_table(rows: Sequence[Row]) -> Table:
    """Every artifact of the bundles given."""

    def column(show: Callable[[Converted], str]) -> Callable[[tuple[Row, Converted]], Cell]:
        return lambda of_row: Cell(show(of_row[1]))

    def latency(show: Callable[[LatencyMs], float]) -> Callable[[tuple[Row, Converted]], Cell]:
        return column(lambda c: milliseconds(show(c.latency_ms)) if c.latency_ms else DASH)

    return _laid_out(
        "Converted",
        "Weighted F1 and flips (cells whose class differs from the float model's) on the test part, as measured at "
        "conversion. Latency of one cell: p50 and p95 in milliseconds.",
        [(row, c) for row in rows for c in row.converted],
        {
            "network": lambda of_row: _name(of_row[0]),
            "engine": column(lambda c: ENGINES[c.engine]),
            "precision": column(lambda c: c.precision),
            "file": column(lambda c: f"{c.size_bytes / 1e6:.1f} MB"),
            "weighted F1": column(lambda c: f"{100 * c.weighted_f1:.1f}"),
            "flips": column(lambda c: f"{100 * c.flip_rate:.1f} %"),
            "p50": latency(lambda ms: ms.p50),
            "p95": latency(lambda ms: ms.p95),
            "measured": lambda of_row: Cell("now" if of_row[1].measured_now else "at conversion", (of_row[1].machine,)),
        },
    )


def folds_table(row: Row) -> Table:
    """Each fold, their mean, and all their cells pooled."""
    assert row.folds is not None
    lines: dict[str, dict[str, Estimate]] = {
        f"fold {number}": {name: Estimate(value=value) for name, value in fold.items()}
        for number, fold in zip(row.folds, row.by_fold, strict=True)
    }
    lines["mean"] = {name: Estimate(value=estimate.value) for name, estimate in row.figures.items()}
    lines["pooled"] = row.pooled or {}
    return Table(
        f"Folds of {row.name}, {row.split_label}, recipe {row.recipe}",
        "Pooled: every cell with the answer of the fold that held it out; 95 % intervals over subjects where the runs "
        "kept their predictions. Per cent, but AUC and ECE.",
        ("", *FIGURES.values()),
        [[Cell(name), *(_figure(line[f], f) for f in FIGURES)] for name, line in lines.items()],
    )


def all_tables(rows: Sequence[Row]) -> list[Table]:
    """The tables in reading order; those without a row are left out."""
    tables = [figures_table(rows), subjects_table(rows), *(folds_table(row) for row in rows if row.folds)]
    return [t for t in (*tables, cost_table(rows), converted_table(rows)) if t.rows]


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    head = [f"| {' | '.join(table.columns)} |", f"|---|{'--:|' * (len(table.columns) - 1)}"]
    lines = [f"| {' | '.join(_markdown_cell(cell) for cell in row)} |" for row in table.rows]
    return "\n".join([*head, *lines])


def _markdown_cell(cell: Cell) -> str:
    lines = [cell.main, *(f"<sub>{note}</sub>" for note in cell.notes if note)]
    return "<br>".join(lines).replace("|", "\\|")
