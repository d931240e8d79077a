"""The finder's old place, for code that has not moved with it to ``bloodedge.finder``."""

from bloodedge.finder import FinderParameters, Found, FoundCell, Rejected, estimate_um_per_px, find_cells

__all__ = ["FinderParameters", "Found", "FoundCell", "Rejected", "estimate_um_per_px", "find_cells"]
