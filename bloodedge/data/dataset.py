"""Reading folders of single cells: their subjects, duplicates, and the groups that a split must keep together.

The usual layout is C-NMC 2019's (doi:10.7937/tcia.2019.dc64i46r), with or without the fold folders:
``fold_*/{all,hem}/UID_<subject>_<image>_<cell>_<label>``; names are compared without case. ``all`` is a blast, ``hem``
a normal cell. A ``DataLayout`` says how other data are laid out.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.run_record import DataRecord
from bloodedge.console import Progress
from bloodedge.data.cut import NO_SCALE, suggested_scale
from bloodedge.data.known_people import known_people
from bloodedge.data.listing import list_pictures
from bloodedge.data.pictures import Picture, PictureStore, Source, in_threads, read_pictures
from bloodedge.errors import UsageError
from bloodedge.imaging import CNMC_UM_PER_PX, Cell, Image, ImagingSpec, cell_on_black, network_input
from bloodedge.text import as_text

UNNAMED = "unnamed"
"""Subject of cells whose subject is not known."""
MOST_UNREADABLE = 0.1

CLASS_NAMES = ("hem", "all")
RENDERED_MARK = "RENDERED.txt"
CNMC_LAYOUT = DataLayout()
T = TypeVar("T")


@dataclass(frozen=True)
class CellFile(Picture):
    """One readable image of a cell."""

    name: str
    """Path inside the data folder, with forward slashes."""
    path: Path
    label: int
    """0 normal (hem), 1 blast (all)."""
    subject: str
    """Upper case; empty if the file's name has none."""
    fold: str
    """Lower case; empty where there are no folds."""
    page: int | None = None
    """From 0, of a TIFF file of several pictures; None for other files."""
    um_per_px: float = CNMC_UM_PER_PX
    scale_known: bool = False
    """False where nothing says it and C-NMC's is assumed."""

    def read(self) -> Cell:
        """The cell itself; raises BloodedgeError when its file can no longer be read."""
        image = Source(self.path, self.page).image()
        return self.cut.cell(image, self.um_per_px) if self.cut else cell_on_black(image, self.um_per_px)

    @property
    def input_digest(self) -> str:
        """Names what a network sees of it: its pixels, with its mask, light and scale where these are not the usual."""
        if not self.cut and self.um_per_px == CNMC_UM_PER_PX:
            return self.pixels_digest
        mask, light = self.cut or (b"", None)
        return hashlib.sha256(f"{self.pixels_digest} {self.um_per_px!r} {light} ".encode() + mask).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """What a folder holds."""

    root: Path
    cells: tuple[CellFile, ...]
    """Readable cells in name order, duplicates included."""
    unreadable: dict[str, str]
    """Name to the sentence that explains the fault."""
    rendered: bool
    groups: dict[str, str] = field(default_factory=dict)
    """Subject to its group: the merged subjects' names joined by "+"."""
    same_person: tuple[tuple[str, ...], ...] = ()
    """Subjects merged because they are one person in C-NMC, whatever pictures they share here."""
    layout: DataLayout = CNMC_LAYOUT
    """How class, person and scale were told."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Pictures of no class, by where they are."""

    @property
    def record(self) -> DataRecord:
        """As a run keeps it."""
        return DataRecord(
            root=str(self.root.resolve()),
            fingerprint=self.fingerprint,
            cells=len(self.unique),
            subjects=len(self.groups),
            rendered=self.rendered,
            layout=self.layout,
        )

    def group(self, cell: CellFile) -> str:
        """The group that a cell belongs to; its own name where the subject is unknown."""
        return self.groups[cell.subject] if cell.subject else cell.name

    def by_pictures_alone(self) -> "Dataset":
        """The same with subjects merged for identical pictures alone, not for being one person in C-NMC."""
        return replace(self, groups=merge_subjects(self.cells), same_person=())

    @property
    def duplicates(self) -> list[list[CellFile]]:
        """Sets of two or more cells with identical pixels."""
        return [cells for cells in _by(self.cells, lambda c: c.pixels_digest).values() if len(cells) > 1]

    @property
    def unique(self) -> list[CellFile]:
        """Each picture once, under its first name, without pictures that occur under both classes."""
        pictures = _by(self.cells, lambda c: c.pixels_digest).values()
        return sorted((same[0] for same in pictures if len({c.label for c in same}) == 1), key=lambda c: c.name)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every cell's name and content, and its class and scale where the layout says them."""
        if not self.layout.says_labels:
            return digest(f"{c.name} {c.bytes_digest}" for c in self.cells)
        return digest(f"{c.name} {c.bytes_digest} {c.label} {c.um_per_px!r}" for c in self.cells)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 over sorted lines."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def owners(cells: Iterable[CellFile]) -> list[str]:
    """Each cell's subject, or UNNAMED."""
    return [cell.subject or UNNAMED for cell in cells]


