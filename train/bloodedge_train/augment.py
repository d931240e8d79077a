"""Random changes to training cells, with OpenCV: what another bench would change about the same cell."""

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image, as_image
from bloodedge_train.recipe import AugmentSpec

Random = np.random.Generator
LARGEST = 2.5
"""Normal draws are cut at this many standard deviations."""


def augment(image: Image, spec: AugmentSpec, rng: Random) -> Image:
    """A changed copy of a network input uint8 (H, W, 3) RGB; black background stays black."""
    changed = as_image(
        cv2.warpAffine(image, _geometry(image.shape[0], spec, rng), image.shape[1::-1], flags=cv2.INTER_LINEAR)
    )
    if spec.light or spec.stain or spec.colour:
        changed = as_image(cv2.LUT(changed, _light_tables(spec, rng)))
    if spec.blur:
        sigma = rng.uniform(0, spec.blur)
        if sigma > 0.3:
            changed = as_image(cv2.GaussianBlur(changed, (0, 0), sigma))
    return changed


def _normal(rng: Random, size: int | None = None) -> NDArray[np.float64]:
    return np.clip(rng.standard_normal(size), -LARGEST, LARGEST)


def _geometry(size_px: int, spec: AugmentSpec, rng: Random) -> NDArray[np.float64]:
    """Affine matrix (2, 3) about the frame's centre."""
    angle = rng.uniform(0, 2 * np.pi) if spec.rotate else 0.0
    zoom = np.exp(spec.scale * _normal(rng))
    mirror = -1.0 if spec.flip and rng.random() < 0.5 else 1.0
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= mirror
    centre = np.full(2, (size_px - 1) / 2)
    offset = centre - turn @ centre + rng.uniform(-spec.shift, spec.shift, 2) * size_px
    return np.column_stack([turn, offset])


def _light_tables(spec: AugmentSpec, rng: Random) -> NDArray[np.uint8]:
    """Lookup tables (256, 1, 3): intensity I becomes gain * I^density, which by Beer-Lambert scales lamp and stain."""
    gain = np.exp(spec.light * _normal(rng) + spec.colour * _normal(rng, 3))
    density = np.exp(spec.stain * _normal(rng) + spec.colour * _normal(rng, 3))
    level = np.arange(256)[:, None] / 255
    table = np.clip(np.rint(255 * gain * level**density), 0, 255)
    return table.astype(np.uint8)[:, None, :]
