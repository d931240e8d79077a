"""What kind of white cell a cell is, and whether *blast or normal?* can be asked of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Kind(StrEnum):
    """What a found cell is; in the order in which a differential count lists them."""

    NEUTROPHIL = "neutrophil"
    LYMPHOCYTE = "lymphocyte"
    """Of the lymphoid line, lymphoblasts too: which of them are blasts is the classifier's question."""
    MONOCYTE = "monocyte"
    EOSINOPHIL = "eosinophil"
    BASOPHIL = "basophil"
    IMMATURE_GRANULOCYTE = "immature_granulocyte"
    """Promyelocyte, myelocyte or metamyelocyte."""
    ERYTHROBLAST = "erythroblast"
    PLATELET = "platelet"
    """A large platelet or a clump of platelets."""
    ARTEFACT = "artefact"
    """A smudge, dye, or red cells."""
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """In words."""
        return self.replace("_", " ")


COUNTED = tuple(Kind)[:6]
"""The leucocytes that a differential count shares out; the others are counted beside them."""
ASKED = frozenset({Kind.LYMPHOCYTE, Kind.MONOCYTE})
"""Mononuclear kinds, of which *blast or normal?* is asked; it is asked of unknown cells too that may be mononuclear."""
Stage = Literal["band", "segmented"]
"""Of a neutrophil."""
OTHER = "other"
"""The label of a cell of which it is not asked."""


def kind_words(kind: Kind, stage: str | None = None) -> str:
    """A kind in words, such as "band neutrophil"."""
    return f"{stage} {kind.words}" if stage else kind.words


@dataclass(frozen=True)
class KindCall:
    """What the kind network says of one cell."""

    kind: Kind
    probability: float
    """Calibrated, 0..1; of the likeliest kind where the kind is unknown."""
    asked: bool
    """Whether *blast or normal?* is asked of the cell: it is, or may well be, mononuclear."""
    stage: str | None = None
    """A ``Stage`` of a neutrophil."""
