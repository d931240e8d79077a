"""The gate: which float model is worth converting, and what an artifact may lose against it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.manifest import Agreement
from bloodedge.errors import BloodedgeError
from bloodedge_convert.job import Kind

FLOAT_TOLERANCE = {"float32": 1e-3, "float16": 0.05}
"""Largest calibrated probability difference of a float artifact, on held-out and golden cells. Correct conversions stay
below 2e-5 in float32; a swapped colour channel or a lost batch norm is far above."""

TINY_CELLS, TINY_SUBJECTS = 200, 6
"""Below either, one flip is half a percent or more, or one person decides the figure; a note then says so."""

CHANCE = 0.5
"""AUC and balanced accuracy of a model that guesses."""

DROPS = {"weighted_f1": "weighted F1", "auc": "AUC", "balanced_accuracy": "balanced accuracy"}
"""Names of the figures whose drop is limited."""


@dataclass(frozen=True)
class Limits:
    """What every artifact may lose on held-out cells."""

    max_drop: float = 0.5
    """Percentage points of weighted F1."""
    max_flips: float = 1.5
    """Percent of the cells."""
    max_auc_drop: float = 0.5
    """Percentage points of AUC."""
    max_balanced_drop: float = 1.0
    """Percentage points of balanced accuracy, which a flip moves more where one class has fewer cells."""
    max_probability_error: float = 0.03
    """Mean difference of the calibrated blast probability from the float model's, 0..1."""
    allow_worthless: bool = False
    """Whether a model may call one class only, or be no better than chance."""

    @property
    def drops(self) -> dict[str, float]:
        """Percentage points by figure, as in DROPS."""
        return {"weighted_f1": self.max_drop, "auc": self.max_auc_drop, "balanced_accuracy": self.max_balanced_drop}

    @property
    def wider(self) -> str | None:
        """A sentence on the limits above the usual ones; None where there are none."""
        usual = Limits()
        found = [
            _LIMIT_WORDS[name].format(ours, theirs)
            for name in (field.name for field in fields(self) if field.name in _LIMIT_WORDS)
            if (ours := getattr(self, name)) > (theirs := getattr(usual, name))
        ]
        if not found:
            return None
        return f"The gate was set wider than usual: an artifact might lose {', '.join(found)}."


_LIMIT_WORDS = {
    "max_drop": "{:g} points of weighted F1 (usual: {:g})",
    "max_flips": "the class of {:g} % of the cells (usual: {:g} %)",
    "max_auc_drop": "{:g} points of AUC (usual: {:g})",
    "max_balanced_drop": "{:g} points of balanced accuracy (usual: {:g})",
    "max_probability_error": "{:g} of the probability on average (usual: {:g})",
}


def worthless(validation: Evaluation, held_out: Evaluation) -> str | None:
    """Why a float model with these figures is worth nothing; None for a useful model.

    A worthless model calls one class only, or the 95 % interval of its AUC or balanced accuracy reaches 0.5 on both
    parts. One part alone does not count: few people make its interval wide, which is no fault of the model.
    """
    parts = {"validation": validation, "held-out": held_out}
    for what, part in parts.items():
        if part.never_called is not None:
            return f"it calls none of {_cells(what, part)} {part.never_called}"
    for name in ("auc", "balanced_accuracy"):
        known = {what: part for what, part in parts.items() if getattr(part, name) is not None}
        if known and all(_range(part, name)[0] <= CHANCE for part in known.values()):
            figures = " and ".join(f"{_figure(part, name)} on {_cells(what, part)}" for what, part in known.items())
            return f"its {DROPS[name]} is {figures}, which may be chance (0.5)"
    return None


def _range(part: Evaluation, name: str) -> tuple[float, float]:
    value = getattr(part, name)
    return part.ci95.get(name, (value, value))


def _figure(part: Evaluation, name: str) -> str:
    low, high = _range(part, name)
    return f"{getattr(part, name):.3f} [{low:.3f}, {high:.3f}]"


def _cells(what: str, part: Evaluation) -> str:
    return f"{part.cells} {what} cells of {part.subjects} subjects"


def admit(validation: Evaluation, held_out: Evaluation, limits: Limits) -> str | None:
    """A caveat where a worthless float model is converted all the same; None for a useful model.

    Raises BloodedgeError for a worthless model that the limits do not allow.
    """
    why = worthless(validation, held_out)
    if why is None:
        return None
    if not limits.allow_worthless:
        raise BloodedgeError(
            f"No bundle was written: the float model is worth nothing: {why}. Train it for longer, with another recipe "
            "or on more people; --allow-worthless converts it all the same and says so on the model card."
        )
    return f"This model is worth nothing and was converted with --allow-worthless: {why}."


def complaint(kind: Kind, agreement: Agreement, golden_difference: float, limits: Limits) -> str | None:
    """What is over which limit, with the figures; None when the artifact passes.

    golden_difference: the largest probability difference on golden cells, 0..1.
    """
    faults = []
    difference = max(agreement.max_probability_difference, golden_difference)
    tolerance = FLOAT_TOLERANCE.get(kind.precision)
    if tolerance is not None and difference > tolerance:
        faults.append(f"moved a probability by {difference:.2g} (limit {tolerance:g})")
    if agreement.never_called is not None and not limits.allow_worthless:
        faults.append(f"calls no cell {agreement.never_called}")
    for name, limit in limits.drops.items():
        drop = agreement.drop.get(name, 0.0)
        if drop > limit:
            faults.append(f"lost {drop:.2f} points of {DROPS[name]} (limit {limit:g})")
    error = agreement.mean_probability_difference
    if error is not None and error > limits.max_probability_error:
        faults.append(f"moved the probabilities by {error:.3f} on average (limit {limits.max_probability_error:g})")
    flips = 100 * agreement.flip_rate
    if flips > limits.max_flips:
        counted = f"{agreement.flips} of {agreement.cells} cells"
        faults.append(f"changed the class of {flips:.2f} % ({counted}; limit {limits.max_flips:g} %)")
    return f"{kind.engine} {kind.precision} {' and '.join(faults)}" if faults else None


def enforce(complaints: Iterable[str | None], where: Callable[[], str]) -> None:
    """Raise BloodedgeError with the complaints about artifacts; ``where`` then says where the loss arises."""
    faults = [fault for fault in complaints if fault is not None]
    if faults:
        raise BloodedgeError(
            f"No bundle was written: against the float model, on held-out cells, {'; '.join(faults)}. {where()}"
            "Calibrate on more cells (--calibration-cells), train another model, or raise the limit that was passed "
            "(--max-drop, --max-auc-drop, --max-balanced-drop, --max-probability-error, --max-flips)."
        )


def tiny(cells: int, subjects: int) -> str | None:
    """A sentence on a held-out part that is too small for its figures to say much; None for a larger part."""
    if cells >= TINY_CELLS and subjects >= TINY_SUBJECTS:
        return None
    return (
        f"The held-out part is small ({cells} cells of {subjects} subjects; one flip is {100 / cells:.2f} %): "
        "these figures say little about new people."
    )
