"""Features of some of the cells that a head was fitted to: fine-tuning knows them without their pictures.

They lie in the run folder and in the bundle. A head that is fitted to another laboratory's cells is fitted to these as
well, so that it goes on knowing them, and is judged on them by what a head said that was not fitted to their people.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import FeaturesRecord
from bloodedge.errors import BloodedgeError
from bloodedge.logistic.rule import Linear, Rule

if TYPE_CHECKING:
    from bloodedge.bundle import Bundle

FEATURES_FILE = "features.npz"
MOST_CELLS = 1500
"""People take turns. Of EfficientNet-Lite2's features they take 4 MiB, and more change a fine-tuned head no more."""
LEVELS = 255

Floats = NDArray[np.float64]
ARRAYS = {
    "codes": (np.uint8, 2),
    "low": (np.float32, 1),
    "step": (np.float32, 1),
    "labels": (np.uint8, 1),
    "people": (None, 1),
    "log_odds": (np.float32, 1),
    "weights": (np.float16, 2),
    "biases": (np.float64, 1),
    "widths": (np.int64, 1),
}


@dataclass(frozen=True, eq=False)
class TrainingFeatures:
    """N cells of D features, and the head."""

    codes: NDArray[np.uint8]
    """(N, D): features in steps of ``step`` from ``low`` on."""
    low: NDArray[np.float32]
    step: NDArray[np.float32]
    """(D,)."""
    labels: NDArray[np.uint8]
    """(N,), 1 for a blast."""
    people: NDArray[np.str_]
    """(N,): the group of each cell's subject."""
    log_odds: NDArray[np.float32]
    """(N,) of a blast, before the temperature, by a head that was fitted to none of the cell's group."""
    weights: NDArray[np.float16]
    """(parts, D) of the head's linear parts, as ``Rule.linear`` has them."""
    biases: NDArray[np.float64]
    """(parts,)."""
    widths: NDArray[np.int64]
    """(depths,): features of each depth, all views together; their sum is D."""

    @classmethod
    def of(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        people: Sequence[str],
        blast: Floats,
        rule: Rule,
        widths: Sequence[int],
        seed: int,
    ) -> Self:
        """At most MOST_CELLS of cells with features (N, D), in turns over both classes' people.

        blast: (N,), by heads that were not fitted to the cell's group; rule: the head, in float16 numbers.
        """
        chosen = in_turns(labels, people, MOST_CELLS, seed)
        some = features[chosen]
        low, high = some.min(axis=0), some.max(axis=0)
        step = np.maximum((high - low) / LEVELS, np.float32(1e-12))
        odds = np.clip(blast[chosen], 1e-7, 1 - 1e-7)
        return cls(
            codes=np.rint((some - low) / step).astype(np.uint8),
            low=low,
            step=step,
            labels=labels[chosen].astype(np.uint8),
            people=np.asarray(people, str)[chosen],
            log_odds=(np.log(odds) - np.log1p(-odds)).astype(np.float32),
            weights=np.array([part.weights for part in rule.linear], np.float16),
            biases=np.array([part.bias for part in rule.linear]),
            widths=np.array(widths, np.int64),
        )

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """(N, D): the features, to half a step."""
        return np.asarray(self.low + self.step * self.codes, np.float32)

    @cached_property
    def rule(self) -> Rule:
        """The head."""
        weights = self.weights.astype(np.float64)
        return Rule.of([Linear(row, float(bias)) for row, bias in zip(weights, self.biases, strict=True)])

    def pack(self) -> bytes:
        """``features.npz``."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in ARRAYS})
        return buffer.getvalue()

    @classmethod
    def unpack(cls, data: bytes, source: str) -> Self:
        """What ``pack`` made; raises BloodedgeError when it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ARRAYS}
            _check(arrays)
        except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError) as error:
            raise BloodedgeError(f"{source} is damaged; copy it again, or convert or train again.") from error
        return cls(**arrays)

    def record(self) -> FeaturesRecord:
        """What ``run.json`` and a bundle's manifest say of them."""
        return FeaturesRecord(file=FEATURES_FILE, cells=len(self.codes), people=len(np.unique(self.people)))


def _check(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError for arrays that do not belong together."""
    for name, (dtype, axes) in ARRAYS.items():
        if arrays[name].ndim != axes or (dtype is not None and arrays[name].dtype != dtype):
            raise ValueError(name)
    cells, features = arrays["codes"].shape
    if any(len(arrays[name]) != cells for name in ("labels", "people", "log_odds")):
        raise ValueError(cells)
    if any(len(arrays[name]) != features for name in ("low", "step")):
        raise ValueError(features)
    parts = len(arrays["biases"])
    if parts not in (1, 3) or arrays["weights"].shape != (parts, features):
        raise ValueError(parts)
    finite = all(np.isfinite(arrays[name]).all() for name in ("low", "step", "log_odds", "weights", "biases"))
    if arrays["widths"].sum() != features or not finite:
        raise ValueError(features)


def in_turns(labels: NDArray[np.int64], people: Sequence[str], most: int, seed: int) -> NDArray[np.intp]:
    """Indices, ascending, of at most ``most`` cells: half of each class where there are enough, its people in turn."""
    rng, names = np.random.default_rng(seed), np.asarray(people, str)
    queues = []
    for label in (0, 1):
        own = rng.permutation(np.flatnonzero(labels == label))
        turn = np.zeros(len(own), np.int64)
        for person in np.unique(names[own]):
            theirs = names[own] == person
            turn[theirs] = np.arange(theirs.sum())
        queues.append(own[np.argsort(turn, kind="stable")])
    normals = min(len(queues[0]), max(most // 2, most - len(queues[1])))
    return np.sort(np.concatenate([queues[0][:normals], queues[1][: most - normals]]))


def training_features(bundle: "Bundle") -> TrainingFeatures | None:
    """A bundle's; None for one without them. Raises BloodedgeError when damaged."""
    record = bundle.manifest.features
    if record is None:
        return None
    return TrainingFeatures.unpack(bundle.read(record.file), f"{bundle.path}: {record.file}")
