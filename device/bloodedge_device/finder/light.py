"""The old place of ``bloodedge.finder.light``."""

from bloodedge.finder.light import DENSITY_CODES, density_codes, light_at, stain_of

__all__ = ["DENSITY_CODES", "density_codes", "light_at", "stain_of"]
