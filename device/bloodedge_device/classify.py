"""Kind, blast probability and decision of whole cells with one bundle, whether found in a frame or cut out before."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np

from bloodedge.bundle.manifest import Manifest
from bloodedge.decision.domain import describe
from bloodedge.decision.kinds import OTHER, KindCall
from bloodedge.decision.thresholds import Reason, calibrated, decide
from bloodedge.engine import Engine
from bloodedge.imaging import Cell, Image, network_input
from bloodedge_device.frames import Floats
from bloodedge_device.kinds import KindInput, KindsOf
from bloodedge_device.latency import StageTimes

T = TypeVar("T")

Outside = Callable[[Floats | None], bool]
"""Whether a cell with these figures is to be taken for one unlike the training cells."""


@dataclass(frozen=True)
class CellClass:
    """What is said of one whole cell; the fields are those of CellResult."""

    label: str
    blast_probability: float | None = None
    reason: Reason | None = None
    figures: Floats | None = None
    kind: KindCall | None = None


class CellClassifier:
    """A bundle's network and the kind network, with the decision after them; keeps no cell.

    The figures of the domain check are computed on ``helper`` while the network runs.
    """

    def __init__(
        self, engine: Engine, manifest: Manifest, kinds: KindsOf | None, helper: Executor, times: StageTimes
    ) -> None:
        """kinds: None asks *blast or normal?* of every cell; times: where the stages' times are counted."""
        self._engine, self._manifest, self._kinds = engine, manifest, kinds
        self._helper, self._times = helper, times

    def classify(
        self,
        cells: Sequence[T],
        kind_input: Callable[[T], KindInput],
        crop: Callable[[T], Cell],
        outside: Outside | None = None,
    ) -> list[CellClass]:
        """The class of each cell; the two callables give what the networks take of it. outside: default ``is_outside``.

        *Blast or normal?* is asked of the kinds of which it can be asked.
        """
        kinds = self._kinds_of(cells, kind_input)
        classes = [CellClass(OTHER, kind=kind) for kind in kinds]
        asked = [number for number, kind in enumerate(kinds) if kind is None or kind.asked]
        images = [self._image(cells[number], crop) for number in asked]
        figures = [self._helper.submit(self._describe, image) for image in images]
        blasts = self._blast_probabilities(images)
        for number, blast, figure in zip(asked, blasts, figures, strict=True):
            classes[number] = self._decide(kinds[number], blast, figure.result(), outside or self.is_outside)
        return classes

    def is_outside(self, figures: Floats | None) -> bool:
        """Whether a cell with these figures (41,) is unlike the training cells; None: not known, and so False."""
        domain = self._manifest.domain
        if domain is None or figures is None:
            return False
        return float(domain.distances(figures[np.newaxis])[0]) > domain.limit

    def _kinds_of(self, cells: Sequence[T], kind_input: Callable[[T], KindInput]) -> Sequence[KindCall | None]:
        if self._kinds is None or not cells:
            return [None] * len(cells)
        start = perf_counter()
        calls = self._kinds([kind_input(cell) for cell in cells])
        self._count("kind", start, len(cells))
        return calls

    def _image(self, cell: T, crop: Callable[[T], Cell]) -> Image:
        with self._times.measure("imaging"):
            return network_input(crop(cell), self._manifest.imaging)

    def _describe(self, image: Image) -> Floats | None:
        if self._manifest.domain is None:
            return None
        with self._times.measure("domain"):
            return describe(image)

    def _blast_probabilities(self, images: Sequence[Image]) -> list[float]:
        """Calibrated blast probabilities of network inputs; NaN where the network gives no probabilities."""
        if not images:
            return []
        start = perf_counter()
        probabilities = self._engine.predict(np.stack(images))
        self._count("inference", start, len(images))
        return [float(blast) for blast in calibrated(probabilities, self._manifest.temperature)[:, 1]]

    def _count(self, stage: str, start: float, cells: int) -> None:
        """Count the time since ``start`` as that of so many cells."""
        each_s = (perf_counter() - start) / cells
        for _ in range(cells):
            self._times.add(stage, each_s)

    def _decide(self, kind: KindCall | None, blast: float, figures: Floats | None, outside: Outside) -> CellClass:
        with self._times.measure("decision"):
            label, reason = decide(blast, self._manifest.thresholds)
            fault = reason is Reason.MODEL_FAULT
            if outside(figures) and not fault:
                label, reason = "uncertain", Reason.OUT_OF_DOMAIN
        return CellClass(label, None if fault else blast, reason, figures, kind)
