"""The stain, the light, the focus and the camera of the simulated microscope."""

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image
from bloodedge.simulation.spec import FieldSpec, SubjectStyle

Floats = NDArray[np.float32]

LIGHT_BGR = {"warm": (186.0, 209.0, 221.0), "neutral": (212.0, 216.0, 215.0), "blue": (218.0, 205.0, 186.0)}
"""Camera levels of the empty slide, 0..255; neutral is BCCD's."""

_WARMTH_STEP = 0.06
_FULL_WELL_ELECTRONS = 9000.0
_READ_NOISE_ELECTRONS = 12.0
"""A back-lit CMOS sensor with pixels of about 1.5 µm, as in small board cameras."""


def illumination(rng: np.random.Generator, spec: FieldSpec) -> Floats:
    """Camera levels of the empty field, float32 (height, width, 3) BGR: brightest near its centre."""
    style = spec.style
    colour = np.array(LIGHT_BGR[spec.light]) * style.light_level
    colour = np.minimum(colour * (1 - _WARMTH_STEP * style.warmth, 1.0, 1 + _WARMTH_STEP * style.warmth), 250)
    centre_x, centre_y = rng.uniform(0.3, 0.7, size=2)
    x = (np.linspace(0, 1, spec.width, dtype=np.float32) - np.float32(centre_x)) ** 2
    y = (np.linspace(0, 1, spec.height, dtype=np.float32) - np.float32(centre_y)) ** 2
    fall = y[:, None] + x[None, :]
    level = 1 - np.float32(spec.unevenness) * fall / fall.max()
    return np.asarray(level[:, :, None] * colour.astype(np.float32), np.float32)


def defocused(light: Floats, sigma_px: float) -> Floats:
    """Light after a Gaussian blur; light adds up, so the blur acts on light and not on optical density."""
    if sigma_px < 0.05:
        return light
    blurred = cv2.GaussianBlur(light, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(blurred, np.float32)


def captured(rng: np.random.Generator, light: Floats, noise: float) -> Image:
    """What the camera delivers, uint8: shot noise (variance grows with the light) and read noise, rounded, clipped."""
    if noise > 0:
        per_electron = 255 / _FULL_WELL_ELECTRONS
        variance = light * np.float32(per_electron) + np.float32((_READ_NOISE_ELECTRONS * per_electron) ** 2)
        deviation = cv2.sqrt(variance) * np.float32(noise)
        light = light + deviation * rng.standard_normal(light.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)


AZURE, EOSIN, HAEMOGLOBIN = 0, 1, 2
"""Channels of an amounts map, float32 (h, w, 3)."""

_AZURE_BGR = (0.196, 0.514, 0.835)
_EOSIN_BGR = (0.283, 0.954, 0.093)
"""Unit absorption vectors of the Giemsa pair in Ruifrok and Johnston's colour deconvolution (Anal Quant Cytol Histol
2001, as tabulated in ImageJ's plugin: methylene blue and eosin)."""
_HAEMOGLOBIN_BGR = (0.770, 0.590, 0.245)
"""Haemoglobin absorbs violet-blue most (Soret band, 415 nm), then green (540 and 577 nm), red hardly."""
_HUE_STEP = 0.13
"""How far a subject's azure dye turns at ``hue`` +-1, in absorption units of its red and green."""


def absorption(style: SubjectStyle, strength: float) -> Floats:
    """Optical density per unit amount, float32 (3 BGR, 3 absorbers)."""
    turn = _HUE_STEP * style.hue
    azure = np.array(_AZURE_BGR) + np.array((0.3, 1.0, -1.0)) * turn
    columns = azure * style.azure, np.array(_EOSIN_BGR) * style.eosin, np.array(_HAEMOGLOBIN_BGR)
    return np.asarray(strength * np.stack(columns, axis=1), np.float32)


def transmittance(amounts: Floats, style: SubjectStyle, strength: float) -> Floats:
    """Share of the light that passes, float32 (h, w, 3) BGR, 0..1: ten to the minus optical density."""
    density = cv2.transform(amounts, -np.log(10).astype(np.float32) * absorption(style, strength))
    return np.asarray(cv2.exp(density), np.float32)
