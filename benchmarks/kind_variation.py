"""A cell as another bench might show it: other dyes, light, sharpness, scale, cytoplasm and masks."""

from typing import Any

import cv2
import numpy as np
from finder_network import dyes
from kind_examples import Example
from numpy.typing import NDArray

from bloodedge.imaging import Image, as_image
from bloodedge_device.kinds import OUTPUTS, SIDE, UM_PER_PX, transmitted

Floats = NDArray[Any]
Rng = np.random.Generator


def varied(example: Example, rng: Rng) -> tuple[Image, int]:
    """(input uint8 (SIDE, SIDE, 3), output): the cell as another bench might show it."""
    severity = rng.choice([0.0, 0.5, 1.0], p=[0.15, 0.35, 0.5])
    density, mask = _moved(example, rng)
    output = example.output
    if OUTPUTS[output] == "lymphocyte" and rng.random() < 0.35:
        density, mask = _with_more_cytoplasm(density, mask, rng)
    elif OUTPUTS[output] not in {"platelet", "artefact"} and rng.random() < 0.5:
        density = _with_other_cytoplasm(density, mask, rng)
    if rng.random() < 0.015 and OUTPUTS[output] not in {"platelet", "artefact"}:
        density, mask = _torn(density, mask, rng)
        output = OUTPUTS.index("artefact")
    mask = _other_mask(mask, rng)
    if rng.random() < 0.9:
        density = restained(density, severity, rng)
    density = photographed(density, severity, rng)
    codes = np.clip(np.rint(density * 64), 0, 255).astype(np.uint8)
    return transmitted(as_image(cv2.bitwise_and(codes, codes, mask=mask))), output


