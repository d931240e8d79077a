"""A person's kinds beside the device's: the count after review, and how often they agree."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bloodedge.decision.kinds import ASKED, OTHER, Kind
from bloodedge.metrics import wilson
from bloodedge_device.slide.differential import BESIDE, ROWS, KindKey, listed_as
from bloodedge_device.slide.review import SAMPLINGS, Review, Sampling

Key = TypeVar("Key")

UNCERTAIN = "uncertain"
NAMES = (*ROWS, *BESIDE, UNCERTAIN)
"""What a cell may be listed as, in order."""


@dataclass(frozen=True)
class ReviewedKind:
    """Cells with the same answer of the device and of a person."""

    kind: Kind
    """As the device told it; unknown where it told none."""
    stage: str | None
    label: str
    """As the device called it: blast, normal, uncertain or other."""
    person: Review | None
    """The latest review; None without one."""
    sampling: Sampling | None
    """How the reviewed cells were chosen."""
    cells: int = 1

    @property
    def device_name(self) -> str:
        """What the device lists it as."""
        return UNCERTAIN if self.label == UNCERTAIN else listed_as(self.kind, self.label) or self.kind

    @property
    def person_name(self) -> str | None:
        """What the person lists it as; None where no kind was said."""
        person = self.person
        if person is None:
            return None
        if person.label == "blast":
            return "blast"
        if person.kind is not None:
            return person.kind
        return Kind.ARTEFACT if person.label == "not_a_cell" else None

    @property
    def name_after_review(self) -> str:
        """What it is listed as after review."""
        kind, _, label = self.after_review
        return listed_as(kind, label) or kind

    @property
    def after_review(self) -> KindKey:
        """Kind, stage and label, the person's where they were said."""
        person = self.person
        if person is None or (person.kind is None and person.label in {None, "unsure"}):
            return self.kind, self.stage, self.label
        if person.kind is not None:
            label = person.label or (OTHER if person.kind not in ASKED else _asked(self.label))
            return person.kind, person.stage, label
        if person.label == "not_a_cell":
            return Kind.ARTEFACT, None, OTHER
        if person.label == "normal" and self.label == OTHER:
            return self.kind, self.stage, OTHER
        return self.kind, None if person.label == "blast" else self.stage, person.label or self.label


def _asked(label: str) -> str:
    """The device's label of a cell that a person called mononuclear."""
    return UNCERTAIN if label == OTHER else label


def counts_after_review(cells: Sequence[ReviewedKind]) -> dict[KindKey, int]:
    """Cells by kind, stage and label after a person's reviews."""
    return _counts((cell.after_review, cell.cells) for cell in cells)


@dataclass(frozen=True)
class KindAgreement:
    """The device's kinds and a person's, over cells of one sampling."""

    sampling: Sampling
    names: list[str]
    """What the cells were listed as by either, in the order of the differential."""
    table: list[list[int]]
    """Cells by the person's answer (rows) and the device's (columns)."""

    @property
    def told(self) -> int:
        """Cells that both named."""
        columns = [column for column, name in enumerate(self.names) if name not in {UNCERTAIN, Kind.UNKNOWN}]
        return sum(row[column] for row in self.table for column in columns)

    @property
    def agreed(self) -> int:
        """Of these, those named alike."""
        return sum(row[index] for index, row in enumerate(self.table))

    @property
    def share(self) -> float | None:
        """Named alike, 0..1; None without cells that both named."""
        return self.agreed / self.told if self.told else None

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's interval of ``share``."""
        return wilson(self.agreed, self.told)

    @property
    def figures(self) -> dict[str, Any]:
        """For programs."""
        return {**vars(self), "told": self.told, "agreed": self.agreed, "share": self.share, "ci95": self.ci95}


def _counts(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for key, cells in pairs:
        found[key] = found.get(key, 0) + cells
    return found


def kind_agreement(cells: Sequence[ReviewedKind]) -> list[KindAgreement]:
    """Agreement for each sampling that has cells whose kind a person said."""
    found = []
    for sampling in SAMPLINGS:
        pairs = _counts(
            ((cell.person_name, cell.device_name), cell.cells)
            for cell in cells
            if cell.sampling == sampling and cell.person_name is not None
        )
        names = [name for name in NAMES if any(name in pair for pair in pairs)]
        if names:
            table = [[pairs.get((person, device), 0) for device in names] for person in names]
            found.append(KindAgreement(sampling, [str(name) for name in names], table))
    return found
