"""The paper's figures redrawn from our runs."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np

from bloodedge_train.compare.cost_chart import draw_costs, splits
from bloodedge_train.compare.rows import FIGURES, PAPER_FIGURES, Row
from bloodedge_train.compare.theme import Chart, Theme
from bloodedge_train.figures.confusion import paint_matrix


def all_charts(rows: Sequence[Row]) -> list[Chart]:
    """The charts that the rows give enough for."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    charts = [
        Chart(
            "figures.png",
            "Accuracy, precision, recall, F1",
            "Bars of accuracy, precision, recall and F1 for each network and split, the paper's beside ours.",
            (9.6, 1.1 + 0.3 * _height(rows)),
            lambda figure, theme: _bars(figure, theme, rows),
        ),
        Chart(
            "confusion.png",
            "Confusion matrices",
            "Confusion matrices of all networks side by side; folds are summed.",
            (max(4.5, 2.4 * columns), 2.75 * lines),
            lambda figure, theme: _confusions(figure, theme, rows, columns),
        ),
        Chart(
            "cost.png",
            "Accuracy against cost",
            "Accuracy against parameters, multiply-accumulates and int8 latency.",
            (9.6, 0.7 + 2.6 * len(splits(rows))),
            lambda figure, theme: draw_costs(figure, theme, rows),
        ),
    ]
    if any(row.histories for row in rows):
        trained = [row for row in rows if row.histories]
        charts.append(
            Chart(
                "curves.png",
                "Learning curves",
                "Training loss, validation loss and validation AUC by epoch for every network.",
                (9.6, 3.7),
                lambda figure, theme: _curves(figure, theme, trained),
            )
        )
    pairs = leak_pairs(rows)
    if pairs:
        charts.insert(
            1,
            Chart(
                "leak.png",
                "The leak: one network, two splits",
                "Each network by image and by group: its figures joined, and the accuracy of each test subject.",
                (9.6, 1.2 + 0.5 * len(pairs)),
                lambda figure, theme: _leaks(figure, theme, pairs),
            ),
        )
    return charts


def leak_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """(by image, by group) of each network that was fitted by one recipe to the same data both ways."""
    pairs: dict[str, tuple[Row, Row]] = {}
    for image in (row for row in rows if row.split == "image"):
        for group in (row for row in rows if row.split == "group"):
            fitted = [(row.network, row.fitted_as, row.data) for row in (image, group)]
            if fitted[0] == fitted[1]:
                pairs.setdefault(image.network, (image, group))
    return list(pairs.values())


def _label(row: Row, rows: Sequence[Row]) -> str:
    """What distinguishes a row from the other rows of its network; empty for the only one."""
    alike = [other for other in rows if other.network == row.network and other is not row]
    parts = []
    if any(other.split_label != row.split_label for other in alike):
        parts.append(row.split_label)
    if any(other.recipe != row.recipe for other in alike):
        parts.append(row.recipe)
    if any((o.split_label, o.recipe) == (row.split_label, row.recipe) for o in alike):
        parts.append(row.label)
    return ", ".join(parts)


def _curve_name(row: Row, rows: Sequence[Row]) -> str:
    """The network, with the run where it has several rows of one split: splits have lines of their own."""
    alike = [other for other in rows if (other.network, other.split) == (row.network, row.split)]
    return row.name if len(alike) > 1 else row.network


def _of_networks(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.network, []).append(row)
    return found


def _height(rows: Sequence[Row]) -> float:
    """Bars with a gap after each network, and one bar for the paper where it has figures."""
    return sum(len(alike) + bool(alike[0].paper) + 0.7 for alike in _of_networks(rows).values())


