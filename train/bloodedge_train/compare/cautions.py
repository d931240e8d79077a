"""Sentences that say where compared figures are not like for like."""

from collections.abc import Sequence

from bloodedge.bundle.evaluation_record import never_called
from bloodedge_train.compare.collect import Entry, PartName
from bloodedge_train.compare.rows import Row


def cautions(
    entries: Sequence[Entry], groups: Sequence[Sequence[Entry]], rows: Sequence[Row], part: PartName
) -> list[str]:
    """All of them; groups: the entries by row."""
    return [
        *_other_data(entries),
        *_other_cells(groups, part),
        *_incomplete(groups),
        *_fitted_to(entries, part),
        *_one_class(rows),
    ]


def _fitted_to(entries: Sequence[Entry], part: PartName) -> list[str]:
    """Where figures may be of pictures that a network was fitted to."""
    found = []
    if part == "validation":
        found.append("The validation part chose each network's epoch and temperature, so its figures flatter.")
    unchecked = [entry.name for entry in entries if not entry.copies_left_out and not entry.split.leaky]
    if unchecked:
        found.append(
            f"The held-out pictures of {_few(unchecked)}, made by an older bloodedge, were not checked for copies of "
            "training pictures; train again to leave copies out."
        )
    return found


def _other_data(entries: Sequence[Entry]) -> list[str]:
    by_data: dict[str, list[str]] = {}
    for entry in entries:
        by_data.setdefault(entry.fingerprint, []).append(entry.name)
    if len(by_data) < 2:
        return []
    listed = "; ".join(f"{_few(names)} on {data[:8]}" for data, names in by_data.items())
    words = (
        "These runs were fitted to different data, so their figures are not like for like, and none is called the best"
    )
    return [f"{words}: {listed}."]


def _other_cells(groups: Sequence[Sequence[Entry]], part: PartName) -> list[str]:
    """A sentence for each kind of split whose rows were scored on different cells of the same data."""
    scored: dict[tuple[str, str], set[frozenset[str]]] = {}
    for group in groups:
        cells = frozenset(entry.cells_digest for entry in group if entry.cells_digest)
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
