"""Reading folders of single cells: their subjects, duplicates, and the groups that a split must keep together.

The layout is C-NMC 2019's (doi:10.7937/tcia.2019.dc64i46r): ``fold_*/{all,hem}/UID_<subject>_<image>_<cell>_<label>``,
with or without the fold folders; names are compared without case. ``all`` is a blast, ``hem`` a normal cell.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.known_people import known_people
from bloodedge.data.pictures import Picture, PictureStore, in_threads, read_pictures
from bloodedge.errors import UsageError
from bloodedge.imaging import CNMC_UM_PER_PX, Image, ImagingSpec, cell_on_black, network_input, read_image
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES, OTHER_SUFFIXES
from bloodedge.text import as_text

SubjectRule = Callable[[str], str]
"""From a cell's path inside the data folder to its subject, for names without one; empty: not known."""

UNNAMED = "unnamed"
"""Subject of cells whose subject is not known."""
ONE_PERSON = "ONE PERSON"
MOST_UNREADABLE = 0.1

CLASS_FOLDERS = {"hem": 0, "all": 1}
CLASS_NAMES = ("hem", "all")
RENDERED_MARK = "RENDERED.txt"
_NAME = re.compile(r"uid_(?P<subject>[^_]+)_(?P<image>[^_]+)_(?P<cell>[^_]+)_(?P<label>all|hem)", re.IGNORECASE)
_FOLD = re.compile(r"fold_\w+", re.IGNORECASE)

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
        """SHA-256 over every cell's name and content."""
        return digest(f"{c.name} {c.bytes_digest}" for c in self.cells)


def digest(lines: Iterable[str]) -> str:
    """SHA-256 over sorted lines."""
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def owners(cells: Iterable[CellFile]) -> list[str]:
    """Each cell's subject, or UNNAMED."""
    return [cell.subject or UNNAMED for cell in cells]


def subject_pattern(rule: str) -> SubjectRule:
    """A rule that takes the subject from the first group of a regular expression on a cell's path.

    Raises UsageError when it is no regular expression with a group.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UsageError(f'The subject rule "{rule}" is no regular expression ({error}).') from error
    if not pattern.groups:
        raise UsageError(f'The subject rule "{rule}" needs a group in brackets, such as "(patient[0-9]+)".')

    def subject(name: str) -> str:
        match = pattern.search(name)
        return (match[1] or "").upper() if match else ""

    return subject


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
    subject_rule: SubjectRule | None = None,
    store: PictureStore | None = None,
) -> Dataset:
    """Read and check every image under ``root``; store: has what an earlier run read, and keeps it for the next.

    Raises UsageError when the folder is missing or holds no ``all`` or ``hem`` folder with a readable image.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; give the folder that holds the all/ and hem/ (or fold_*/) folders.")
    paths = _image_paths(root)
    if not paths:
        raise UsageError(
            f"{root} holds no cell images; expected folders named all/ and hem/ (or fold_*/all, fold_*/hem) "
            f"with {', '.join(sorted(IMAGE_SUFFIXES))} files."
        )
    unreadable: dict[str, str] = {}
    cells = []
    for path, picture in zip(paths, read_pictures(root, paths, store, progress), strict=True):
        result = picture if isinstance(picture, str) else _named(root, path, picture, subject_rule)
        if isinstance(result, CellFile):
            cells.append(result)
        else:
            unreadable[as_text(path.relative_to(root).as_posix())] = as_text(result)
    if not cells:
        name, reason = next(iter(unreadable.items()))
        raise UsageError(f"None of the {len(paths)} images under {root} can be used; the first, {name}: {reason}")
    cells.sort(key=lambda c: c.name)
    rendered = (root / RENDERED_MARK).is_file()
    same = () if rendered else tuple(known_people(cells))
    groups = merge_subjects(cells, same)
    return Dataset(root, tuple(cells), dict(sorted(unreadable.items())), rendered, groups, same)


def _image_paths(root: Path) -> list[Path]:
    found, suffixes = [], IMAGE_SUFFIXES | OTHER_SUFFIXES
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link back up
            below.clear()
            continue
        seen.add(place)
        if Path(folder).name.lower() in CLASS_FOLDERS:
            found += [Path(folder) / n for n in names if Path(n).suffix.lower() in suffixes and n[0] != "."]
    return sorted(found)


def _named(root: Path, path: Path, picture: Picture, subject_rule: SubjectRule | None) -> CellFile | str:
    """The cell, or the sentence that explains why its name does not fit its folder."""
    relative = path.relative_to(root)
    name = as_text(relative.as_posix())
    label = CLASS_FOLDERS[path.parent.name.lower()]
    match = _NAME.fullmatch(path.stem)
    if match and CLASS_FOLDERS[match["label"].lower()] != label:
        return f"It lies in {path.parent.name}/ but its name says {match['label']}; move or rename it."
    subject = as_text(match["subject"]).upper() if match else subject_rule(name) if subject_rule else ""
    fold = next((part.lower() for part in relative.parts if _FOLD.fullmatch(part)), "")
    return CellFile(**vars(picture), name=name, path=path, label=label, subject=subject, fold=fold)


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
    return network_input(cell_on_black(read_image(cell.path), CNMC_UM_PER_PX), spec)


def inputs(cells: Sequence[CellFile], spec: ImagingSpec, progress: Progress | None = None) -> NDArray[np.uint8]:
    """Network inputs uint8 (N, *spec.input_shape), RGB, decoded on all cores."""
    if not cells:
        return np.empty((0, *spec.input_shape), np.uint8)
    return np.stack(in_threads(lambda cell: read_input(cell, spec), cells, progress))
