"""What a data set holds, and the faults that would make figures too good to be true."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from bloodedge.data.cut import NO_SCALE, suggested_scale
from bloodedge.data.dataset import CLASS_NAMES, Dataset, natural
from bloodedge.data.perceptual_hash import LIKE_SHARE, alike_pairs, hash_rows
from bloodedge.data.scales import diameter_um, scale_cautions, scales_of
from bloodedge.imaging import read_image
from bloodedge.metrics import auc
from bloodedge.text import as_path


@dataclass(frozen=True)
class SubjectCount:
    """One subject's cells."""

    subject: str
    group: str
    folds: list[str]
    cells: int
    all: int
    hem: int
    median_area_px: float


@dataclass(frozen=True)
class DuplicateSet:
    """Files that hold one and the same picture."""

    files: list[str]
    subjects: list[str]
    folds: list[str]
    bytes_identical: bool
    """False when only the decoded pixels are equal."""


@dataclass(frozen=True)
class NearDuplicates:
    """Pictures of two groups that seem to show the same cells; see ``bloodedge.data.perceptual_hash``."""

    groups: tuple[str, str]
    files: list[tuple[str, str]]
    """Pairs, one file of each group."""
    by_chance: bool
    """Whether so few pairs (at most LIKE_SHARE of the smaller group's cells, or one) may be two people's."""


@dataclass(frozen=True)
class Audit:
    """Counts, faults and shortcuts of a data set."""

    cells: int
    unique_cells: int
    classes: dict[str, int]
    folds: dict[str, dict[str, int]]
    subjects: list[SubjectCount]
    groups: dict[str, list[str]]
    """Group to its subjects; a split is honest only over groups."""
    same_person: list[list[str]]
    """Subjects in one group because they are one person in C-NMC, whatever pictures they share here."""
    duplicates: list[DuplicateSet]
    across_subjects: int
    """Sets of duplicates under more than one subject."""
    across_folds: int
    across_classes: int
    near_duplicates: list[NearDuplicates]
    """Those with most pairs first."""
    unreadable: dict[str, str]
    without_subject: int
    """Cells without a subject in their file name."""
    area_auc: float | None
    """AUC of cell area alone, blasts larger; 0.5 is no signal."""
    brightness_auc: float | None
    """AUC of mean brightness alone, blasts brighter."""
    rendered: bool
    fingerprint: str
    read_with: str
    """The options that read the data so; empty for C-NMC's layout."""
    passed_over: dict[str, int]
    """Pictures of no class, by where they are."""
    cut_by_finder: int
    """Cells that the finder cut out of their surroundings."""
    scales: dict[str, int]
    """Cells by micrometres per pixel."""
    median_diameter_um: float
    cautions: list[str]
    """Signs of a wrong scale, in sentences."""


def audit(dataset: Dataset) -> Audit:
    """The audit of a data set."""
    cells, unique = dataset.cells, dataset.unique
    duplicates = [
        DuplicateSet(
            files=[c.name for c in same],
            subjects=sorted({c.subject for c in same}, key=natural),
            folds=sorted({c.fold for c in same}),
            bytes_identical=len({c.bytes_digest for c in same}) == 1,
        )
        for same in dataset.duplicates
    ]
    labels = [c.label for c in unique]
    return Audit(
        cells=len(cells),
        unique_cells=len(unique),
        classes=_classes(c.label for c in cells),
        folds={f: _classes(c.label for c in cells if c.fold == f) for f in sorted({c.fold for c in cells} - {""})},
        subjects=_subjects(dataset),
        groups=_groups(dataset),
        same_person=[list(names) for names in dataset.same_person],
        duplicates=duplicates,
        across_subjects=sum(len(d.subjects) > 1 for d in duplicates),
        across_folds=sum(len(d.folds) > 1 for d in duplicates),
        across_classes=sum(len({c.label for c in same}) > 1 for same in dataset.duplicates),
        near_duplicates=_near_duplicates(dataset),
        unreadable=dataset.unreadable,
        without_subject=sum(not c.subject for c in cells),
        area_auc=auc(labels, [c.area_px for c in unique]),
        brightness_auc=auc(labels, [c.brightness for c in unique]),
        rendered=dataset.rendered,
        fingerprint=dataset.fingerprint,
        read_with=dataset.layout.options(),
        passed_over=dataset.passed_over,
        cut_by_finder=sum(bool(c.cut) for c in cells),
        scales=scales_of(dataset),
        median_diameter_um=median(map(diameter_um, cells)),
        cautions=[*scale_cautions(dataset), *_without_scale(dataset)],
    )


def _without_scale(dataset: Dataset) -> list[str]:
    """A sentence on pictures that are left out for want of a scale."""
    names = [name for name, reason in dataset.unreadable.items() if reason == NO_SCALE and "#" not in name]
    if not names:
        return []
    suggested = suggested_scale(read_image(dataset.root / as_path(name)) for name in names)
    return [f"{len(names)} pictures show a cell with its surroundings and need --um-per-px X{suggested}"]


def _near_duplicates(dataset: Dataset) -> list[NearDuplicates]:
    cells = [cell for cell in dataset.unique if cell.subject]
    looks = hash_rows(cell.look for cell in cells)
    sizes = Counter(dataset.group(cell) for cell in cells)
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for one, other in alike_pairs(looks, looks):
        first, second = sorted((cells[one], cells[other]), key=lambda cell: natural(dataset.group(cell)))
        if one < other and dataset.group(first) != dataset.group(second):
            pairs[dataset.group(first), dataset.group(second)].append((first.name, second.name))
    found = [
        NearDuplicates(groups, files, len(files) <= max(1, LIKE_SHARE * min(sizes[group] for group in groups)))
        for groups, files in pairs.items()
    ]
    return sorted(found, key=lambda near: -len(near.files))


def _classes(labels: Iterable[int]) -> dict[str, int]:
    counts = Counter(labels)
    return {name: counts[label] for label, name in reversed(list(enumerate(CLASS_NAMES)))}


def _subjects(dataset: Dataset) -> list[SubjectCount]:
    rows = []
    for subject in sorted(dataset.groups, key=natural):
        own = [c for c in dataset.cells if c.subject == subject]
        counts = _classes(c.label for c in own)
        rows.append(
            SubjectCount(
                subject=subject,
                group=dataset.groups[subject],
                folds=sorted({c.fold for c in own if c.fold}),
                cells=len(own),
                all=counts["all"],
                hem=counts["hem"],
                median_area_px=median(c.area_px for c in own),
            )
        )
    return rows


def _groups(dataset: Dataset) -> dict[str, list[str]]:
    names = sorted(set(dataset.groups.values()), key=natural)
    return {name: sorted((s for s, g in dataset.groups.items() if g == name), key=natural) for name in names}
