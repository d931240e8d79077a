"""Which pictures a data folder holds, and what its folders, its table and their names say of each."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.data.exported_cells import CSV, is_export
from bloodedge.data.label_table import Row, read_table, some
from bloodedge.errors import UsageError
from bloodedge.imaging.picture_files import IMAGE_SUFFIXES, count_pictures, walk_pictures
from bloodedge.text import as_path, as_text

CLASS_FOLDERS = {"hem": 0, "normal": 0, "all": 1, "blast": 1}
CLASS_LABELS = CLASS_FOLDERS | {"0": 0, "1": 1}
"""Labels of a table, as C-NMC's preliminary test has them: 1 is a blast."""
ONE_PERSON = "ONE PERSON"
PRELIMINARY = "_labels.csv"
"""C-NMC's preliminary test comes as a folder NAME and a table NAME_labels.csv beside it."""
EXPORTED = {
    "labels": CSV,
    "image_column": "file",
    "label_column": "class",
    "subject_column": "subject",
    "um_per_px_column": "um_per_px",
    "classes": {"blast": "blast", "normal": "normal"},
}
"""How cells that left a device are laid out; see ``bloodedge.data.exported_cells``."""
MOST_FOLDERS = 12
"""Folders that a sentence names."""

_NAME = re.compile(r"uid_(?P<subject>[^_]+)_(?P<image>[^_]+)_(?P<cell>[^_]+)_(?P<label>all|hem)", re.IGNORECASE)
_FOLD = re.compile(r"fold_\w+", re.IGNORECASE)
_TO_SIDE = "hidden files and files of the system, such as __MACOSX"


@dataclass(frozen=True)
class ListedPicture:
    """A picture of a class, not yet opened."""

    path: Path
    page: int | None
    """From 0, of a TIFF file of several pictures; None for other files."""
    name: str
    """Path inside the data folder, with forward slashes; "#2" follows for the second picture of a file."""
    label: int
    """0 normal, 1 blast."""
    subject: str
    """Upper case; empty if it is not known."""
    fold: str
    """Lower case; empty where there are no folds."""
    um_per_px: float | None
    """None where nothing says it."""


@dataclass(frozen=True)
class Listing:
    """The pictures of a data folder."""

    pictures: list[ListedPicture]
    unusable: dict[str, str]
    """Name to the sentence that explains why: named in the table and not there, or of two classes."""
    passed_over: dict[str, int]
    """Pictures that are of no class, by where they are."""
    layout: DataLayout
    """With what was found by itself: the table and its columns."""


