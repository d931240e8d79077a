"""Several networks as one: the weighted mean of their calibrated blast probabilities."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile
from bloodedge.data.pictures import in_threads
from bloodedge.decision.thresholds import calibrated, require_probabilities
from bloodedge.errors import UsageError
from bloodedge.evaluation.classifier import Classifier
from bloodedge.imaging import (
    Cell,
    Image,
    ImagingSpec,
    as_image,
    network_input,
)
from bloodedge.metrics import kappa

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]
"""Network inputs (N, *ImagingSpec.input_shape)."""
Weigh = Literal["mean", "kappa"]


@dataclass(frozen=True)
class Ensemble:
    """Classifiers with their weights, which sum to 1; one classifier alone is an ensemble too."""

    members: tuple[Classifier, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, members: Sequence[Classifier], weigh: Weigh = "mean") -> Self:
        """The members with equal weights (mean), or weighted by Cohen's kappa on each one's validation part (kappa).

        Raises UsageError when their labels differ, or when the kappas are unknown or all zero.
        """
        for member in members[1:]:
            if member.labels != members[0].labels:
                raise UsageError(
                    f"{members[0].name} has the labels {', '.join(members[0].labels)} and {member.name} "
                    f"{', '.join(member.labels)}; an ensemble needs runs with the same labels."
                )
        raw = np.ones(len(members)) if weigh == "mean" else np.array([_kappa(member) for member in members])
        if not raw.any():
            raise UsageError(
                "No run is better than chance on its validation part (Cohen's kappa is 0 for all), so none has a "
                "weight; choose other runs or --weigh mean."
            )
        return cls(tuple(members), tuple(float(weight) for weight in raw / raw.sum()))

    @property
    def name(self) -> str:
        """The member's name, or all of them with their weights."""
        if len(self.members) == 1:
            return self.members[0].name
        named = (f"{weight:.2f} {member.name}" for member, weight in zip(self.members, self.weights, strict=True))
        return f"ensemble of {', '.join(named)}"

    @property
    def threshold(self) -> float:
        """The blast probability from which a cell is called a blast: the weighted mean of the members' thresholds."""
        return sum(w * member.thresholds.blast for member, w in zip(self.members, self.weights, strict=True))

    @property
    def split_alike(self) -> bool:
        """Whether all members' parts hold the same cells."""
        first = self.members[0].split
        return all((member.split.kind, member.split.parts) == (first.kind, first.parts) for member in self.members)


def _kappa(member: Classifier) -> float:
    """Cohen's kappa on the member's validation part, 0 when negative."""
    if member.validation is None:
        raise UsageError(
            f"{member.name} has no figures of a validation part, so its kappa is unknown; give the run folder itself, "
            "or --weigh mean."
        )
    return max(0.0, kappa(member.validation.confusion))


@dataclass(frozen=True)
class Predicted:
    """An ensemble's answers for N cells."""

    blast: Floats
    """(N,): calibrated blast probabilities."""
    uncalibrated: Floats
    """(N,): the same before each member's temperature."""
    example: Image
    """The first cell as the first member's network input."""


def predict(
    ensemble: Ensemble,
    cells: Sequence[CellFile],
    *,
    rescale: float = 1.0,
    turns: Literal[1, 8] = 1,
    progress: Progress | None = None,
) -> Predicted:
    """Blast probabilities of cells; each member gets inputs by its own imaging spec.

    rescale: each cell is resized by it first; turns: 8 averages over the flips and quarter turns. Raises BloodedgeError
    when a member gives no probabilities for a cell.
    """
    raw = {}
    example: Image | None = None
    for spec in dict.fromkeys(member.imaging for member in ensemble.members):
        images = _inputs(cells, spec, rescale, progress)
        example = images[0] if example is None else example
        for number, member in enumerate(ensemble.members):
            if member.imaging == spec:
                raw[number] = [_outputs(member, turned) for turned in _turned(images, turns)]
    assert example is not None
    blast, uncalibrated = np.zeros(len(cells)), np.zeros(len(cells))
    for number, (member, weight) in enumerate(zip(ensemble.members, ensemble.weights, strict=True)):
        blast += weight * np.mean([calibrated(p, member.temperature)[:, 1] for p in raw[number]], axis=0)
        uncalibrated += weight * np.mean([p[:, 1] for p in raw[number]], axis=0)
    return Predicted(blast, uncalibrated, example)


def _outputs(member: Classifier, images: Images) -> NDArray[np.float32]:
    outputs = member.engine.predict(images)
    require_probabilities(outputs, member.name)
    return outputs


def _inputs(cells: Sequence[CellFile], spec: ImagingSpec, rescale: float, progress: Progress | None) -> Images:
    def read(file: CellFile) -> Image:
        return network_input(rescaled(file.read(), rescale), spec)

    return np.stack(in_threads(read, cells, progress))


def rescaled(cell: Cell, factor: float) -> Cell:
    """The cell ``factor`` times as large in each direction, at the same micrometres per pixel."""
    if factor == 1:
        return cell
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    inside = (cell.mask > 0).astype(np.float32)
    share = cv2.resize(inside, None, fx=factor, fy=factor, interpolation=how)
    cut = cv2.resize(cell.bgr * inside[:, :, None], None, fx=factor, fy=factor, interpolation=how)
    bgr = cut / np.maximum(share, 0.5)[:, :, None]  # else the black around the cell would darken its rim
    return replace(cell, bgr=as_image(np.rint(bgr)), mask=as_image(np.where(share >= 0.5, 255, 0)))


def _turned(images: Images, count: Literal[1, 8]) -> Iterator[Images]:
    """The images as they are, or in their eight flips and quarter turns; all views of a cell are turned alike."""
    for quarters in range(4 if count == 8 else 1):
        turned = np.ascontiguousarray(np.rot90(images, quarters, axes=(-3, -2)))
        yield turned
        if count == 8:
            yield np.ascontiguousarray(turned[..., ::-1, :])