def check_readable(dataset: Dataset, *, allow: bool) -> None:
    """Raise UsageError when more than a tenth of the pictures cannot be used, unless that is allowed."""
    total = len(dataset.cells) + len(dataset.unreadable)
    if allow or len(dataset.unreadable) <= MOST_UNREADABLE * total:
        return
    first, reason = next(iter(dataset.unreadable.items()))
    raise UsageError(
        f"{len(dataset.unreadable)} of the {total} pictures under {dataset.root} cannot be used; the first, {first}: "
        f"{reason} Repair or remove them, or use the others with --allow-unreadable."
    )


def read_dataset(
    root: Path,
    progress: Progress | None = None,
    layout: DataLayout = CNMC_LAYOUT,
    store: PictureStore | None = None,
) -> Dataset:
    """Read and check every picture under ``root`` that the layout gives a class.

    store: has what an earlier run read, and keeps it for the next. Raises UsageError when there is none that can be
    used, or folder and layout do not fit each other.
    """
    listing = list_pictures(root, layout)
    unreadable = dict(listing.unusable)
    sources = [Source(one.path, one.page, one.um_per_px) for one in listing.pictures]
    cells = []
    for listed, source, picture in zip(
        listing.pictures, sources, read_pictures(root, sources, store, progress), strict=True
    ):
        if isinstance(picture, str):
            unreadable[listed.name] = as_text(picture)
        else:
            own = {**vars(listed), "um_per_px": source.scale, "scale_known": source.um_per_px is not None}
            cells.append(CellFile(**vars(picture), **own))
    if not cells:
        raise UsageError(_nothing_usable(root, unreadable, sources))
    cells.sort(key=lambda c: c.name)
    rendered = (root / RENDERED_MARK).is_file()
    same = () if rendered else tuple(known_people(cells))
    groups = merge_subjects(cells, same)
    return Dataset(
        root,
        tuple(cells),
        dict(sorted(unreadable.items())),
        rendered,
        groups,
        same,
        layout=listing.layout,
        passed_over=listing.passed_over,
    )


def _nothing_usable(root: Path, unreadable: dict[str, str], sources: Sequence[Source]) -> str:
    name, reason = next(iter(unreadable.items()))
    sentence = f"None of the {len(unreadable)} images under {root} can be used; the first, {name}: {reason}"
    return sentence + (suggested_scale(source.image() for source in sources) if reason == NO_SCALE else "")


def merge_subjects(cells: Sequence[CellFile], same_person: Iterable[Sequence[str]] = ()) -> dict[str, str]:
    """Subject to group: subjects linked by an identical picture, or by ``same_person``, are one group."""
    parent = {c.subject: c.subject for c in cells if c.subject}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            subject = parent[subject]
        return subject

    linked = [sorted({c.subject for c in same if c.subject}) for same in _by(cells, lambda c: c.pixels_digest).values()]
    for subjects in [*linked, *same_person]:
        for other in subjects[1:]:
            parent[root(other)] = root(subjects[0])
    members = _by(parent, root)
    names = {head: "+".join(sorted(subjects, key=natural)) for head, subjects in members.items()}
    return {subject: names[root(subject)] for subject in parent}


def natural(name: str) -> tuple[str, int, str]:
    """Sort key that puts H2 before H10 and numbers in order."""
    match = re.fullmatch(r"(\D*)(\d*)(.*)", name)
    assert match is not None
    return match[1], int(match[2] or 0), match[3]


def _by(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    grouped: dict[str, list[T]] = defaultdict(list)
    for item in items:
        grouped[key(item)].append(item)
    return grouped


def read_input(cell: CellFile, spec: ImagingSpec) -> Image:
    """One cell as network input uint8 ``spec.input_shape``, RGB."""
    return network_input(cell.read(), spec)


def inputs(cells: Sequence[CellFile], spec: ImagingSpec, progress: Progress | None = None) -> NDArray[np.uint8]:
    """Network inputs uint8 (N, *spec.input_shape), RGB, decoded on all cores."""
    if not cells:
        return np.empty((0, *spec.input_shape), np.uint8)
    return np.stack(in_threads(lambda cell: read_input(cell, spec), cells, progress))