def list_pictures(root: Path, layout: DataLayout) -> Listing:
    """The pictures under ``root`` as the layout has them, in the order of their paths.

    Raises UsageError when there are none, or when folder, table and layout do not fit each other.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; give the folder that holds the all/ and hem/ (or fold_*/) folders.")
    paths, hidden = walk_pictures(root)
    if is_export(root) and not layout.labels and not layout.classes:
        layout = layout.model_copy(update=EXPORTED)
    found = _Found(root, paths, layout)
    table = _table_of(root, layout, paths)
    listing = _by_table(found, table) if table else _by_folder(found)
    _check_subjects(listing, root)
    if hidden:
        listing.passed_over[_TO_SIDE] = hidden
    return listing


@dataclass(frozen=True)
class _Found:
    """The files under a data folder."""

    root: Path
    paths: list[Path]
    layout: DataLayout

    def name(self, path: Path) -> str:
        return as_text(path.relative_to(self.root).as_posix())

    def pictures(
        self, path: Path, label: int, owner: str = "", um_per_px: float | None = None
    ) -> Iterator[ListedPicture]:
        """Every picture of a file. owner: what the table says of its person."""
        name = self.name(path)
        fold = next((part.lower() for part in path.relative_to(self.root).parts if _FOLD.fullmatch(part)), "")
        subject = self._subject(path, owner)
        scale = um_per_px or self.layout.um_per_px
        pages = count_pictures(path)
        if pages == 1:
            yield ListedPicture(path, None, name, label, subject, fold, scale)
        else:
            for page in range(pages):
                yield ListedPicture(path, page, f"{name}#{page + 1}", label, subject, fold, scale)

    def _subject(self, path: Path, owner: str) -> str:
        rule = subject_pattern(self.layout.subject) if self.layout.subject else None
        if self.layout.subject_column:
            match = _NAME.fullmatch(Path(owner).stem)
            subject = match["subject"] if match else rule((owner,)) if rule else owner
        else:
            match = _NAME.fullmatch(path.stem)
            subject = match["subject"] if match else rule((path.name, self.name(path))) if rule else ""
        return as_text(subject).upper() or (ONE_PERSON if self.layout.one_person else "")


def subject_pattern(rule: str) -> Callable[[Iterable[str]], str]:
    """Takes the first group of a regular expression from the first text that it matches; empty if it matches none.

    Raises UsageError when it is no regular expression with a group.
    """
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UsageError(f'The subject rule "{rule}" is no regular expression ({error}).') from error
    if not pattern.groups:
        raise UsageError(f'The subject rule "{rule}" needs a group in brackets, such as "(patient[0-9]+)".')

    def subject(texts: Iterable[str]) -> str:
        match = next(filter(None, map(pattern.search, texts)), None)
        return (match[1] or "") if match else ""

    return subject


def _check_subjects(listing: Listing, root: Path) -> None:
    """Raise UsageError when the subject rule, or the table, says of some pictures not whose they are."""
    layout = listing.layout
    nameless = [picture.name for picture in listing.pictures if not picture.subject]
    if not nameless or not (layout.subject or layout.subject_column):
        return
    how = f'The subject rule "{layout.subject}"' if layout.subject else f"The column {layout.subject_column}"
    raise UsageError(
        f"{how} gives no subject for {len(nameless)} of the {len(listing.pictures)} pictures under {root}: "
        f"{some(nameless)}. Give one that fits every picture, or move these elsewhere."
    )


def _by_folder(found: _Found) -> Listing:
    classes = _labels(found.layout) or CLASS_FOLDERS
    pictures: list[ListedPicture] = []
    unusable: dict[str, str] = {}
    outside: Counter[str] = Counter()
    present: Counter[str] = Counter()
    for path in found.paths:
        folders = path.parent.relative_to(found.root).parts or (found.root.name,)
        folder = next((name for name in reversed(folders) if name.lower() in classes), None)
        present[folder or folders[-1]] += 1
        match = _NAME.fullmatch(path.stem)
        if folder is None:
            outside["/".join(folders)] += 1
        elif match and CLASS_FOLDERS[match["label"].lower()] != classes[folder.lower()]:
            where, says = path.parent.name, match["label"]
            unusable[found.name(path)] = f"It lies in {where}/ but its name says {says}; move or rename it."
        else:
            pictures += found.pictures(path, classes[folder.lower()])
    if not pictures and not unusable:
        raise UsageError(_no_classes(found.root, sorted(present)))
    _check_asked(found.layout, {name.lower() for name in present}, f"{found.root} has no folder", sorted(present))
    passed = {f"pictures in {as_text(name)}/, a folder of no class": count for name, count in outside.items()}
    return Listing(pictures, unusable, passed, found.layout)


def _no_classes(root: Path, folders: Sequence[str]) -> str:
    expected = (
        f"{root} holds no cell images; expected folders named all/ and hem/ (or fold_*/all, fold_*/hem) "
        f"with {', '.join(sorted(IMAGE_SUFFIXES))} files"
    )
    if not folders:
        return f"{expected}."
    names = ", ".join(folders[:MOST_FOLDERS])
    example = f"--classes {folders[0]}=normal" + (f",{folders[1]}=blast" if len(folders) > 1 else "")
    return f"{expected}. Its folders with pictures are {names}: say which is which, as in {example}, or give --labels."


def _check_asked(layout: DataLayout, present: set[str], lacks: str, names: Sequence[str]) -> None:
    """Raise UsageError when the layout has a class that does not occur."""
    missing = [] if layout.labels == CSV else [name for name in layout.classes if name not in present]
    if missing:
        there = ", ".join(names[:MOST_FOLDERS]) or "none"
        raise UsageError(f"{lacks} {missing[0]}, which --classes names; there are: {there}.")


def _labels(layout: DataLayout) -> dict[str, int]:
    return {name: int(what == "blast") for name, what in layout.classes.items()}


def _table_of(root: Path, layout: DataLayout, paths: Sequence[Path]) -> Path | None:
    """The table that the layout names, or that of C-NMC's preliminary test where no folder names a class."""
    if layout.labels:
        return root / as_path(layout.labels)
    if layout.classes or any(part.lower() in CLASS_FOLDERS for path in paths for part in path.relative_to(root).parts):
        return None
    folders = dict.fromkeys([root, *(path.parent for path in paths)])
    beside = [folder.with_name(folder.name + PRELIMINARY) for folder in map(Path.resolve, folders)]
    return next((table for table in beside if table.is_file()), None)


