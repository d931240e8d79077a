"""Random changes to training cells: what another bench would change about the same cell.

The draws are made by NumPy from seed, epoch and batch alone; the changes are applied by Keras' own operations, so that
they run inside the training step on whatever computes it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge_train.recipe import AugmentSpec

Random = np.random.Generator
Floats = NDArray[np.float32]
Draws = dict[str, Floats]
"""Each (B, ...) float32; see ``draw``."""

LARGEST = 2.5
"""Normal draws are cut at this many standard deviations."""


def draw(spec: AugmentSpec, count: int, size_px: int, rng: Random) -> Draws:
    """Draws for a batch of ``count`` cells in frames of ``size_px``.

    matrix (B, 2, 3): from a changed pixel (x, y) to where it comes from; gain and power (B, 3): by Beer-Lambert,
    intensity I becomes gain * I^power; contrast (B,); sigma (B,): blur in pixels; share (B,): of the cell in its mixup.
    """
    share = np.ones(count)
    if spec.mixup:
        share[:] = rng.beta(spec.mixup, spec.mixup)
    draws = {
        "matrix": _geometry(spec, count, size_px, rng),
        "gain": np.exp(spec.light * _normal(rng, (count, 1)) + spec.colour * _normal(rng, (count, 3))),
        "power": np.exp(spec.stain * _normal(rng, (count, 1)) + spec.colour * _normal(rng, (count, 3))),
        "contrast": np.exp(spec.contrast * _normal(rng, (count,))),
        "sigma": rng.uniform(0, spec.blur, count),
        "share": np.maximum(share, 1 - share),
    }
    return {name: values.astype(np.float32) for name, values in draws.items()}


def _normal(rng: Random, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.clip(rng.standard_normal(shape), -LARGEST, LARGEST)


def _geometry(spec: AugmentSpec, count: int, size_px: int, rng: Random) -> NDArray[np.float64]:
    """Affine matrices (B, 2, 3) about the frame's centre."""
    angle = rng.uniform(0, 2 * np.pi, count) * spec.rotate
    zoom = np.exp(-spec.scale * _normal(rng, (count,)))
    mirror = np.where(rng.random(count) < 0.5 * spec.flip, -1.0, 1.0)
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    turn = np.stack([np.stack([mirror * cos, -sin], -1), np.stack([mirror * sin, cos], -1)], 1)
    centre = np.full(2, (size_px - 1) / 2)
    offset = centre - turn @ centre + rng.uniform(-spec.shift, spec.shift, (count, 2)) * size_px
    return np.concatenate([turn, offset[:, :, None]], axis=2)


def augment(images: Any, draws: Any, spec: AugmentSpec) -> Any:
    """Changed network inputs of uint8 ``images`` (B, H, W, 3) or, of several views of each cell, (B, V, H, W, 3).

    All views of a cell are changed alike; black surroundings stay black. ``draws``: tensors as of ``draw``.
    """
    from keras import ops

    shape = tuple(images.shape[1:])
    if len(shape) == 4:
        draws = {name: ops.repeat(values, shape[0], axis=0) for name, values in draws.items()}
        images = ops.reshape(images, (-1, *shape[1:]))
    changed = _warp(images, draws["matrix"]) if spec.moves else ops.cast(images, "float32")
    if spec.light or spec.stain or spec.colour:
        changed = _lit(changed, draws["gain"][:, None, None], draws["power"][:, None, None])
    if spec.contrast:
        changed = _contrasted(changed, draws["contrast"][:, None, None, None])
    if spec.blur:
        changed = _blurred(changed, draws["sigma"], spec.blur)
    if spec.mixup:
        share = draws["share"][:, None, None, None]
        partners = ops.flip(ops.reshape(changed, (-1, *shape)), axis=0)
        changed = share * changed + (1 - share) * ops.reshape(partners, (-1, *shape[-3:]))
    return ops.reshape(ops.cast(ops.clip(ops.round(changed), 0, 255), "uint8"), (-1, *shape))


def _warp(images: Any, matrix: Any) -> Any:
    """Bilinear resampling of (B, H, W, C) at ``matrix`` times each pixel; black beyond the frame."""
    from keras import ops

    _, height, width, channels = images.shape
    flat = ops.reshape(images, (-1, height * width, channels))
    row, column = np.indices((height, width), np.float32).reshape(2, 1, -1)
    x = matrix[:, 0, 0:1] * column + matrix[:, 0, 1:2] * row + matrix[:, 0, 2:3]
    y = matrix[:, 1, 0:1] * column + matrix[:, 1, 1:2] * row + matrix[:, 1, 2:3]
    left, top = ops.floor(x), ops.floor(y)
    total = 0.0
    for across, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + across, top + down
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = (1 - ops.abs(x - column)) * (1 - ops.abs(y - row)) * ops.cast(inside, "float32")
        place = ops.cast(ops.clip(row, 0, height - 1) * width + ops.clip(column, 0, width - 1), "int32")
        total += weight[:, :, None] * ops.cast(ops.take_along_axis(flat, place[:, :, None], axis=1), "float32")
    return ops.reshape(total, (-1, height, width, channels))


def _lit(image: Any, gain: Any, power: Any) -> Any:
    from keras import ops

    level = ops.maximum(image, 1e-3) / 255
    return ops.where(image > 0.5, ops.clip(255 * gain * ops.power(level, power), 0, 255), 0.0)


def _contrasted(image: Any, factor: Any) -> Any:
    """Levels spread about the mean of each channel on the cell."""
    from keras import ops

    cell = ops.cast(ops.max(image, axis=-1, keepdims=True) > 0.5, "float32")
    mean = ops.sum(image, axis=(1, 2), keepdims=True) / ops.maximum(ops.sum(cell, axis=(1, 2), keepdims=True), 1.0)
    return cell * ops.clip(mean + factor * (image - mean), 0, 255)


def _blurred(image: Any, sigma: Any, largest: float) -> Any:
    """A Gaussian of each image's own ``sigma`` (B,), cut at three times the ``largest``."""
    from keras import ops

    reach = max(1, int(np.ceil(3 * largest)))
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    weights = ops.exp(-0.5 * ops.square(offsets[None] / ops.maximum(sigma, 0.1)[:, None]))
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (reach, reach)
        padded, length = ops.pad(image, widths), image.shape[axis]
        parts = [
            weights[:, n, None, None, None] * (padded[:, n : n + length] if axis == 1 else padded[:, :, n : n + length])
            for n in range(2 * reach + 1)
        ]
        image = sum(parts[1:], parts[0])
    return image