def _moved(example: Example, rng: Rng) -> tuple[Floats, Image]:
    zoom = example.um_per_px / UM_PER_PX * float(np.exp(rng.normal(0, 0.18)))
    squeeze = float(np.exp(rng.normal(0, 0.05)))
    if rng.random() < 0.25:
        squeeze = float(np.exp(rng.uniform(-0.25, 0.25)))
    x, y, width, height = cv2.boundingRect(example.mask)
    zoom = min(zoom, SIDE / max(width, height))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = np.diag([zoom * squeeze, zoom / squeeze]) @ rotation
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    middle = np.array([x + width / 2, y + height / 2])
    move = np.column_stack([linear, SIDE / 2 + rng.normal(0, 1.0, 2) - linear @ middle])
    source = example.density if zoom > 0.75 else cv2.GaussianBlur(example.density, (0, 0), 0.35 / zoom)
    density = cv2.warpAffine(source, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(example.mask, move, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    return density.astype(np.float32) / 64, ((mask > 127) * np.uint8(255)).astype(np.uint8)


def _with_other_cytoplasm(density: Floats, mask: Image, rng: Rng) -> Floats:
    """With more or less cytoplasm round the nucleus: what is in the cell is pulled to its middle or to its rim."""
    moments = cv2.moments(mask, binaryImage=True)
    if not moments["m00"]:
        return np.asarray(density, np.float32)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    reach = np.hypot(across - x, down - y) / np.float32(np.sqrt(moments["m00"] / np.pi)) + 1e-3
    pulled = np.where(reach < 1, reach ** np.float32(np.exp(rng.uniform(-0.5, 0.3)) - 1), 1).astype(np.float32)
    to = [(at + (grid - at) * pulled).astype(np.float32) for at, grid in ((x, across), (y, down))]
    return cv2.remap(density, to[0], to[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _with_more_cytoplasm(density: Floats, mask: Image, rng: Rng) -> tuple[Floats, Image]:
    """In a pale ring, wider on one side: PBC's and C-NMC's lymphocytes have little cytoplasm, others have more."""
    side = 2 * int(rng.integers(2, 10)) + 1
    grown = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    shift = np.array([[1, 0, rng.normal(0, side / 6)], [0, 1, rng.normal(0, side / 6)]], np.float32)
    grown = as_image(cv2.bitwise_or(cv2.warpAffine(grown, shift, (SIDE, SIDE), flags=cv2.INTER_NEAREST), mask))
    hue = np.array([rng.uniform(0.3, 0.7), 1, rng.uniform(0.6, 1.3)], np.float32) * rng.uniform(0.08, 0.32)
    clouds = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 3)[:, :, None]
    cover = cv2.GaussianBlur(mask, (0, 0), 0.8).astype(np.float32)[:, :, None] / 255
    return density * cover + hue * (1 + clouds) * (1 - cover), grown


def _other_mask(mask: Image, rng: Rng) -> Image:
    """Larger, smaller or with another rim, as other finders and stains give it."""
    if rng.random() < 0.3:
        return mask
    far = cv2.distanceTransform(mask, cv2.DIST_L2, 3) - cv2.distanceTransform(255 - mask, cv2.DIST_L2, 3)
    rim = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 5) * rng.uniform(0, 25)
    grown = far + rim + rng.normal(0, 2.0) > 0
    if np.count_nonzero(grown) < 0.5 * np.count_nonzero(mask):
        return mask
    return (grown * np.uint8(255)).astype(np.uint8)


def _torn(density: Floats, mask: Image, rng: Rng) -> tuple[Floats, Image]:
    """A smudge: pulled apart, paler, without structure."""
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    pulls = [
        cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 6) * rng.uniform(60, 120)
        for _ in range(2)
    ]
    torn = [cv2.remap(image, across + pulls[0], down + pulls[1], cv2.INTER_LINEAR) for image in (density, mask)]
    pale = cv2.GaussianBlur(torn[0], (0, 0), rng.uniform(1, 2.5)) * rng.uniform(0.4, 0.8)
    return pale, ((torn[1] > 127) * np.uint8(255)).astype(np.uint8)


def restained(density: Floats, severity: float, rng: Rng) -> Floats:
    """Under other dyes, stronger, weaker, and with another balance of channels."""
    mixed = dyes(rng)
    share = severity * rng.uniform(0.3, 1)
    matrix = (1 - share) * np.eye(3) + share * mixed
    stained = density @ matrix.astype(np.float32)
    if rng.random() < 0.3 * severity:
        hues = np.abs(rng.normal(0, 1, (3, 3)))
        hues /= hues.sum(axis=0, keepdims=True)
        other = rng.uniform(0.2, 0.6)
        stained = (1 - other) * stained + other * (stained @ hues.astype(np.float32))
    gain = np.exp(rng.normal(0, 0.25 * severity) + rng.normal(0, 0.18 * severity, 3)).astype(np.float32)
    stained = np.maximum(stained, 0) * gain
    if rng.random() < 0.4 * severity:
        power = np.float32(np.exp(rng.normal(0, 0.25)))
        stained = 0.5 * (stained / 0.5) ** power
    return np.asarray(stained, np.float32)


def photographed(density: Floats, severity: float, rng: Rng) -> Floats:
    """Under another light, out of focus or sharpened, with grain, JPEG's blocks, and channels that go black."""
    if rng.random() < 0.6:
        density = density + rng.normal(0, 0.035 * (0.4 + severity), 3).astype(np.float32)
    if rng.random() < 0.4:
        density = cv2.GaussianBlur(density, (0, 0), rng.uniform(0.3, 0.6 + 0.9 * severity))
    elif rng.random() < 0.25:  # a coarse camera
        size = max(1, round(SIDE / rng.uniform(1.2, 2.6)))
        small = cv2.resize(density, (size, size), interpolation=cv2.INTER_AREA)
        density = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    elif rng.random() < 0.3:
        density = density + rng.uniform(0.3, 1.2) * (density - cv2.GaussianBlur(density, (0, 0), 1.0))
    if rng.random() < 0.4:
        density = density + rng.normal(0, rng.uniform(0.005, 0.05), density.shape).astype(np.float32)
    if rng.random() < 0.25:
        density = np.minimum(density, rng.uniform(0.7, 1.6, 3).astype(np.float32))
    density = np.clip(density, 0, 2.2)
    if rng.random() < 0.25:
        level = np.clip(230 * 10 ** (-density), 0, 255).astype(np.uint8)
        packed = cv2.imencode(".jpg", level, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])[1]
        decoded = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.float32)
        density = np.clip(np.log10(231 / (decoded + 1)), 0, 2.2)
    return np.asarray(density, np.float32)
