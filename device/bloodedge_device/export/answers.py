"""What several answers about one cell come to: its class and kind, or a contradiction."""

from collections.abc import Sequence
from dataclasses import dataclass

from bloodedge.decision.kinds import ASKED, Kind

UNSURE = "the reviewer was unsure"


@dataclass(frozen=True)
class Answer:
    """One answer of a person."""

    label: str | None
    """blast, normal, not_a_cell or unsure; None where only the kind was said."""
    kind: str | None
    stage: str | None
    sampling: str
    reviewer: str

    @property
    def words(self) -> str:
        """In words, with how the cell was chosen."""
        said = " ".join(word.replace("_", " ") for word in (self.label, self.stage, self.kind) if word)
        return f"{said} ({self.sampling})"


@dataclass(frozen=True)
class Said:
    """What the answers come to; with a ``problem`` they are of no use."""

    label: str = "no_class"
    """One of bloodedge.data.exported_cells.CLASSES."""
    kind: str = Kind.UNKNOWN
    stage: str = ""
    sampling: str = ""
    problem: str = ""
    contradictory: bool = False


def settle(answers: Sequence[Answer]) -> Said:
    """What answers about one cell, oldest first, come to.

    A later answer of the same reviewer in the same kind of review corrects the earlier one. Answers that are left and
    disagree contradict each other; an unsure one disagrees with none.
    """
    if not answers:
        return Said()
    last = list({(answer.reviewer, answer.sampling): answer for answer in answers}.values())
    sampling = "random" if any(answer.sampling == "random" for answer in last) else last[-1].sampling
    sure = [answer for answer in last if answer.label != "unsure" or answer.kind]
    if not sure:
        return Said(sampling=sampling, problem=UNSURE)
    labels = {answer.label for answer in sure} - {None, "unsure"}
    kinds = {answer.kind for answer in sure} - {None}
    stages = {answer.stage for answer in sure} - {None}
    if len(labels) > 1 or len(kinds) > 1 or len(stages) > 1 or _impossible(labels, kinds):
        said = " and ".join(dict.fromkeys(answer.words for answer in sure))
        return Said(sampling=sampling, problem=f"contradictory answers: {said}", contradictory=True)
    label, kind = next(iter(labels), None), next(iter(kinds), None)
    if label == "not_a_cell":
        return Said("other", Kind.ARTEFACT, "", sampling)
    not_asked = kind is not None and kind not in {*ASKED, Kind.UNKNOWN}
    return Said(
        "other" if not_asked else label or "no_class", kind or Kind.UNKNOWN, next(iter(stages), None) or "", sampling
    )


def _impossible(labels: set[str | None], kinds: set[str | None]) -> bool:
    """A blast of a mature kind, or a kind of white cell that is none."""
    mature = kinds - {*ASKED, Kind.UNKNOWN, Kind.IMMATURE_GRANULOCYTE}
    return ("blast" in labels and bool(mature)) or ("not_a_cell" in labels and bool(kinds - {Kind.ARTEFACT, None}))
