"""Accuracy against the cost of a network."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bloodedge_train.compare.rows import Row
from bloodedge_train.compare.theme import Theme

Point = tuple[Row, float, float]
"""A row, its cost and its accuracy."""


def _int8_latency(row: Row) -> float | None:
    return min((c.latency_ms.p50 for c in row.converted if c.precision == "int8" and c.latency_ms), default=None)


COSTS: dict[str, Callable[[Row], float | None]] = {
    "parameters (millions)": lambda row: row.parameters / 1e6,
    "multiply-accumulates (billions)": lambda row: row.macs / 1e9 if row.macs else None,
    "int8 latency (ms, fastest engine, p50)": _int8_latency,
}


def splits(rows: Sequence[Row]) -> list[str]:
    """The splits that the rows have, the paper's first."""
    return [split for split in ("image", "group") if any(row.split == split for row in rows)]


def draw_costs(figure: Any, theme: Theme, rows: Sequence[Row]) -> None:
    """Accuracy over parameters, multiply-accumulates and int8 latency; a line of panels for each split."""
    known = {name: cost for name, cost in COSTS.items() if any(cost(row) for row in rows)}
    lines = splits(rows)
    grid = figure.subplots(len(lines), len(known), sharex="col", sharey="row", squeeze=False)
    drawn = []
    for line, split in zip(grid, lines, strict=True):
        for axes, cost in zip(line, known.values(), strict=True):
            points = _points([row for row in rows if row.split == split], cost)
            _scatter(axes, theme.splits[split], points)
            drawn.append((axes, points))
        line[0].set(ylabel=f"accuracy by {split}" + (" (leaky)" if split == "image" else ""))
    for axes, name in zip(grid[-1], known, strict=True):
        axes.set(xlabel=name)
    figure.draw_without_rendering()  # only now each mark has its place on the page
    for axes, points in drawn:
        _name_marks(axes, points)


def _points(rows: Sequence[Row], cost: Callable[[Row], float | None]) -> list[Point]:
    found = []
    for row in rows:
        x, y = cost(row), row.figures["accuracy"].value
        if x is not None and y is not None:
            found.append((row, x, y))
    return found


def _scatter(axes: Any, colour: str, points: Sequence[Point]) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.2)
    axes.grid(linewidth=0.8)
    axes.plot([x for _, x, _ in points], [y for _, _, y in points], "o", color=colour, markersize=6.5)
    costs = [x for _, x, _ in points]
    narrow = not costs or max(costs) < 5 * min(costs)  # then few ticks are powers of ten
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if narrow and f"{value:g}"[0] in "25" else "")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _name_marks(axes: Any, points: Sequence[Point]) -> None:
    """Name each mark by its network (or run, if several), where the name covers no mark or other name."""
    px = axes.figure.dpi / 72  # pixels per point
    at = [axes.transData.transform((x, y)) for _, x, y in points]
    taken = [_box(x, y, 8 * px, 8 * px) for x, y in at]
    met = Counter(row.network for row, _, _ in points)
    for (row, cost, accuracy), (x, y) in zip(points, at, strict=True):
        name = row.label if met[row.network] > 1 else row.network
        width, height = 4.9 * len(name), 9
        beside = width / 2 + 6
        places = [(beside, 0), (-beside, 0), (0, 9), (0, -9), (beside, 9), (beside, -9), (-beside, 9), (-beside, -9)]
        boxes = [_box(x + right * px, y + up * px, width * px, height * px) for right, up in places]
        free = (n for n, box in enumerate(boxes) if not any(_overlap(box, other) for other in taken))
        best = next(free, 0)
        taken.append(boxes[best])
        axes.annotate(
            name,
            (cost, accuracy),
            places[best],
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
        )


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a box around a point."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
