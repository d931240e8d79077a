"""``bloodedge compare``: networks beside each other and beside the paper's, both splits, with what each costs.

``collect`` reads runs and bundles, ``rows`` gathers folds and adds the paper's figures (``paper``) and latencies
(``latency``), ``tables`` puts them into words, ``charts`` draws them, ``pages`` writes Markdown and HTML.
"""

from collections.abc import Sequence
from pathlib import Path

from bloodedge.bundle.evaluation_record import never_called
from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge_train.compare.collect import Entry, PartName, collect
from bloodedge_train.compare.latency import Measured, measure
from bloodedge_train.compare.paper import Paper, read_paper
from bloodedge_train.compare.rows import Row, gather, labelled, make_row


class Comparison(Strict):
    """``compare.json``."""

    part: PartName
    rows: list[Row]
    paper: Paper
    warnings: list[str]

    @property
    def paper_note(self) -> str:
        """What is known of the paper, and which of its networks have no run here."""
        networks = self.paper.networks
        given = {row.network for row in self.rows}
        known = [n.name for n in networks.values() if n.known]
        unknown = [n.name for n in networks.values() if not n.known]
        absent = [n.name for key, n in networks.items() if key not in given]
        told = [f'The paper: "{self.paper.title}" ({self.paper.data}; {self.paper.recipe}).']
        told.append(f"Its figures here: {', '.join(known) or 'none'}; source: {self.paper.source}.")
        if unknown:
            told.append(f"Not available here, so not compared: {', '.join(unknown)}.")
        if absent:
            told.append(f"Of its networks, without a run in this comparison: {', '.join(absent)}.")
        return " ".join(told)


def compare(paths: Sequence[Path], *, part: PartName = "test", paper: Path | None = None) -> Comparison:
    """The networks in run folders and bundles, in the paper's order and then as given; a split by image comes first.

    ``paper``: a completed copy of ``paper.toml``. Raises UsageError when a path is neither a finished run nor a bundle,
    or when no path has the part.
    """
    figures = read_paper(paper)
    entries, warnings = collect(paths, part)
    measured, failed = _measure([e.bundle for e in entries if e.bundle])
    groups = gather(entries)
    warnings += [*failed, *_other_data(entries), *_other_cells(groups, part), *_incomplete(groups)]
    warnings += _fitted_to(entries, part)
    rows = labelled([make_row(group, part, figures, measured) for group in groups], [group[0].path for group in groups])
    warnings += _one_class(rows)
    order = list(figures.networks)
    given = list(dict.fromkeys(row.network for row in rows))
    place = {
        network: (network not in order, (order if network in order else given).index(network)) for network in given
    }
    rows.sort(key=lambda row: (place[row.network], row.split != "image"))
    return Comparison(part=part, rows=rows, paper=figures, warnings=warnings)


def _measure(bundles: Sequence[Path]) -> tuple[dict[str, Measured], list[str]]:
    try:
        return measure(bundles), []
    except BloodedgeError as error:
        return {}, [f"Latencies are those stored at conversion: {error}"]


def _fitted_to(entries: Sequence[Entry], part: PartName) -> list[str]:
    """Where figures may be of pictures that a network was fitted to."""
    found = []
    if part == "validation":
        found.append("The validation part chose each network's epoch and temperature, so its figures flatter.")
    unchecked = [entry.name for entry in entries if not entry.copies_left_out and not entry.split.leaky]
    if unchecked:
        found.append(
            f"Of {_few(unchecked)}, made by an older bloodedge, nobody looked for training pictures under other names "
            "among the held-out ones; train again to leave them out."
        )
    return found


def _other_data(entries: Sequence[Entry]) -> list[str]:
    by_data: dict[str, list[str]] = {}
    for entry in entries:
        by_data.setdefault(entry.fingerprint, []).append(entry.name)
    if len(by_data) < 2:
        return []
    told = "; ".join(f"{_few(names)} on {data[:8]}" for data, names in by_data.items())
    words = (
        "These runs were fitted to different data, so their figures are not like for like, and none is called the best"
    )
    return [f"{words}: {told}."]


def _other_cells(groups: Sequence[Sequence[Entry]], part: PartName) -> list[str]:
    """A sentence for each kind of split whose rows speak of different cells of the same data."""
    scored: dict[tuple[str, str], set[frozenset[str]]] = {}
    for group in groups:
        cells = frozenset(entry.split.parts[part].digest for entry in group if part in entry.split.parts)
        scored.setdefault((group[0].fingerprint, group[0].split.kind), set()).add(cells)
    return [
        f"The networks split by {kind} were not all scored on the same {part} cells, so differences mean little, and "
        "none is called the best."
        for (_, kind), cells in scored.items()
        if len(cells) > 1
    ]


def _one_class(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.name} ({row.split_label}) calls no cell {label}, so it is worth nothing."
        for row in rows
        if (label := never_called(row.confusion)) is not None
    ]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _incomplete(groups: Sequence[Sequence[Entry]]) -> list[str]:
    return [
        f"Of {first.model}, recipe {first.recipe.get('name', 'custom')}, only "
        f"{len(group)} of {first.split.folds} folds were given; its figures are of those."
        for group in groups
        if (first := group[0]).split.folds and len(group) < first.split.folds
    ]
