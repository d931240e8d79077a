"""Which methods are tried, and in which order, when plain int8 loses too much against the float model.

Attempts are compared on validation cells, and only an attempt within the limits there is measured on held-out cells:
those judge what was chosen and must not choose. The report says how often they were looked at.
"""

from collections.abc import Callable, Sequence

from bloodedge.bundle.manifest import Agreement, EngineName
from bloodedge.config import Strict
from bloodedge_convert.job import Kind, Method
from bloodedge_convert.judge.gate import Limits, complaint
from bloodedge_convert.judge.measure import Candidate, Judge

FURTHER_METHODS: dict[EngineName, tuple[Method, ...]] = {
    "litert": ("percentile", "mse", "entropy", "equalised", "mixed", "qat"),
    "openvino": ("mean", "percentile", "mse", "equalised", "mixed", "qat"),
    "onnx": ("percentile", "mse", "entropy", "equalised"),
}
"""Methods after "minmax", cheapest first."""

DESCRIPTIONS: dict[Method, str] = {
    "minmax": "ranges from the smallest to the largest value seen",
    "mean": "ranges from the means of the cells' smallest and largest values",
    "percentile": "rare extreme values cut off the ranges",
    "mse": "ranges that round with the least squared error",
    "entropy": "ranges that keep most of each distribution (Kullback-Leibler)",
    "equalised": "channels of each layer brought to like ranges first",
    "mixed": "layers that int8 harms most left in float32",
    "qat": "weights fine-tuned with fake quantisation",
}


class Attempt(Strict):
    """One way of making an int8 artifact, and its figures."""

    kind: Kind
    method: Method
    trial: Agreement
    """Agreement on validation cells."""
    distance: float
    """Mean distance of the blast probability from the float model's, on the same cells."""
    held_out: Agreement | None
    """None where the attempt was over a limit on the validation cells."""
    complaint: str | None
    """What is over which limit; None for an attempt that passed."""


def try_methods(
    first: Candidate,
    limits: Limits,
    methods: Sequence[Method],
    make: Callable[[Method, float], None],
    judge: Judge,
) -> tuple[Candidate, list[Attempt]]:
    """Try ``methods`` on an int8 artifact over a limit until one passes; the last artifact measured, and all attempts.

    make: writes the artifact by a method in place of the last one; it is given the smallest distance so far.
    """
    assert first.method is not None
    candidate, attempts = first, [_attempt(first.kind, first.method, first, limits, judge)]
    for method in methods:
        make(method, min(attempt.distance for attempt in attempts))
        attempts.append(_attempt(first.kind, method, None, limits, judge))
        if attempts[-1].complaint is None:
            candidate = judge.measure(first.kind, method)
            update = {"held_out": candidate.agreement, "complaint": candidate.complaint(limits)}
            attempts[-1] = attempts[-1].model_copy(update=update)
            if attempts[-1].complaint is None:
                break
    return candidate, attempts


def _attempt(kind: Kind, method: Method, measured: Candidate | None, limits: Limits, judge: Judge) -> Attempt:
    trial, distance = judge.compare_on_trial(kind)
    return Attempt(
        kind=kind,
        method=method,
        trial=trial,
        distance=distance,
        held_out=None if measured is None else measured.agreement,
        complaint=complaint(kind, trial, 0.0, limits) if measured is None else measured.complaint(limits),
    )


def describe(attempts: Sequence[Attempt]) -> str:
    """One sentence on what was tried; empty where nothing was."""
    if not attempts:
        return ""
    best = min(attempts, key=lambda attempt: attempt.distance)
    changed = f"{100 * best.trial.flip_rate:.2f} % of {best.trial.cells} validation cells changed"
    *others, last = (attempt.method for attempt in attempts)
    names = " and ".join([", ".join(others), last] if others else [last])
    return f"For {best.kind.engine} int8 {names} were tried; nearest came {best.method} ({changed}). "


def attempt_line(attempt: Attempt) -> str:
    """An attempt in a line for the terminal."""
    held_out, changed = attempt.held_out, f"{100 * attempt.trial.flip_rate:.2f} % of validation cells changed"
    line = f"Tried {attempt.kind.engine} int8 {attempt.method}: {changed}"
    if held_out is not None:
        lost = f"{held_out.drop['weighted_f1']:+.2f} points of weighted F1"
        if "auc" in held_out.drop:
            lost += f" and {held_out.drop['auc']:+.2f} of AUC"
        line += f", {100 * held_out.flip_rate:.2f} % of held-out cells, {lost} lost"
    return f"{line}; {'over a limit' if attempt.complaint else 'taken'}."
