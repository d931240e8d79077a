"""Splits by group (honest) or by image (leaky, as the paper did), and a run's parts again later."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.bundle.run_record import PartRecord, SplitRecord
from bloodedge.config import Strict
from bloodedge.data.dataset import CLASS_NAMES, CellFile, Dataset, digest, natural
from bloodedge.errors import UsageError

DRAWS = 4000
"""Random assignments of groups tried; the one nearest the wanted shares in both classes is kept."""


class SplitSpec(Strict):
    """How cells are divided, apart from the seed."""

    kind: Literal["group", "image"] = "group"
    """group: no person in two parts; image: cells dealt one by one, leaky."""
    validation: float = Field(default=0.15, ge=0, lt=0.5)
    test: float = Field(default=0.15, gt=0, lt=0.5)
    """Shares of the cells; the rest trains. Without a validation share there is no such part (group), or the test part
    validates too (image)."""
    shift_subjects: tuple[str, ...] = ()
    """A part of their own, with every subject of their groups; absent subjects are ignored."""
    known_people: bool = True
    """Whether subjects of C-NMC who are one person are one group even where no picture here shows it."""

    def grouped(self, dataset: Dataset) -> Dataset:
        """``dataset`` with its subjects grouped as this says."""
        return dataset if self.known_people else dataset.by_pictures_alone()


Parts = dict[str, list[CellFile]]


@dataclass(frozen=True)
class Fold:
    """Fold ``number`` (from 0) of ``count`` as the test part."""

    count: int
    number: int


def split(dataset: Dataset, spec: SplitSpec, *, seed: int, fold: Fold | None = None) -> tuple[Parts, SplitRecord]:
    """Divide ``dataset.unique`` into train, validation, test and, if the spec names subjects for it, shift.

    With a ``fold``, groups (or images) are dealt into that many folds and the named one is the test part.
    Raises UsageError when a class, or enough subjects for an honest split, are missing.
    """
    dataset = spec.grouped(dataset)
    cells = dataset.unique
    _check_classes(dataset, cells)
    by_group = spec.kind == "group"
    shifted = {dataset.groups[s] for s in spec.shift_subjects if s in dataset.groups}
    aside = [c for c in cells if dataset.group(c) in shifted]
    rest = [c for c in cells if dataset.group(c) not in shifted]
    parts = _split_groups(dataset, rest, spec, seed, fold) if by_group else _split_images(rest, spec, seed, fold)
    if aside:
        parts["shift"] = aside
    record = SplitRecord(
        kind=spec.kind,
        seed=seed,
        folds=fold.count if fold else None,
        fold=fold.number if fold else None,
        parts={name: _part_record(dataset, part) for name, part in parts.items()},
    )
    return parts, record


def everybody(dataset: Dataset, *, seed: int) -> tuple[Parts, SplitRecord]:
    """All of ``dataset.unique`` as the train part; raises UsageError when a class or a cell's subject is missing."""
    cells = dataset.unique
    _check_classes(dataset, cells)
    _check_named(cells)
    parts = {"train": cells}
    return parts, SplitRecord(kind="group", seed=seed, parts={"train": _part_record(dataset, cells)})


def recall(dataset: Dataset, record: SplitRecord, spec: SplitSpec) -> Parts:
    """A run's parts again; raises UsageError when ``dataset`` is not the data that the run was split on.

    Subjects stay in the part that they were in, even if they are known today to be a person of another part.
    """
    if record.kind == "group":
        owner = {subject: name for name, part in record.parts.items() for subject in part.subjects}
        parts: Parts = {name: [] for name in record.parts}
        for cell in dataset.unique:
            if cell.subject in owner:
                parts[owner[cell.subject]].append(cell)
    else:
        fold = None if record.folds is None or record.fold is None else Fold(record.folds, record.fold)
        parts, _ = split(dataset, spec.model_copy(update={"kind": "image"}), seed=record.seed, fold=fold)
    for name, part in record.parts.items():
        if name not in parts or digest(c.name for c in parts[name]) != part.digest:
            raise UsageError(
                f"{dataset.root} is not the data this run was fitted to (its {name} part differs); "
                "give the folder that was used for training."
            )
    return {name: parts[name] for name in record.parts}


def _part_record(dataset: Dataset, cells: list[CellFile]) -> PartRecord:
    return PartRecord(
        cells=len(cells),
        groups=sorted({dataset.group(c) for c in cells if c.subject}, key=natural),
        subjects=sorted({c.subject for c in cells if c.subject}, key=natural),
        digest=digest(c.name for c in cells),
    )


def _check_classes(dataset: Dataset, cells: Sequence[CellFile]) -> None:
    present = {c.label for c in cells}
    for label, name in enumerate(CLASS_NAMES):
        if label not in present:
            raise UsageError(f"{dataset.root} holds no {name} cells; both classes (all/ and hem/) are needed to train.")


