"""Where a network looked in a cell, and which share of it lies on the cell and on its border."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.run_record import RunRecord
from bloodedge.decision.thresholds import LABELS, calibrated, decide, require_probabilities
from bloodedge.imaging import Cell, Image, ImagingSpec, as_image, network_input
from bloodedge.text import as_text
from bloodedge_train.explain.grad_cam import Network, grad_cam

Floats = NDArray[np.float32]

RING = 1 / 8
"""The border ring reaches this share of the cell's radius to either side of its outline."""


@dataclass(frozen=True)
class Look:
    """What the network saw of one cell and where it looked."""

    image: Image
    """The network's input, optical densities as the light that they let through: uint8 (size, size, 3) RGB."""
    mask: Image
    """Where the cell lies in it: uint8 (size, size), 255 on the cell."""
    heat: Floats
    """Evidence for ``label``: float32 (size, size), 0 and up."""
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
    """Share of the evidence inside the cell, 0..1; None when nothing speaks for the class."""
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
    side = images.shape[1:3]
    return [
        Look(image, seen_mask(cell, spec), _enlarged(heat, side), int(which), float(blast))
        for cell, image, heat, which, blast in zip(cells, images, maps, labels, blasts, strict=True)
    ]


def _softmax(logits: Floats) -> Floats:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True), np.float32)


def _enlarged(heat: Floats, side: tuple[int, ...]) -> Floats:
    """Cubic: linear steps between the few values of a feature map show as a cross that is not there."""
    smooth = np.asarray(cv2.resize(heat, side[::-1], interpolation=cv2.INTER_CUBIC), np.float32)
    return np.maximum(smooth, 0)


def seen_mask(cell: Cell, spec: ImagingSpec) -> Image:
    """Where the cell lies in the network's input: uint8 (size_px, size_px), 255 on the cell."""
    white = Cell(as_image(cv2.merge([cell.mask] * 3)), cell.mask, cell.um_per_px)
    place = ImagingSpec(**spec.model_dump(include={"size_px", "um_per_px", "views", "area_fraction"}))
    return as_image(np.where(network_input(white, place)[:, :, 0] > 127, 255, 0))


def ring(mask: Image) -> Image:
    """The band about the outline of a cell's mask: uint8 as ``mask``, 255 within RING of its radius."""
    reach = max(1, round(RING * float(np.sqrt(cv2.countNonZero(mask) / np.pi))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return as_image(cv2.subtract(cv2.dilate(mask, disc), cv2.erode(mask, disc)))


def share(heat: Floats, where: Image) -> float | None:
    """Share of ``heat`` (H, W) that lies where ``where`` (H, W) is not 0; None when there is no heat."""
    total = float(heat.sum())
    return float(heat[where > 0].sum()) / total if total > 0 else None


def explained(found: Look, record: RunRecord, path: Path, picture: Path) -> Explained:
    """The findings on one image, whose picture goes to ``picture``."""
    border = ring(found.mask)
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
