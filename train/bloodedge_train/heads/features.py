"""Features of cells, each look at each picture computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, inputs
from bloodedge.imaging import ImagingSpec
from bloodedge_train.heads.backbone import Backbone
from bloodedge_train.heads.cache import FeatureCache, key_of
from bloodedge_train.heads.extract import Extractor, extractor
from bloodedge_train.heads.looks import PLAIN, Look

Floats = NDArray[np.float32]

BLOCK = 256
"""Cells decoded at a time."""


@dataclass(frozen=True)
class FeatureSpec:
    """What features are of, beside the pictures."""

    backbone: Backbone
    imaging: ImagingSpec
    looks: Sequence[Look] = (PLAIN,)

    @property
    def views(self) -> int:
        """Frames that the network sees of each cell."""
        return len(self.imaging.views)

    @property
    def width(self) -> int:
        """Features of a cell."""
        return self.views * sum(self.backbone.widths)

    def key(self, look: Look) -> str:
        """The cache's key of one look."""
        return key_of(weights=self.backbone.digest, imaging=self.imaging.model_dump(mode="json"), look=look.key)


def features(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> Floats:
    """float32 (looks, N, width): of each depth in turn those of every view, averaged over the map.

    Only what ``cache`` lacks is computed, and kept there, even when the work is interrupted.
    """
    keys = [spec.key(look) for look in spec.looks]
    known = [cache.load(key, spec.width) if cache else {} for key in keys]
    before = [len(found) for found in known]
    try:
        _compute(cells, spec, known, progress)
    finally:
        if cache:
            for key, found, count in zip(keys, known, before, strict=True):
                if len(found) > count:
                    cache.store(key, found)
    together = np.empty((len(keys), len(cells), spec.width), np.float32)
    for rows, found in zip(together, known, strict=True):
        if cells:
            np.stack([found[cell.pixels_digest] for cell in cells], out=rows)
    return together


def _compute(
    cells: Sequence[CellFile], spec: FeatureSpec, known: list[dict[str, Floats]], progress: Progress | None
) -> None:
    """Add what is missing to ``known``, the features of each look by picture."""
    unique = list({cell.pixels_digest: cell for cell in cells}.values())
    missing = [cell for cell in unique if any(cell.pixels_digest not in found for found in known)]
    if not missing:
        return
    extract, total = extractor(spec.backbone), len(missing) * len(known)
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        images = inputs(block, spec.imaging)
        for number, (look, found) in enumerate(zip(spec.looks, known, strict=True)):
            wanted = [n for n, cell in enumerate(block) if cell.pixels_digest not in found]
            digests = [block[n].pixels_digest for n in wanted]
            if wanted:
                found.update(zip(digests, _of(look(images[wanted], digests), extract), strict=True))
            if progress:
                progress(start * len(known) + len(block) * (number + 1), total)


def _of(images: NDArray[np.uint8], extract: Extractor) -> Floats:
    """Features (N, width) of network inputs (N, H, W, 3) or (N, V, H, W, 3)."""
    depths = extract(images.reshape(-1, *images.shape[-3:]))
    return np.concatenate([values.reshape(len(images), -1) for values in depths], axis=1)