def _by_table(found: _Found, table: Path) -> Listing:
    inside = table.resolve().is_relative_to(found.root.resolve())
    labels = table.resolve().relative_to(found.root.resolve()).as_posix() if inside else str(table.resolve())
    rows, layout = read_table(table, found.layout.model_copy(update={"labels": as_text(labels)}))
    found = _Found(found.root, found.paths, layout)
    classes = _labels(layout) or CLASS_LABELS
    present = sorted({row.label for row in rows})
    if not layout.classes and (unknown := [label for label in present if label not in classes]):
        raise UsageError(
            f"{table} has the labels {', '.join(present[:MOST_FOLDERS])}, and {unknown[0]} is no class: say which is "
            f"which, as in --classes {present[0]}=normal,{present[-1]}=blast."
        )
    _check_asked(layout, set(present), f"{table} has no label", present)
    files, absent = _files_of(found, table, rows)
    pictures: list[ListedPicture] = []
    outside: Counter[str] = Counter()
    for path, row in sorted(files.items()):
        if row.label in classes:
            pictures += found.pictures(path, classes[row.label], row.subject, row.um_per_px)
        else:
            outside[f"pictures of the label {row.label}, which is no class"] += 1
    if beyond := len(found.paths) - len(files):
        outside[f"pictures that {as_text(table.name)} does not name"] = beyond
    if not pictures:
        names = some([row.image for row in rows])
        raise UsageError(
            f"None of the {len(rows)} pictures that {table} names is under {found.root}: {names}; give the folder that"
            " holds them."
        )
    return Listing(pictures, absent, dict(outside), layout)


def _files_of(found: _Found, table: Path, rows: Sequence[Row]) -> tuple[dict[Path, Row], dict[str, str]]:
    """(each row by its file; the sentence for each picture that is not there).

    Raises UsageError when two rows contradict each other, or a name fits several files.
    """
    by_name: Mapping[str, list[Path]] = defaultdict(list)
    for path in found.paths:
        by_name[path.name.lower()].append(path)
        by_name[path.stem.lower()].append(path)
    files: dict[Path, Row] = {}
    absent: dict[str, str] = {}
    for row in rows:
        fitting = [path for path in by_name.get(row.image.lower().rpartition("/")[2], ()) if _is_named(path, row.image)]
        if len(fitting) > 1:
            where = " and ".join(found.name(path) for path in fitting[:2])
            raise UsageError(f"{table}, line {row.line}: {row.image} may be {where}; name its folder in the table too.")
        if not fitting:
            absent[as_text(row.image)] = f"{as_text(table.name)} names it in line {row.line}, but it is not there."
            continue
        before = files.setdefault(fitting[0], row)
        if (before.label, before.subject, before.um_per_px) != (row.label, row.subject, row.um_per_px):
            raise UsageError(
                f"{table} contradicts itself: lines {before.line} and {row.line} say different things of {row.image}; "
                "keep one of them."
            )
    return files, absent


def _is_named(path: Path, image: str) -> bool:
    """Whether a table's name, with or without folders and suffix, is a file's."""
    parts = [part for part in image.lower().split("/") if part not in {"", "."}]
    own = [part.lower() for part in path.parts[-len(parts) :]]
    return parts in (own, [*own[:-1], path.stem.lower()])
