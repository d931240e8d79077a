"""Which cells of a folder may be scored: those that the model was not fitted to."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from bloodedge.data.dataset import CellFile, Dataset
from bloodedge.data.fitted_pictures import FITTED_PARTS, SEEN_AS_ANOTHER
from bloodedge.data.perceptual_hash import LIKE_SHARE
from bloodedge.data.split import recall
from bloodedge.errors import UsageError
from bloodedge.evaluation.ensemble import Ensemble

PartName = Literal["auto", "train", "validation", "test", "shift", "all"]


class Chosen(NamedTuple):
    """The cells to score."""

    cells: list[CellFile]
    which: str
    """The cells, in words."""
    left_out: dict[str, str]
    """Name to reason of the readable pictures that are left out."""


def choose_cells(ensemble: Ensemble, dataset: Dataset, part: PartName) -> Chosen:
    """The cells to score.

    "auto": the test part if ``dataset`` is the data of all runs and they were split alike; else every cell of subjects
    that no run has seen in training or validation. Copies of training pictures and other names of training people are
    left out.
    Raises UsageError when nothing remains or the runs have no such part.
    """
    dataset = _grouped(ensemble, dataset)
    if part == "all":
        return Chosen(dataset.unique, "every cell, those seen in training included", _repeated(dataset))
    same_data = all(member.fingerprint == dataset.fingerprint for member in ensemble.members)
    if part == "auto" and not (same_data and ensemble.split_alike):
        return _never_seen(ensemble, dataset)
    if not same_data:
        raise UsageError(
            f"{dataset.root} is not the data this run was fitted to (its files differ), so it has no {part} part; "
            "give the folder that was used for training, or leave out --part."
        )
    if not ensemble.split_alike:
        raise UsageError(
            f"The runs were split differently, so they have no {part} part in common; leave out --part to score the "
            "subjects that none of them has seen."
        )
    name = "test" if part == "auto" else part
    first = ensemble.members[0]
    parts = recall(dataset, first.split, first.split_spec)
    if list(parts) == ["train"] and name != "train":
        raise UsageError(
            f"The model was fitted to everybody in {dataset.root}, so none of them can judge it: give people that it"
            " never saw. Its card has figures of each person by a network that was not fitted to them."
        )
    if name not in parts:
        raise UsageError(f"This run has no {name} part; it has: {', '.join(parts)}.")
    cells = parts[name]
    seen = {} if first.split.leaky or name in FITTED_PARTS else _seen_as_others(ensemble, dataset, cells)
    return Chosen([c for c in cells if c.name not in seen], f"the {name} part", seen)


def _grouped(ensemble: Ensemble, dataset: Dataset) -> Dataset:
    """``dataset`` with its subjects grouped as when the runs were split."""
    by_pictures = next((m for m in ensemble.members if not m.split_spec.known_people), None)
    return by_pictures.split_spec.grouped(dataset) if by_pictures else dataset


def _seen_as_others(ensemble: Ensemble, dataset: Dataset, cells: Sequence[CellFile]) -> dict[str, str]:
    """Held-out cells of people, and pictures of cells, that are in the fitted parts too, with the reason."""
    people = _groups_seen(ensemble, dataset, FITTED_PARTS)
    return {c.name: SEEN_AS_ANOTHER for c in cells if dataset.group(c) in people} | _copies(ensemble, cells)


SAME = "the same picture was used in training, whatever it is called here"
LIKE = "it shows the same cell as a picture used in training"


def _never_seen(ensemble: Ensemble, dataset: Dataset) -> Chosen:
    """Cells of groups, and unnamed cells, that are in no member's training or validation part."""
    cells = dataset.unique
    left_out = _repeated(dataset) | _copies(ensemble, cells)
    seen = _groups_seen(ensemble, dataset, FITTED_PARTS)
    seen |= _groups_of_copies(dataset, cells, left_out)
    names = set()
    if not all(c.subject for c in cells):
        for member in ensemble.members:
            if member.fingerprint == dataset.fingerprint:
                parts = recall(dataset, member.split, member.split_spec)
                names |= {c.name for part in FITTED_PARTS for c in parts.get(part, ())}
    for cell in cells:
        if cell.name in names:
            left_out[cell.name] = SAME
        elif dataset.group(cell) in seen:
            left_out.setdefault(cell.name, f"subject {cell.subject} was seen in training")
    kept = [c for c in cells if c.name not in left_out]
    if not kept:
        by = "this run" if len(ensemble.members) == 1 else "one of these runs"
        copied = sum(reason in {SAME, LIKE} for reason in left_out.values())
        raise UsageError(
            f"Every subject in {dataset.root} was seen in training by {by} ({copied} of {len(cells)} pictures are "
            "training pictures); give other data, or score them with --part all."
        )
    return Chosen(kept, "cells of subjects not seen in training", left_out)


def _repeated(dataset: Dataset) -> dict[str, str]:
    """Name to reason of readable files that repeat another's picture."""
    kept = {cell.pixels_digest: cell.name for cell in dataset.unique}
    reasons = {}
    for cell in dataset.cells:
        first = kept.get(cell.pixels_digest)
        if first is None:
            reasons[cell.name] = "the same picture is in both classes"
        elif first != cell.name:
            reasons[cell.name] = f"it is the same picture as {first}"
    return reasons


def _copies(ensemble: Ensemble, cells: Sequence[CellFile]) -> dict[str, str]:
    """The cells whose pictures a member was fitted to, with the reason."""
    found: dict[str, str] = {}
    for member in ensemble.members:
        if member.fitted is not None:
            same, like = member.fitted.copies(cells)
            found = dict.fromkeys(like, LIKE) | found | dict.fromkeys(same, SAME)
    return found


def _groups_of_copies(dataset: Dataset, cells: Sequence[CellFile], reasons: dict[str, str]) -> set[str]:
    """Groups that hold a training picture, or so many cells like them that they are people seen in training."""
    total = Counter(dataset.group(c) for c in cells)
    like = Counter(dataset.group(c) for c in cells if reasons.get(c.name) == LIKE)
    same = {dataset.group(c) for c in cells if reasons.get(c.name) == SAME}
    return same | {group for group, count in like.items() if count > max(1, LIKE_SHARE * total[group])}


def _groups_seen(ensemble: Ensemble, dataset: Dataset, parts: Sequence[str]) -> set[str]:
    """Groups of ``dataset`` of which a member's parts hold a subject."""
    seen = {
        s for m in ensemble.members for name in parts if name in m.split.parts for s in m.split.parts[name].subjects
    }
    return {dataset.groups[subject] for subject in seen if subject in dataset.groups}


def leaky(ensemble: Ensemble, dataset: Dataset, cells: list[CellFile]) -> bool:
    """Whether a cell may be of a person that a member was fitted to."""
    dataset = _grouped(ensemble, dataset)
    if _copies(ensemble, cells):
        return True
    groups = _groups_seen(ensemble, dataset, ("train",))
    own = any(member.fingerprint == dataset.fingerprint for member in ensemble.members)
    return any(dataset.group(c) in groups if c.subject else own for c in cells)
