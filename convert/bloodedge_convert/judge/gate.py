"""The gate: what an artifact may lose against the float model before a bundle is refused."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from bloodedge.errors import BloodedgeError
from bloodedge.manifest import Agreement
from bloodedge_convert.job import Kind
from bloodedge_convert.judge.measure import Measured

FLOAT_TOLERANCE = {"float32": 1e-3, "float16": 0.05}
"""Largest calibrated probability difference of a float artifact, on held-out and golden cells. Correct conversions stay
below 2e-5 in float32; a swapped colour channel or a lost batch norm is far above."""

TINY_CELLS, TINY_SUBJECTS = 200, 6
"""Below either, one flip is half a percent or more, or one person decides the figure: said beside the table."""


@dataclass(frozen=True)
class Limits:
    """Of every artifact, on held-out cells."""

    max_drop: float = 0.5
    """Percentage points of weighted F1."""
    max_flips: float = 1.5
    """Percent of the cells."""


@dataclass(frozen=True)
class Judged:
    """What the gate looks at."""

    kind: Kind
    agreement: Agreement
    golden_difference: float

    @classmethod
    def of(cls, measured: Measured) -> Self:
        """Of a measured artifact."""
        return cls(measured.kind, measured.agreement, measured.golden.max_probability_difference)


def complaint(judged: Judged, limits: Limits) -> str | None:
    """What is over which limit, with the figures; None when the artifact passes."""
    kind, agreement = judged.kind, judged.agreement
    faults = []
    difference = max(agreement.max_probability_difference, judged.golden_difference)
    tolerance = FLOAT_TOLERANCE.get(kind.precision)
    if tolerance is not None and difference > tolerance:
        faults.append(f"moved a probability by {difference:.2g} (limit {tolerance:g})")
    drop = agreement.drop["weighted_f1"]
    if drop > limits.max_drop:
        faults.append(f"lost {drop:.2f} points of weighted F1 (limit {limits.max_drop:g})")
    flips = 100 * agreement.flip_rate
    if flips > limits.max_flips:
        counted = f"{agreement.flips} of {agreement.cells} cells"
        faults.append(f"changed the class of {flips:.2f} % ({counted}; limit {limits.max_flips:g} %)")
    return f"{kind.engine} {kind.precision} {' and '.join(faults)}" if faults else None


def enforce(judged: list[Judged], limits: Limits, where: Callable[[], str]) -> None:
    """Raise BloodedgeError naming every artifact over a limit; ``where`` is asked where the loss arises."""
    faults = [fault for one in judged if (fault := complaint(one, limits)) is not None]
    if faults:
        raise BloodedgeError(
            f"No bundle was written: against the float model, on held-out cells, {'; '.join(faults)}. {where()}"
            "Calibrate on more cells (--calibration-cells), train another model, or raise --max-drop or --max-flips."
        )


def tiny(cells: int, subjects: int) -> str | None:
    """A sentence where the held-out part is too small for its figures to say much."""
    if cells >= TINY_CELLS and subjects >= TINY_SUBJECTS:
        return None
    return (
        f"The held-out part is small ({cells} cells of {subjects} subjects; one flip is {100 / cells:.2f} %): "
        "these figures say little about new people."
    )