def _check_named(cells: Sequence[CellFile]) -> None:
    unnamed = next((c for c in cells if not c.subject), None)
    if unnamed:
        raise UsageError(
            f"{unnamed.name} has no subject in its name, so no honest split is possible; name files "
            "UID_<subject>_<image>_<cell>_<all|hem>, or accept leaky figures with --split image."
        )


def _split_groups(dataset: Dataset, cells: list[CellFile], spec: SplitSpec, seed: int, fold: Fold | None) -> Parts:
    _check_named(cells)
    groups = sorted({dataset.group(c) for c in cells}, key=natural)
    counts = np.zeros((len(groups), 2))
    for cell in cells:
        counts[groups.index(dataset.group(cell)), cell.label] += 1
    rng = np.random.default_rng(seed)
    names = ("train", "validation", "test") if spec.validation else ("train", "test")
    others = [1 - spec.validation, spec.validation] if spec.validation else [1.0]
    if fold is None:
        owner = deal(counts, np.array([others[0] - spec.test, *others[1:], spec.test]), rng)
    else:
        dealt = deal(counts, np.full(fold.count, 1 / fold.count), rng)
        rest = dealt != fold.number
        owner = np.full(len(groups), len(others))
        owner[rest] = deal(counts[rest], np.array(others), rng)
    part_of = dict(zip(groups, owner, strict=True))
    return {name: [c for c in cells if part_of[dataset.group(c)] == number] for number, name in enumerate(names)}


Drawn = NDArray[np.int64]
"""(groups,): a part for each group."""


def deal(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> Drawn:
    """A part for each group, so that each class's cells are divided by ``shares``.

    counts: (groups, 2) cells by class. Raises UsageError unless every part can hold a group of each class.
    """
    needed = len(shares)
    for label, name in enumerate(CLASS_NAMES):
        have = int((counts[:, label] > 0).sum())
        if have < needed:
            raise UsageError(
                f"Only {have} independent group{'s' if have != 1 else ''} of subjects with {name} cells, but {needed} "
                "are needed so that every part of the split has one; add subjects, or accept leaky figures with "
                "--split image."
            )
    best = _nearest(counts, shares, (_drawn(counts, shares, rng) for _ in range(DRAWS)))
    if best is None:  # with as many parts as groups, chance hardly ever gives each part one of each class
        best = _nearest(counts, shares, (_dealt(counts, shares, rng) for _ in range(DRAWS)))
    if best is None:
        raise UsageError("No split gives every part both classes; use fewer folds or add subjects.")
    return best


def _nearest(counts: NDArray[np.float64], shares: NDArray[np.float64], tried: Iterable[Drawn]) -> Drawn | None:
    """The assignment nearest to ``shares`` of those that give every part both classes; None if there is none."""
    totals = counts.sum(axis=0)
    best: tuple[float, Drawn] | None = None
    for owner in tried:
        parts = np.stack([counts[owner == part].sum(axis=0) for part in range(len(shares))])
        groups = np.stack([(counts[owner == part] > 0).sum(axis=0) for part in range(len(shares))])
        if (groups == 0).any():
            continue
        # Figures over one or two people mean little: each group short of three weighs as much as 30 % misfit.
        misfit = np.abs(parts / totals - shares[:, None]).sum() + 0.3 * np.maximum(0, 3 - groups).sum()
        if best is None or misfit < best[0]:
            best = float(misfit), owner
    return best[1] if best else None


def _drawn(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> Drawn:
    return rng.choice(len(shares), size=len(counts), p=shares)


def _dealt(counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator) -> Drawn:
    """Drawn, but one group of each class is dealt to each part."""
    owner = _drawn(counts, shares, rng)
    for label in range(len(CLASS_NAMES)):
        members = rng.permutation(np.flatnonzero(counts[:, label] > 0))
        owner[members[: len(shares)]] = np.arange(len(shares))
    return owner


def _split_images(cells: list[CellFile], spec: SplitSpec, seed: int, fold: Fold | None) -> Parts:
    """Each class shuffled and cut: cells of one subject end up in several parts."""
    rng = np.random.default_rng(seed)
    parts: Parts = {"train": [], "validation": [], "test": []}
    for label in (0, 1):
        of_class = [c for c in cells if c.label == label]
        order = [of_class[i] for i in rng.permutation(len(of_class))]
        test = order[: round(spec.test * len(order))] if fold is None else order[fold.number :: fold.count]
        held = {c.name for c in test}
        left = [c for c in order if c.name not in held]
        cut = round(spec.validation * len(order))
        parts["test"] += test
        parts["validation"] += left[:cut]
        parts["train"] += left[cut:]
    if not spec.validation:
        parts["validation"] = parts["test"]
    if any(len({c.label for c in part}) < 2 for part in parts.values()):
        raise UsageError("There are too few cells for every part of the split to hold both classes; add images.")
    return {name: sorted(part, key=lambda c: c.name) for name, part in parts.items()}
