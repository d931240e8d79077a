"""The finder's parameters: sizes in micrometres, colours as shares of stain."""

from typing import ClassVar

from pydantic import Field

from bloodedge.config import Strict

RED_CELL_UM = 7.5
"""Diameter of a red cell on a smear (6.2..8.2 µm in the haematology textbooks)."""

DEFAULT_UM_PER_PX = 0.1
"""Scale of a frame whose red cells cannot be measured: a 100x oil objective on a small camera sensor."""


class FinderParameters(Strict):
    """Sizes in micrometres, stain in optical density (log10) of the camera's own 8-bit values."""

    removed: ClassVar = dict.fromkeys(
        (
            "nuclear_density",
            "nuclear_noise",
            "nuclear_share",
            "blue_share",
            "lobe_gap_um",
            "lobe_um2",
            "nucleus_um2",
            "cut_nucleus_um2",
            "split_radius_um",
            "split_neck",
            "whole_nucleus_um2",
            "one_cell_solidity",
            "one_cell_overlap",
            "one_cell_um2",
            "cytoplasm_density",
            "cytoplasm_tint",
            "fringe_um",
        ),
        ...,
    )

    work_um_per_px: float = Field(default=0.2, gt=0.02, lt=1)
    """Finer frames are shrunk to about this scale, micrometres per pixel, before the search."""

    core_odds: float = Field(default=0.0, gt=-8, lt=8)
    """Log-odds by the network above which a pixel lies in the inner part of a cell."""
    seed_odds: float = Field(default=1.0, gt=-8, lt=8)
    """Every cell has a pixel there with at least these."""
    alone_odds: float = Field(default=2.5, gt=-8, lt=8)
    """The same where nothing else is stained in the frame."""
    contrast_weight: float = Field(default=0.5, ge=0, lt=10)
    """Log-odds for each deviation by which a nucleus is darker than what is stained beside the cells."""
    evidence: float = Field(default=7.0, gt=-20, lt=20)
    """Least log-odds and contrast together of a white cell."""
    core_um2: float = Field(default=3.0, gt=0, lt=200)
    """Smallest inner part of a cell."""
    cell_odds: float = Field(default=-2.0, gt=-8, lt=8)
    """Log-odds by the network at a cell's edge."""
    same_cell_share: float = Field(default=0.4, ge=0, le=1)
    """An outline that shares more than this much of its area with likelier ones is the same cell."""
    least_cell_um2: float = Field(default=25.0, gt=0, lt=200)
    """Smallest white cell."""

    grey_share: float = Field(default=0.7, gt=0, le=1)
    """Dirt is grey: its palest channel has more than this share of its darkest one's density (nuclei: 0.45 or less)."""
    red_to_green: float = Field(default=1.2, gt=0, lt=10)
    """Loose blue dye absorbs more red than green; a nucleus absorbs at most this much more (most: 0.9 or less)."""

    object_um2: float = Field(default=1.5, gt=0, lt=50)
    """Smallest rejected object that is reported."""
    small_object_um2: float = Field(default=22.0, gt=0, lt=200)
    """Smaller rejected objects are platelets or debris."""
    core_radius_um: float = Field(default=1.1, gt=0, lt=10)
    """Rejected objects without a disc of this radius are clumped platelets or torn nuclei."""

    cell_radius_um: float = Field(default=12.0, gt=2, lt=50)
    """Largest distance of a cell's edge from the middle of its nucleus."""
    cell_um2: float = Field(default=450.0, gt=50, lt=2000)
    """Largest cell; larger objects are clumps."""
    edge_share: float = Field(default=0.3, gt=0, lt=1)
    """A cell ends where density has fallen to this share of what it is just inside, ..."""
    edge_depth_um: float = Field(default=0.6, gt=0.05, lt=5)
    """... this deep in the outline: it is drawn up to half of that too wide."""
    edge_density: float = Field(default=0.03, ge=0, lt=1)
    """Lower density is empty field, ..."""
    edge_bite_um: float = Field(default=0.9, gt=0.05, lt=5)
    """... but what lies deeper than this belongs to the cell: granular cytoplasm may be as pale."""
    platelet_um2: float = Field(default=12.0, ge=0, lt=50)
    """Largest platelet (4 µm across) ..."""
    platelet_neck_um: float = Field(default=1.6, ge=0, lt=10)
    """... that is told from a cell which it touches along less than this."""
    smoothness: float = Field(default=0.35, ge=0, lt=10)
    """Cost of each step by which neighbouring rays of an outline differ, against the evidence of one pixel."""
