"""What is tried, and in which order, when plain int8 loses too much against the float model.

Attempts are compared on cells of the validation part, and only one that is within the limits there is held against the
held-out cells: those are to judge what was chosen, not to choose by. How often they were looked at is in the report.
"""

from collections.abc import Callable, Sequence

from bloodedge.bundle.manifest import Agreement, EngineName
from bloodedge.config import Strict
from bloodedge_convert.job import Kind, Method
from bloodedge_convert.judge.gate import Judged, Limits, complaint
from bloodedge_convert.judge.measure import Judge, Measured, Sample

LADDER: dict[EngineName, tuple[Method, ...]] = {
    "litert": ("percentile", "mse", "entropy", "equalised", "mixed", "qat"),
    "openvino": ("mean", "percentile", "mse", "equalised", "mixed", "qat"),
    "onnx": ("percentile", "mse", "entropy", "equalised"),
}
"""Methods after "minmax", cheapest first."""

TOLD: dict[Method, str] = {
    "minmax": "ranges from the smallest to the largest value seen",
    "mean": "ranges from the means over the cells of each one's extremes",
    "percentile": "rare extreme values cut off the ranges",
    "mse": "ranges that round with the least squared error",
    "entropy": "ranges that keep most of each distribution (Kullback-Leibler)",
    "equalised": "channels of each layer brought to like ranges first",
    "mixed": "layers that int8 harms most left in float32",
    "qat": "weights fine-tuned with fake quantisation",
}


class Attempt(Strict):
    """One way of making an int8 artifact, and how it did."""

    kind: Kind
    method: Method
    trial: Agreement
    """On cells of the validation part."""
    distance: float
    """Mean distance of the blast probability from the float model's, on the same cells."""
    held_out: Agreement | None
    """None where the attempt was not within the limits on the validation part."""
    complaint: str | None
    """What is over which limit; None for an attempt that passed."""


def climb(
    first: Measured,
    limits: Limits,
    methods: Sequence[Method],
    make: Callable[[Method, float], None],
    judge: Judge,
    trial: Sample,
) -> tuple[Measured, list[Attempt]]:
    """Try ``methods`` on an int8 artifact that is over a limit until one is within; the last judged and all attempts.

    make: writes the artifact by a method in place of the last one; told the distance that was smallest so far.
    """
    agreement, distance = judge.try_on(first.kind, trial)
    assert first.method is not None
    attempts = [_attempt(first.kind, first.method, agreement, distance, first, limits)]
    measured = first
    for method in methods:
        make(method, min(attempt.distance for attempt in attempts))
        agreement, distance = judge.try_on(first.kind, trial)
        within = complaint(Judged(first.kind, agreement, 0.0), limits) is None
        looked = judge.measure(first.kind, method) if within else None
        attempts.append(_attempt(first.kind, method, agreement, distance, looked, limits))
        if looked is not None:
            measured = looked
            if attempts[-1].complaint is None:
                break
    return measured, attempts


def _attempt(
    kind: Kind, method: Method, trial: Agreement, distance: float, looked: Measured | None, limits: Limits
) -> Attempt:
    said = complaint(Judged(kind, trial, 0.0) if looked is None else Judged.of(looked), limits)
    held_out = looked.agreement if looked else None
    return Attempt(kind=kind, method=method, trial=trial, distance=distance, held_out=held_out, complaint=said)


def told(attempts: Sequence[Attempt]) -> str:
    """What was tried, in a sentence; nothing where nothing was."""
    if not attempts:
        return ""
    best = min(attempts, key=lambda attempt: attempt.distance)
    changed = f"{100 * best.trial.flip_rate:.2f} % of {best.trial.cells} validation cells changed"
    tried = _listed([attempt.method for attempt in attempts])
    return f"For {best.kind.engine} int8 {tried} were tried; nearest came {best.method} ({changed}). "


def attempt_line(attempt: Attempt) -> str:
    """An attempt in a line for the terminal."""
    looked, trial = attempt.held_out, attempt.trial
    told = (
        f"Tried {attempt.kind.engine} int8 {attempt.method}: {100 * trial.flip_rate:.2f} % of validation cells changed"
    )
    if looked is not None:
        lost = f"{looked.drop['weighted_f1']:+.2f} points of weighted F1"
        if "auc" in looked.drop:
            lost += f" and {looked.drop['auc']:+.2f} of AUC"
        told += f", {100 * looked.flip_rate:.2f} % of held-out cells, {lost} lost"
    return f"{told}; {'over a limit' if attempt.complaint else 'taken'}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
