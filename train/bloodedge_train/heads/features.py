"""Features of cells, each picture's computed once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, inputs
from bloodedge.imaging import ImagingSpec
from bloodedge_train.heads.backbone import Backbone
from bloodedge_train.heads.cache import FeatureCache, key_of
from bloodedge_train.heads.extract import Extractor, extractor
from bloodedge_train.heads.int8 import with_int8_activations

Floats = NDArray[np.float32]

BLOCK = 256
"""Cells decoded at a time."""
INT8_CELLS, RANGE_CELLS = 512, 64
"""Cells by which int8's noise is known, and those of them over which activations' ranges are taken."""


@dataclass(frozen=True)
class FeatureSpec:
    """What features are of, beside the pictures."""

    backbone: Backbone
    imaging: ImagingSpec

    @property
    def views(self) -> int:
        """Frames that the network sees of each cell."""
        return len(self.imaging.views)

    @property
    def width(self) -> int:
        """Features of a cell."""
        return self.views * sum(self.backbone.widths)

    def key(self, **more: str) -> str:
        """The cache's key."""
        return key_of(weights=self.backbone.digest, imaging=self.imaging.model_dump(mode="json"), **more)


def features(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Floats:
    """float32 (N, width): of each depth in turn those of every view, averaged over the map.

    Only what ``cache`` lacks is computed, and kept there, even when the work is interrupted.
    """
    return _kept(cells, spec, spec.key(), lambda: spec.backbone, cache, progress)


def int8_noise(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Floats:
    """float32 (n, width): what int8's activations change in the features of some of the cells, less its mean."""
    chosen = cells[:: max(1, len(cells) // INT8_CELLS)][:INT8_CELLS]
    of = hashlib.sha256("".join(cell.input_digest for cell in chosen).encode()).hexdigest()

    def rounded() -> Backbone:
        images = inputs(chosen[:: max(1, len(chosen) // RANGE_CELLS)][:RANGE_CELLS], spec.imaging)
        return with_int8_activations(spec.backbone, images.reshape(-1, *images.shape[-3:]))

    noise = _kept(chosen, spec, spec.key(int8=of), rounded, cache, progress) - features(chosen, spec, cache)
    return np.asarray(noise - noise.mean(axis=0), np.float32)


def _kept(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    key: str,
    backbone: Callable[[], Backbone],
    cache: FeatureCache | None,
    progress: Progress | None,
) -> Floats:
    """Features by the network of ``backbone``, which is asked for only where the cache lacks some."""
    known = cache.load(key, spec.width) if cache else {}
    unique = {cell.input_digest: cell for cell in cells}
    missing = [cell for digest, cell in unique.items() if digest not in known]
    try:
        if missing:
            _compute(missing, replace(spec, backbone=backbone()), known, progress)
    finally:
        if cache and missing and known:
            cache.store(key, known)
    found = np.empty((len(cells), spec.width), np.float32)
    if cells:
        np.stack([known[cell.input_digest] for cell in cells], out=found)
    return found


def _compute(cells: Sequence[CellFile], spec: FeatureSpec, known: dict[str, Floats], progress: Progress | None) -> None:
    """Add the cells' features to ``known``."""
    extract = extractor(spec.backbone)
    for start in range(0, len(cells), BLOCK):
        block = cells[start : start + BLOCK]
        known.update(zip((cell.input_digest for cell in block), _of(inputs(block, spec.imaging), extract), strict=True))
        if progress:
            progress(start + len(block), len(cells))


def _of(images: NDArray[np.uint8], extract: Extractor) -> Floats:
    """Features (N, width) of network inputs (N, H, W, 3) or (N, V, H, W, 3)."""
    depths = extract(images.reshape(-1, *images.shape[-3:]))
    return np.concatenate([values.reshape(len(images), -1) for values in depths], axis=1)
