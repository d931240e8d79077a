"""A bundle's networks, opened at the features that their heads take."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import Artifact
from bloodedge.data.training_features import TrainingFeatures, training_features
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.logistic.rule import Rule
from bloodedge_convert.litert.head import LiteRTHead
from bloodedge_convert.openvino.head import OpenVINOHead

Floats = NDArray[np.float64]
FLOAT = ("float32", "float16")
LIKE = 0.05
"""Largest difference of a weight from the released head's: int8 rounds a head's weights by a 256th of the largest."""


@dataclass(frozen=True)
class Network:
    """One artifact whose layers of the head are in the order of the features."""

    artifact: Artifact
    head: LiteRTHead | OpenVINOHead
    order: list[int]
    """Of the head's layers, the one of each depth."""

    @property
    def name(self) -> str:
        """Such as "litert/int8"."""
        return f"{self.artifact.engine}/{self.artifact.precision}"

    def features(self, images: NDArray[np.uint8], progress: Callable[[int, int], None]) -> NDArray[np.float32]:
        """(N, D) of network inputs."""
        parts = []
        for start in range(0, len(images), 16):
            found = self.head.features(images[start : start + 16])
            parts.append(np.concatenate([found[layer] for layer in self.order], axis=1))
            progress(min(start + 16, len(images)), len(images))
        return np.concatenate(parts)

    def replaced(self, rule: Rule, widths: NDArray[np.int64]) -> list[bytes]:
        """The artifact's files with another head of as many linear parts."""
        ends = np.cumsum(widths)[:-1]
        depths = [np.split(part.weights, ends) for part in rule.linear]
        kernels = [[parts[self.order.index(layer)] for layer in range(len(parts))] for parts in depths]
        made = self.head.replaced(kernels, [part.bias for part in rule.linear])
        return [made] if isinstance(made, bytes) else list(made)


def open_features(bundle: Bundle) -> TrainingFeatures:
    """The features that a bundle carries; UsageError where it has none or no float network."""
    kept = training_features(bundle)
    if kept is None:
        raise UsageError(
            f"{bundle.path} carries no features of its training cells and cannot be fine-tuned; take a bundle that was "
            "converted with this version from a run of a head (bloodedge train --recipe cells, or head)."
        )
    if not any(artifact.precision in FLOAT for artifact in bundle.manifest.artifacts):
        raise UsageError(
            f"{bundle.path} has no float network, by which the features of your cells are computed; convert its run "
            "with --float16."
        )
    return kept


def open_networks(bundle: Bundle, kept: TrainingFeatures | None) -> list[Network]:
    """Every artifact, a float one first (OpenVINO's where there is one); raises UsageError for ONNX.

    kept: of the same head; None leaves the head's layers in the order in which they are.
    """
    found = []
    for artifact in bundle.manifest.artifacts:
        if artifact.engine not in ("litert", "openvino"):
            raise UsageError(
                f"{bundle.path} has an {artifact.engine} network, which cannot be fine-tuned; convert its run with "
                "--engine litert --engine openvino."
            )
        model = bundle.read(artifact.file)
        if artifact.weights_file:
            head: LiteRTHead | OpenVINOHead = OpenVINOHead(model, bundle.read(artifact.weights_file))
        else:
            head = LiteRTHead(model)
        order = _order(bundle, artifact, head.kernels, kept) if kept else list(range(len(head.kernels)))
        found.append(Network(artifact, head, order))
    return sorted(found, key=lambda one: (one.artifact.precision not in FLOAT, one.artifact.engine != "openvino"))


def _order(bundle: Bundle, artifact: Artifact, kernels: list[Floats], kept: TrainingFeatures) -> list[int]:
    """The layer of each depth, recognised by its weights."""
    order = []
    for part in np.split(kept.rule.any_bench.weights, np.cumsum(kept.widths)[:-1]):
        like = [n for n, k in enumerate(kernels) if k.shape == part.shape and np.abs(k - part).max() <= LIKE]
        order += [n for n in like if n not in order][:1]
    if len(order) != len(kernels):
        raise BloodedgeError(
            f"{bundle.path}: the head of its {artifact.engine} {artifact.precision} network is not the one that its "
            "features belong to; convert its run again."
        )
    return order
