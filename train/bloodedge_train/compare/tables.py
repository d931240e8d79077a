"""The comparison as tables of cells, which the terminal, Markdown and HTML each lay out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bloodedge.report import count, milliseconds
from bloodedge_train.compare.rows import FIGURES, Estimate, Row, Versus

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ENGINES = {"litert": "LiteRT", "openvino": "OpenVINO", "onnx": "ONNX Runtime", "keras": "Keras"}
DECIMAL = {"auc", "ece"}
"""Figures shown as decimals; the others are in per cent."""


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


def names(rows: Sequence[Row]) -> list[Cell]:
    """Each row's network with its run, where it has several rows, its split and its recipe."""
    return [
        Cell(row.network, (*([row.label] if row.label else []), row.split_label, f"recipe {row.recipe}"))
        for row in rows
    ]


def figures_table(rows: Sequence[Row]) -> Table:
    """The paper's Table 1 from our runs, the paper's own figures beside them."""
    shown = ("accuracy", "precision", "recall", "f1", "weighted_f1", "auc")
    return Table(
        "Figures",
        "Per cent, but AUC. Below a figure: its 95 % interval over subjects, or of a mean over folds the lowest and "
        "the highest fold; then the paper's figure, and ours minus it in points. Blasts are the positive class.",
        ("network", *(FIGURES[name] for name in shown)),
        [
            [name, *(Cell(formatted(row.figures[f], f), _notes(row, f)) for f in shown)]
            for name, row in zip(names(rows), rows, strict=True)
        ],
    )


def _notes(row: Row, figure: str) -> tuple[str, ...]:
    lines = []
    if limits := _range(row.figures[figure], figure):
        lines.append(limits)
    if versus := row.paper.get(figure):
        lines.append(against(versus))
    return tuple(lines)


def formatted(estimate: Estimate, figure: str) -> str:
    """A figure as the tables show it."""
    if estimate.value is None:
        return DASH
    return _number(estimate.value, figure)


def _number(value: float, figure: str) -> str:
    return f"{value:.3f}" if figure in DECIMAL else f"{100 * value:.1f}"


def _range(estimate: Estimate, figure: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{_number(estimate.low, figure)}{DASH}{_number(estimate.high, figure)}"


def against(versus: Versus) -> str:
    """The paper's figure and our distance from it: "paper ≥ 99.0: +0.4"."""
    bound = "\N{GREATER-THAN OR EQUAL TO} " if versus.at_least else ""
    ours = "" if versus.points is None else f": {versus.points:+.1f}".replace("-", MINUS)
    return f"paper {bound}{100 * versus.paper:.1f}{ours}"


def subjects_table(rows: Sequence[Row]) -> Table:
    """Calibration, and how figures vary over people."""
    return Table(
        "By subject",
        "Of several folds, the subjects of all. ECE: expected calibration error after the temperature.",
        ("network", "cells", "subjects", "mean accuracy", "worst subject", "below 50 %", "ECE"),
        [
            [
                name,
                Cell(count(row.cells)),
                Cell(str(row.subjects)),
                _mean(row),
                _worst(row),
                Cell(str(sum(s.accuracy < 0.5 for s in row.per_subject.values()))),
                Cell(formatted(row.figures["ece"], "ece"), (_range(row.figures["ece"], "ece"),)),
            ]
            for name, row in zip(names(rows), rows, strict=True)
        ],
    )


def _mean(row: Row) -> Cell:
    estimate = (row.pooled or row.figures)["mean_subject_accuracy"]
    return Cell(formatted(estimate, "accuracy"), (_range(estimate, "accuracy"),))


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
    return Table(
        "Cost",
        "MACs: multiply-accumulates of one image. Latency: one image at a time, p50." + ("" if several else machines),
        ("network", "parameters", "MACs", "input", "float file", "int8 file", "float latency", "int8 latency"),
        [
            [
                Cell(row.network, (row.label,) if met[row.network] > 1 else ()),
                Cell(scaled(row.parameters)),
                Cell(scaled(row.macs) if row.macs else DASH),
                Cell(f"{row.size_px} px"),
                _size(row, "float32"),
                _size(row, "int8"),
                Cell(f"{milliseconds(row.latency_ms.p50)} ms", (row.hardware,) if several else ()),
                _int8_latency(row, named=several),
            ]
            for row in shown
        ],
    )


def _costed(rows: Sequence[Row]) -> list[Row]:
    """Each network and input size once, but every converted one."""
    of_kind: dict[tuple[str, int, int], list[Row]] = {}
    for row in rows:
        of_kind.setdefault((row.network, row.parameters, row.size_px), []).append(row)
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
    return Table(
        "Converted",
        "Weighted F1 and flips (cells whose class differs from the float model's) on the test part, as measured at "
        "conversion. Latency of one image: p50 and p95 in milliseconds.",
        ("network", "engine", "precision", "file", "weighted F1", "flips", "p50", "p95", "measured"),
        [
            [
                name,
                Cell(ENGINES[c.engine]),
                Cell(c.precision),
                Cell(f"{c.size_bytes / 1e6:.1f} MB"),
                Cell(f"{100 * c.weighted_f1:.1f}"),
                Cell(f"{100 * c.flip_rate:.1f} %"),
                Cell(milliseconds(c.latency_ms.p50) if c.latency_ms else DASH),
                Cell(milliseconds(c.latency_ms.p95) if c.latency_ms else DASH),
                Cell("now" if c.measured_now else "at conversion", (c.machine,)),
            ]
            for name, row in zip(names(rows), rows, strict=True)
            for c in row.converted
        ],
    )


def folds_table(row: Row) -> Table:
    """Each fold, their mean, and all their cells pooled."""
    assert row.folds is not None
    pooled = row.pooled or {}
    lines = [
        [Cell(f"fold {number}"), *(Cell(formatted(Estimate(value=fold[f]), f)) for f in FIGURES)]
        for number, fold in zip(row.folds, row.by_fold, strict=True)
    ]
    lines.append([Cell("mean"), *(Cell(formatted(row.figures[f], f)) for f in FIGURES)])
    lines.append([Cell("pooled"), *(Cell(formatted(e, f), (_range(e, f),)) for f, e in pooled.items())])
    return Table(
        f"Folds of {row.name}, {row.split_label}, recipe {row.recipe}",
        "Pooled: every cell with the answer of the fold that held it out; 95 % intervals over subjects where the runs "
        "kept their predictions. Per cent, but AUC and ECE.",
        ("", *FIGURES.values()),
        lines,
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
