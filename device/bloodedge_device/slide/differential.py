"""The differential count of a slide: how many of its leucocytes are of which kind.

As haematologists count, a mononuclear cell that was called a blast is listed as a blast; erythroblasts are given per
100 leucocytes, and platelets, artefacts and cells of unknown kind are counted beside them.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from bloodedge.decision.kind_shares import KindRates, KindShare, corrected_share, exact_limits
from bloodedge.decision.kinds import ASKED, COUNTED, Kind
from bloodedge.report import percent
from bloodedge_device.slide.share import SlideShare

KindKey = tuple[Kind, str | None, str]
"""(kind, stage, label) of a cell."""
Target = Literal[100, 200, 400]
TARGET: Target = 200
Row = Literal["blast", "neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "immature_granulocyte"]
"""What leucocytes are listed as."""
BESIDE = (Kind.ERYTHROBLAST, Kind.PLATELET, Kind.ARTEFACT, Kind.UNKNOWN)
NOT_CORRECTED = "Not corrected for the kind network's errors: how often it errs is not known."
CORRECTED = "Corrected for the kind network's errors on cells not fitted to; under another stain it may err otherwise."
BLASTS_NOT_CORRECTED = (
    "Blasts, lymphocytes and monocytes are not corrected: the share of blasts among them is not known."
)


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class DifferentialRow(_Figures):
    """One kind of leucocyte; shares are of all leucocytes, 0..1."""

    kind: Row
    cells: int
    """As told"""
    share: float | None
    """As told; null without leucocytes"""
    low: float
    """Exact binomial 95 % limits of share"""
    high: float
    corrected: float | None
    """Corrected for what the kind network, and of blasts the classifier, gets wrong; null where that is not known"""
    corrected_low: float | None
    """Of its 95 % interval"""
    corrected_high: float | None
    target_low: float
    """Limits that this share would have with as many leucocytes as the target (Rümke's table)"""
    target_high: float

    @property
    def name(self) -> str:
        """In words."""
        return self.kind.replace("_", " ")


class Differential(_Figures):
    """The differential count of a slide. For Research Use Only."""

    rows: tuple[DifferentialRow, ...]
    leucocytes: int
    """Of all rows"""
    band: int
    """Neutrophils by stage"""
    segmented: int
    erythroblasts: int
    erythroblasts_per_100: float | None
    """Per 100 leucocytes; null without leucocytes"""
    platelets: int
    """Large platelets and clumps, not a platelet count"""
    artefacts: int
    unknown: int
    """Cells whose kind was not told surely, without those called blasts"""
    uncertain: int
    """Of the lymphocytes, monocytes and unknown cells: it is uncertain whether they are blasts"""
    target: int
    """Leucocytes to be counted (CLSI H20)"""
    more: int
    """Leucocytes still to be counted"""
    sentences: tuple[str, ...]
    """What to say beside it, the most important first"""

    @classmethod
    def of(
        cls, kinds: Mapping[KindKey, int], rates: KindRates | None, share: SlideShare | None, target: int
    ) -> "Differential | None":
        """From cells by kind, stage and label; None where no kind was told.

        rates: of the kind network, None where not known; share: of blasts; target: leucocytes to be counted.
        """
        if not kinds:
            return None
        listed = {row: sum(n for (k, _, label), n in kinds.items() if listed_as(k, label) == row) for row in ROWS}
        whole = sum(listed.values())
        corrected = _corrected(kinds, rates, share)
        beside = {
            kind: sum(n for (k, _, label), n in kinds.items() if k == kind and label != "blast") for kind in BESIDE
        }
        more = max(0, target - whole)
        red = beside[Kind.ERYTHROBLAST]
        return cls(
            rows=tuple(_row(row, listed[row], whole, corrected.get(row), target) for row in ROWS),
            leucocytes=whole,
            band=sum(n for (_, stage, _), n in kinds.items() if stage == "band"),
            segmented=sum(n for (_, stage, _), n in kinds.items() if stage == "segmented"),
            erythroblasts=red,
            erythroblasts_per_100=100 * red / whole if whole else None,
            platelets=beside[Kind.PLATELET],
            artefacts=beside[Kind.ARTEFACT],
            unknown=beside[Kind.UNKNOWN],
            uncertain=sum(n for (k, _, label), n in kinds.items() if label == "uncertain" and k in MONONUCLEAR),
            target=target,
            more=more,
            sentences=_sentences(whole, target, rates, "blast" in corrected),
        )

    @property
    def is_corrected(self) -> bool:
        """Whether any row is."""
        return any(row.corrected is not None for row in self.rows)

    def row(self, kind: str) -> DifferentialRow:
        """One row."""
        return next(row for row in self.rows if row.kind == kind)

    @property
    def beside_sentence(self) -> str:
        """What is counted beside the leucocytes."""
        red = f", {self.erythroblasts_per_100:.1f} per 100 leucocytes" if self.erythroblasts_per_100 is not None else ""
        neutrophils = f"Neutrophils: {self.band} band, {self.segmented} segmented. "
        uncertain = f" Of {self.uncertain} mononuclear cells it is uncertain whether they are blasts."
        return (
            f"{neutrophils}Beside them: {self.erythroblasts} erythroblasts{red}, {self.platelets} large platelets or"
            f" clumps, {self.artefacts} artefacts, {self.unknown} of unknown kind.{uncertain if self.uncertain else ''}"
        )

    @property
    def progress(self) -> int:
        """How far the count is, 0..100."""
        return min(100, 100 * self.leucocytes // self.target)


ROWS: tuple[Row, ...] = get_args(Row)
MONONUCLEAR = ASKED | {Kind.UNKNOWN}


def listed_as(kind: Kind, label: str) -> Row | None:
    """The row that a cell counts in; None where it counts beside them."""
    if label == "blast":
        return "blast"
    return next((row for row in ROWS if row == kind), None)


def _row(row: Row, cells: int, whole: int, corrected: KindShare | None, target: int) -> DifferentialRow:
    low, high = exact_limits(cells, whole)
    target_low, target_high = exact_limits(round(target * cells / whole) if whole else 0, target if whole else 0)
    return DifferentialRow(
        kind=row,
        cells=cells,
        share=cells / whole if whole else None,
        low=low,
        high=high,
        corrected=corrected and corrected.share,
        corrected_low=corrected and corrected.low,
        corrected_high=corrected and corrected.high,
        target_low=target_low,
        target_high=target_high,
    )


def _corrected(kinds: Mapping[KindKey, int], rates: KindRates | None, share: SlideShare | None) -> dict[Row, KindShare]:
    """Corrected shares of the rows for which they are known."""
    if rates is None:
        return {}
    told = {kind: sum(n for (k, _, _), n in kinds.items() if k == kind) for kind in Kind}
    found: dict[Row, KindShare] = {}
    for row in ROWS:
        kind = next((kind for kind in COUNTED if kind == row and kind not in ASKED), None)
        if kind is not None and (own := corrected_share(rates, told, [kind])) is not None:
            found[row] = own
    both = corrected_share(rates, told, sorted(ASKED))
    blasts = None if share is None else share.estimate
    if both is None or blasts is None or blasts.corrected is None or blasts.cannot_tell:
        return found
    found["blast"] = KindShare(both.share * blasts.corrected, both.low * blasts.low, both.high * blasts.high)
    called = {kind: sum(n for (k, _, label), n in kinds.items() if k == kind and label == "blast") for kind in ASKED}
    for row in ROWS:
        kind = next((kind for kind in ASKED if kind == row), None)
        if kind is not None and (own := corrected_share(rates, told, [kind])) is not None:
            part = called[kind] / sum(called.values()) if sum(called.values()) else 0.5
            found[row] = _without(own, found["blast"], part)
    return found


def _without(kind: KindShare, blasts: KindShare, part: float) -> KindShare:
    """A mononuclear kind's share without the ``part`` of the blasts that is of this kind; the widest interval."""
    return KindShare(
        max(0.0, kind.share - part * blasts.share),
        max(0.0, kind.low - part * blasts.high),
        max(0.0, kind.high - part * blasts.low),
    )


def _sentences(whole: int, target: int, rates: KindRates | None, has_blasts: bool) -> tuple[str, ...]:
    more = target - whole
    counted = (
        f"{whole} of {target} leucocytes are counted; {more} more are needed."
        if more > 0
        else f"{whole} leucocytes are counted; {target} were asked for."
    )
    five = exact_limits(round(0.05 * target), target)
    rule = f"Of {target} leucocytes, a share of 5 % has exact limits of {percent(five[0])} to {percent(five[1])}."
    if rates is None:
        return counted, rule, NOT_CORRECTED
    return counted, rule, CORRECTED, *(() if has_blasts else (BLASTS_NOT_CORRECTED,))