def _bars(figure: Any, theme: Theme, rows: Sequence[Row]) -> None:
    from matplotlib.patches import Patch

    panels = figure.subplots(1, len(PAPER_FIGURES), sharey=True)
    place, ticks = 0.0, []
    for network, alike in _of_networks(rows).items():
        bars = len(alike) + bool(alike[0].paper)
        ticks.append((place + (bars - 1) / 2, network))
        for axes, name in zip(panels, PAPER_FIGURES, strict=True):
            for number, row in enumerate(alike):
                note = _label(row, rows) if len(alike) > 1 and axes is panels[0] else ""
                _bar(axes, theme, place + number, row, name, note)
            _paper_bar(axes, theme, place + len(alike), alike[0], name)
        place += bars + 0.7
    for axes, name in zip(panels, PAPER_FIGURES, strict=True):
        axes.grid(axis="x", linewidth=0.8)
        axes.set(title=FIGURES[name], xlim=(0, 1.24), xticks=[0, 0.5, 1])
        axes.set_xticklabels(["0", "50", "100 %"])
        axes.tick_params(length=0)
    panels[0].set_yticks(*zip(*ticks, strict=True), fontweight="bold")
    panels[0].set_ylim(place - 0.9, -0.7)
    handles = [
        Patch(color=theme.splits[split], label=f"ours, by {split}" + (" (leaky)" if split == "image" else ""))
        for split in splits(rows)
    ]
    if any(row.paper for row in rows):
        handles.append(Patch(facecolor="none", edgecolor=theme.ink, label="the paper, by image (\u2265: at least)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)


def _bar(axes: Any, theme: Theme, place: float, row: Row, name: str, note: str) -> None:
    """Our figure with its range; inside the bar, what distinguishes it from the network's other rows."""
    ours = row.figures[name]
    if ours.value is None:
        return
    axes.barh(place, ours.value, height=0.8, color=theme.splits[row.split])
    axes.text(0.02, place, note, va="center", fontsize=7, color=theme.paper)
    end = ours.value
    if ours.low is not None and ours.high is not None:
        axes.plot([ours.low, ours.high], [place, place], color=theme.ink, linewidth=1, alpha=0.7)
        end = max(end, ours.high)
    axes.text(end + 0.02, place, f"{100 * ours.value:.1f}", va="center", fontsize=8)


def _paper_bar(axes: Any, theme: Theme, place: float, row: Row, name: str) -> None:
    theirs = row.paper.get(name)
    if theirs:
        axes.barh(place, theirs.paper, height=0.74, facecolor="none", edgecolor=theme.ink, linewidth=0.9)
        bound = "\u2265 " if theirs.at_least else ""
        axes.text(theirs.paper + 0.02, place, f"{bound}{100 * theirs.paper:.1f}", va="center", fontsize=8)


LEAK_FIGURES = ("accuracy", "f1", "auc")


def _leaks(figure: Any, theme: Theme, pairs: Sequence[tuple[Row, Row]]) -> None:
    from matplotlib.lines import Line2D

    widths = (*(1 for _ in LEAK_FIGURES), 1.8)
    *panels, people = figure.subplots(1, len(widths), sharey=True, width_ratios=widths)
    for axes, name in zip(panels, LEAK_FIGURES, strict=True):
        for place, pair in enumerate(pairs):
            _joined(axes, theme, place, pair, name)
        axes.set(title=FIGURES[name])
        axes.margins(x=0.3)
    for place, pair in enumerate(pairs):
        for row, shift in zip(pair, (-0.15, 0.15), strict=True):
            values = [score.accuracy for score in row.per_subject.values()]
            heights = np.full(len(values), place + shift)
            axes_style = {"color": theme.splits[row.split], "alpha": 0.75, "markersize": 4.5}
            people.plot(values, heights, "o", markeredgewidth=0, clip_on=False, **axes_style)
    people.axvline(0.5, color=theme.soft, linewidth=0.8, linestyle=":")
    people.set(title="accuracy of each test subject", xlim=(0, 1.01))
    for axes in (*panels, people):
        axes.grid(linewidth=0.8)
        axes.tick_params(length=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_yticks(range(len(pairs)), [image.network for image, _ in pairs], fontweight="bold")
    panels[0].set_ylim(len(pairs) - 0.5, -0.5)
    marks = [
        Line2D([], [], marker="o", linestyle="", color=theme.splits[row.split], label=row.split_label)
        for row in pairs[0]
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2)


def _joined(axes: Any, theme: Theme, place: int, pair: tuple[Row, Row], name: str) -> None:
    """Two marks and the points between them."""
    values = [value for row in pair if (value := row.figures[name].value) is not None]
    if len(values) < 2:
        return
    axes.plot(values, [place, place], color=theme.soft, linewidth=1.2, zorder=1)
    for row, value in zip(pair, values, strict=True):
        axes.plot(value, place, "o", color=theme.splits[row.split], markersize=7)
    points = f"{100 * (values[1] - values[0]):+.1f}".replace("-", "\u2212")
    axes.annotate(points, (sum(values) / 2, place), (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _confusions(figure: Any, theme: Theme, rows: Sequence[Row], columns: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("share", [theme.paper, theme.splits["group"]])
    lines = -(-len(rows) // columns)
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    for axes, row in zip(grid, rows, strict=False):
        paint_matrix(axes, row.confusion, colours, (theme.paper, theme.ink), fontsize=9)
        axes.set_title(f"{row.network}\n{_label(row, rows) or row.split_label}", fontsize=9)


def _curves(figure: Any, theme: Theme, rows: Sequence[Row]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    keys = {"loss": "training loss", "val_loss": "validation loss", "val_auc": "validation AUC"}
    panels = figure.subplots(1, len(keys))
    styles = {"image": (0, (4, 2)), "group": "-"}
    names = [_curve_name(row, rows) for row in rows]
    colours = dict(zip(dict.fromkeys(names), cycle(theme.networks)))  # colours go round
    for row, name in zip(rows, names, strict=True):
        thin = 0.8 if len(row.histories) > 1 else 1.6
        for history in row.histories:
            for axes, key in zip(panels, keys, strict=True):
                points = [(epoch["epoch"], epoch[key]) for epoch in history if key in epoch]
                if points:
                    look = {"color": colours[name], "linestyle": styles[row.split], "linewidth": thin}
                    axes.plot(*np.array(points).T, **look)
    for axes, title in zip(panels, keys.values(), strict=True):
        axes.grid(linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel="epoch")
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    handles += [Line2D([], [], color=theme.soft, linestyle=styles[s], label=f"by {s}") for s in splits(rows)]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize=8.5)
