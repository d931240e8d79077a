"""Optical density and dyes: what a stained cell takes out of the light, by Beer-Lambert's law.

A dye's optical density OD = -log10(I / I0) grows in proportion to its concentration, which intensity does not, and the
densities of dyes that lie over each other add up (Ruifrok & Johnston, "Quantification of histochemical staining by
color deconvolution", Anal. Quant. Cytol. Histol. 23, 2001). I0, the light that passes clear glass, is level 255; where
a camera is exposed to less, every density is higher by the same constant.
"""

from decimal import Decimal, localcontext
from functools import cache

import numpy as np
from numpy.typing import NDArray

DENSITY_MAX = Decimal("1.5")
"""Density of code 255, that of level 8. C-NMC's cells are dark: 39 % of their green levels lie below 26 (density 1),
10 % below 20 (1.1) and 0.8 % below 16 (1.2); what is below 8 is the cut-out's rim."""

METHYLENE_BLUE = 0.834750233, 0.513556283, 0.196330403
EOSIN = 0.092789, 0.954111, 0.283111
"""Densities (red, green, blue) of one unit of the two dyes of Romanowsky stains, as measured by G. Landini for the
"Giemsa" vectors of ImageJ's Colour Deconvolution plugin (scikit-image has them as ``rgb_from_bex``)."""


@cache
def density_table() -> NDArray[np.uint8]:
    """The density code of each level of light, uint8 (256,): round(255 * min(OD, DENSITY_MAX) / DENSITY_MAX).

    Level 0 counts as 1, whose density is finite. Decimal logarithms are correctly rounded, so the table is the same on
    every machine.
    """
    with localcontext(prec=30):
        densities = [(Decimal(255) / max(level, 1)).log10() for level in range(256)]
        codes = [round(255 * min(density, DENSITY_MAX) / DENSITY_MAX) for density in densities]
    table = np.array(codes, np.uint8)
    table.flags.writeable = False
    return table


def romanowsky() -> NDArray[np.float64]:
    """The dyes' densities, float64 (3, 3): rows methylene blue, eosin and their residual, columns red, green, blue.

    Rows have unit length. The residual stands at right angles to both dyes: what neither of them explains.
    """
    dyes = np.array([METHYLENE_BLUE, EOSIN, np.cross(METHYLENE_BLUE, EOSIN)])
    return np.asarray(dyes / np.linalg.norm(dyes, axis=1, keepdims=True), np.float64)


def unmixing() -> NDArray[np.float64]:
    """The matrix that takes densities (..., red green blue) from the right to dye concentrations (..., dyes)."""
    return np.asarray(np.linalg.inv(romanowsky()), np.float64)
