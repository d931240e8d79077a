"""Where a network looked in a cell, and which share of it lies on the cell and on its border."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunRecord
from bloodedge.decision.thresholds import LABELS, calibrated, decide, require_probabilities
from bloodedge.imaging import Cell, Image, ImagingSpec, View, as_image, network_input
from bloodedge.text import as_text
from bloodedge_train.explain.grad_cam import Network, grad_cam

Floats = NDArray[np.float32]

RING = 1 / 8
"""The border ring reaches this share of the cell's radius to either side of its outline."""


@dataclass(frozen=True)
class Look:
    """What the network saw of one cell, in each view, and where it looked."""

    views: tuple[View, ...]
    image: Image
    """The network's input: uint8 (views, size, size, 3) RGB."""
    mask: Image
    """Where the cell lies in it: uint8 (views, size, size), 255 on the cell."""
    heat: Floats
    """Evidence for ``label``: float32 (views, size, size), 0 and up."""
    label: int
    blast: float
    """Calibrated probability."""


@dataclass(frozen=True)
class Explained:
    """The findings on one image."""

    image: str
    picture: str
    said: str
    """blast, normal or uncertain."""
    blast: float
    """Calibrated probability."""
    explained: str
    """The class whose evidence was mapped."""
    on_cell: float | None
    """Share of the evidence inside the cell, in all views together, 0..1; None when nothing speaks for the class."""
    cell_share: float
    """Share of the frame that the cell fills: what evidence spread evenly would give."""
    on_border: float | None
    """Share of the evidence on the ring about the cell's outline."""
    border_share: float


def look(network: Network, record: RunRecord, cells: Sequence[Cell], label: int | None = None) -> list[Look]:
    """Grad-CAM of cells, brought to the size of the network's input; ``label`` as in ``grad_cam``."""
    spec = record.imaging
    images = np.stack([network_input(cell, spec) for cell in cells])
    maps, logits = grad_cam(network, images, label)
    labels = logits.argmax(axis=1) if label is None else [label] * len(cells)
    outputs = _softmax(logits)
    require_probabilities(outputs, "The run's network")
    blasts = calibrated(outputs, record.temperature)[:, 1]
    frames = (len(cells), len(spec.views), spec.size_px, spec.size_px)
    images, maps = images.reshape(*frames, 3), maps.reshape(*frames[:2], *maps.shape[-2:])
    return [
        Look(spec.views, image, seen_mask(cell, spec), _enlarged(heat, spec.size_px), int(which), float(blast))
        for cell, image, heat, which, blast in zip(cells, images, maps, labels, blasts, strict=True)
    ]


def _softmax(logits: Floats) -> Floats:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def _enlarged(maps: Floats, side: int) -> Floats:
    """Each map (h, w) as (side, side).

    Cubic: linear steps between the few values of a feature map show as a cross that is not there.
    """
    smooth = [cv2.resize(heat, (side, side), interpolation=cv2.INTER_CUBIC) for heat in maps]
    return np.maximum(np.array(smooth, np.float32), 0)


def seen_mask(cell: Cell, spec: ImagingSpec) -> Image:
    """Where the cell lies in the network's input: uint8 (views, size_px, size_px), 255 on the cell."""
    white = Cell(as_image(cv2.merge([cell.mask] * 3)), cell.mask, cell.um_per_px)
    place = ImagingSpec(**spec.model_dump(include={"size_px", "um_per_px", "views", "area_fraction"}))
    seen = network_input(white, place).reshape(-1, spec.size_px, spec.size_px, 3)
    return as_image(np.where(seen[..., 0] > 127, 255, 0))


def ring(mask: Image) -> Image:
    """The band about the outline of a cell's mask: uint8 (H, W) as ``mask``, 255 within RING of its radius."""
    reach = max(1, round(RING * float(np.sqrt(cv2.countNonZero(mask) / np.pi))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return as_image(cv2.subtract(cv2.dilate(mask, disc), cv2.erode(mask, disc)))


def share(heat: Floats, where: Image) -> float | None:
    """Share of ``heat`` that lies where ``where``, of the same shape, is not 0; None when there is no heat."""
    total = float(heat.sum())
    return float(heat[where > 0].sum()) / total if total > 0 else None


def explained(found: Look, record: RunRecord, path: Path, picture: Path) -> Explained:
    """The findings on one image, whose picture goes to ``picture``."""
    border = np.stack([ring(mask) for mask in found.mask])
    return Explained(
        image=as_text(path),
        picture=as_text(picture),
        said=decide(found.blast, record.thresholds)[0],
        blast=found.blast,
        explained=LABELS[found.label],
        on_cell=share(found.heat, found.mask),
        cell_share=float(np.mean(found.mask > 0)),
        on_border=share(found.heat, border),
        border_share=float(np.mean(border > 0)),
    )
