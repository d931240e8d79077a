"""Beer-Lambert absorption in a Romanowsky-stained smear: azure dye, eosin and haemoglobin."""

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.simulation.spec import SubjectStyle

Floats = NDArray[np.float32]

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
