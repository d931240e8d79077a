"""Features of cells, each picture's computed once."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, inputs
from bloodedge.data.pictures import in_threads
from bloodedge.imaging import Cell, ImagingSpec, network_input
from bloodedge.imaging.filming import at_another_bench, in_a_field
from bloodedge_train.heads.backbone import Backbone
from bloodedge_train.heads.cache import FeatureCache, key_of
from bloodedge_train.heads.extract import Extractor, extractor
from bloodedge_train.heads.int8 import with_int8_activations

Floats = NDArray[np.float32]
Pictures = Callable[[Sequence[CellFile], ImagingSpec], NDArray[np.uint8]]
"""Network inputs of cells."""

BLOCK = 256
"""Cells decoded at a time."""
INT8_CELLS, RANGE_CELLS = 512, 64
"""Cells by which int8's noise is known, and those of them over which activations' ranges are taken."""
SHOWN_CELLS = 2048
"""Cells by which it is known what other cameras and benches change."""
FILMING = 3
"""Raised whenever ``imaging.filming`` changes: what the cache holds is then another's."""


@dataclass(frozen=True)
class Way:
    """How something else shows a cell."""

    name: str
    """Names it in the cache: another one for another ``show``."""
    show: Callable[[Cell, np.random.Generator], Cell]
    seed: int = 0

    def __call__(self, cells: Sequence[CellFile], imaging: ImagingSpec) -> NDArray[np.uint8]:
        """Network inputs of the cells, each always shown alike."""

        def one(cell: CellFile) -> NDArray[np.uint8]:
            rng = np.random.default_rng(int(cell.input_digest[:16], 16) + self.seed)
            return network_input(self.show(cell.read(), rng), imaging)

        return np.stack(in_threads(one, cells))


BY_CAMERA, AT_BENCH = Way("camera", in_a_field), Way("bench", at_another_bench)
"""As cameras at the cells' own bench show them, and as other benches do."""


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
    way: Way | None = None,
) -> Floats:
    """float32 (N, width): of each depth in turn those of every view, averaged over the map.

    way: how the cells are shown; as they are by default. Only what ``cache`` lacks is computed, and kept there, even
    when the work is interrupted.
    """
    key = spec.key() if way is None else spec.key(shown=f"{way.name} {FILMING}")
    return _kept(cells, spec, key, lambda: spec.backbone, way or inputs, cache, progress)


def int8_features(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    cache: FeatureCache | None = None,
    progress: Progress | None = None,
) -> tuple[Floats, Floats]:
    """Features float32 (n, width) of some of the cells, and the same with int8's activations."""
    chosen = some_cells(cells, INT8_CELLS)

    def rounded() -> Backbone:
        images = inputs(some_cells(chosen, RANGE_CELLS), spec.imaging)
        return with_int8_activations(spec.backbone, images.reshape(-1, *images.shape[-3:]))

    changed = _kept(chosen, spec, spec.key(int8=_digest(chosen)), rounded, inputs, cache, progress)
    return features(chosen, spec, cache), changed


def some_cells(cells: Sequence[CellFile], most: int) -> Sequence[CellFile]:
    """At most so many of the cells, evenly spread."""
    return cells[:: max(1, len(cells) // most)][:most]


def _digest(cells: Sequence[CellFile]) -> str:
    return hashlib.sha256("".join(cell.input_digest for cell in cells).encode()).hexdigest()


def _kept(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    key: str,
    backbone: Callable[[], Backbone],
    pictures: Pictures,
    cache: FeatureCache | None,
    progress: Progress | None,
) -> Floats:
    """Features of ``pictures`` by the network of ``backbone``, which is asked for only where the cache lacks some."""
    known = cache.load(key, spec.width) if cache else {}
    unique = {cell.input_digest: cell for cell in cells}
    missing = [cell for digest, cell in unique.items() if digest not in known]
    try:
        if missing:
            _compute(missing, replace(spec, backbone=backbone()), pictures, known, progress)
    finally:
        if cache and missing and known:
            cache.store(key, known)
    found = np.empty((len(cells), spec.width), np.float32)
    if cells:
        np.stack([known[cell.input_digest] for cell in cells], out=found)
    return found


def _compute(
    cells: Sequence[CellFile],
    spec: FeatureSpec,
    pictures: Pictures,
    known: dict[str, Floats],
    progress: Progress | None,
) -> None:
    """Add the cells' features to ``known``."""
    extract = extractor(spec.backbone)
    for start in range(0, len(cells), BLOCK):
        block = cells[start : start + BLOCK]
        found = _of(pictures(block, spec.imaging), extract)
        known.update(zip((cell.input_digest for cell in block), found, strict=True))
        if progress:
            progress(start + len(block), len(cells))


def _of(images: NDArray[np.uint8], extract: Extractor) -> Floats:
    """Features (N, width) of network inputs (N, H, W, 3) or (N, V, H, W, 3)."""
    depths = extract(images.reshape(-1, *images.shape[-3:]))
    return np.concatenate([values.reshape(len(images), -1) for values in depths], axis=1)
