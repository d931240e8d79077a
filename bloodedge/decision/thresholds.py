"""From a network's probability to the verdict on a cell: blast, normal, or uncertain with a reason."""

from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError

LABELS = ("normal", "blast")
"""Class 0 is C-NMC's ``hem``, class 1 its ``all``."""


class Reason(StrEnum):
    """Why something was not classified, or not trusted: stored with each cell or frame."""

    OUT_OF_FOCUS = "out_of_focus"
    MOTION_BLUR = "motion_blur"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    NO_CELL = "no_cell"
    BAD_FRAME = "bad_frame"
    ABSTAIN_BAND = "abstain_band"
    OUT_OF_DOMAIN = "out_of_domain"
    MODEL_FAULT = "model_fault"
    CUT_BY_BORDER = "cut_by_border"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    NO_NUCLEUS = "no_nucleus"
    CLUMP = "clump"
    RAGGED = "ragged"


WHY_UNCERTAIN: dict[str, str] = {
    Reason.ABSTAIN_BAND: "too near the line between normal and blast",
    Reason.OUT_OF_DOMAIN: "unlike the training cells",
    Reason.MODEL_FAULT: "the network gave no probability",
    Reason.CUT_BY_BORDER: "cut by the frame's border",
}
"""Why a cell is uncertain, in words."""


class Thresholds(Strict):
    """Calibrated blast probabilities at which a cell is called; between the uncertain bounds the device abstains."""

    blast: float = Field(default=0.5, gt=0, lt=1)
    uncertain_low: float = Field(default=0.35, ge=0, le=1)
    uncertain_high: float = Field(default=0.65, ge=0, le=1)

    def describe(self) -> str:
        """In words, such as "blast from 0.5 on; uncertain between 0.35 and 0.65"."""
        return f"blast from {self.blast:g} on; uncertain between {self.uncertain_low:g} and {self.uncertain_high:g}"

    @model_validator(mode="after")
    def _in_order(self) -> "Thresholds":
        if not self.uncertain_low <= self.blast <= self.uncertain_high:
            raise ValueError("uncertain_low <= blast <= uncertain_high must hold")
        return self


SLACK = 0.02
"""How far outputs may be from 0..1, and their sum from 1: int8 ones come in steps of 1/256, each rounded by itself."""


def is_fault(outputs: ArrayLike) -> NDArray[np.bool_]:
    """Whether each row (N,) of a network's outputs (N, classes) is no probabilities.

    That is: not finite, out of 0..1, or not summing to one.
    """
    p = np.asarray(outputs, np.float64)
    with np.errstate(invalid="ignore"):
        sound = (p >= -SLACK).all(axis=-1) & (p <= 1 + SLACK).all(axis=-1) & (np.abs(p.sum(axis=-1) - 1) <= SLACK)
    return np.asarray(~sound, np.bool_)


def require_probabilities(outputs: ArrayLike, who: str) -> None:
    """Raise BloodedgeError when rows of a network's outputs (N, classes) are no probabilities; ``who`` gave them."""
    faults = is_fault(outputs)
    if faults.any():
        raise BloodedgeError(
            f"{who} gave no probabilities for {faults.sum()} of {faults.size} cells (they are not finite, out of 0..1,"
            " or do not sum to one); train or convert it again."
        )


def calibrated(outputs: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Temperature-scaled class probabilities (Guo et al., ICML 2017) from softmax outputs.

    outputs: (N, classes), 0..1; a row that is no probabilities (see is_fault) gives NaN. Softmax outputs determine the
    logits up to a constant, so log p serves as logit; probabilities below 1/1024 (an int8 output's 0 among them) count
    as 1/1024.
    """
    p = np.asarray(outputs, np.float64)
    faults = is_fault(p)[..., np.newaxis]
    logits = np.log(np.maximum(np.where(faults, 1.0, p), 1 / 1024)) / temperature
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.where(faults, np.nan, exponent / exponent.sum(axis=-1, keepdims=True))


def decide(blast_probability: float, thresholds: Thresholds) -> tuple[str, Reason | None]:
    """(``"blast"``, ``"normal"`` or ``"uncertain"``, reason) for a calibrated blast probability; NaN is a fault."""
    if not 0 <= blast_probability <= 1:
        return "uncertain", Reason.MODEL_FAULT
    if thresholds.uncertain_low < blast_probability < thresholds.uncertain_high:
        return "uncertain", Reason.ABSTAIN_BAND
    return LABELS[int(blast_probability >= thresholds.blast)], None
