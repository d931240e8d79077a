"""The finder's parameters: sizes in micrometres, colours as shares of stain."""

from pydantic import Field

from bloodedge.config import Strict

RED_CELL_UM = 7.5
"""Diameter of a red cell on a smear (6.2..8.2 µm in the haematology textbooks)."""

DEFAULT_UM_PER_PX = 0.1
"""Scale of a frame whose red cells cannot be measured: a 100x oil objective on a small camera sensor."""


class FinderParameters(Strict):
    """Sizes in micrometres, stain in optical density (log10) of the camera's own 8-bit values."""

    work_um_per_px: float = Field(default=0.2, gt=0.02, lt=1)
    """Finer frames are shrunk to about this scale, micrometres per pixel, before the search."""

    nuclear_density: float = Field(default=0.1, gt=0, lt=1)
    """Lowest nuclear stain of an object that is examined."""
    nuclear_noise: float = Field(default=5.0, gt=0, lt=100)
    """The same, in robust standard deviations of the frame's nuclear stain."""
    nuclear_share: float = Field(default=0.5, gt=0, lt=1)
    """A nucleus is where an object has at least this share of its own deepest nuclear stain."""
    blue_share: float = Field(default=0.3, gt=0, lt=1)
    """Dirt is grey: a nucleus has less than this share of its density in the blue channel."""

    red_to_green: float = Field(default=1.2, gt=0, lt=10)
    """Loose blue dye absorbs more red than green; a nucleus absorbs at most this much more."""

    lobe_gap_um: float = Field(default=1.6, ge=0, lt=10)
    """Lobes of one nucleus lie closer than this."""
    lobe_um2: float = Field(default=1.5, gt=0, lt=50)
    """Smallest piece of a nucleus."""
    nucleus_um2: float = Field(default=22.0, gt=0, lt=200)
    """Smallest nucleus of a white cell; smaller objects are platelets or debris."""
    cut_nucleus_um2: float = Field(default=15.0, gt=0, lt=200)
    """The same where the frame's border cuts it."""
    core_radius_um: float = Field(default=1.1, gt=0, lt=10)
    """Every nucleus contains a disc of at least this radius; clumped platelets do not."""
    split_radius_um: float = Field(default=2.4, gt=0, lt=10)
    """Two touching nuclei are separated only if each contains a disc of this radius ..."""
    split_neck: float = Field(default=0.75, gt=0, lt=1)
    """... and the neck between them is narrower than this share of the smaller disc."""

    whole_nucleus_um2: float = Field(default=40.0, gt=0, lt=200)
    """A compact piece of at least this size may be a nucleus of its own beside others."""
    one_cell_solidity: float = Field(default=0.92, gt=0.5, le=1)
    """Two outlines that overlap are one cell when together they fill this share of their convex hull ..."""
    one_cell_overlap: float = Field(default=0.08, ge=0, le=1)
    """... and share this much of the smaller of them ..."""
    one_cell_um2: float = Field(default=330.0, gt=50, lt=2000)
    """... and are together no larger than this."""

    cell_radius_um: float = Field(default=12.0, gt=2, lt=50)
    """Largest distance of a cell's edge from the middle of its nucleus."""
    cell_um2: float = Field(default=450.0, gt=50, lt=2000)
    """Largest cell; larger objects are clumps."""
    cytoplasm_density: float = Field(default=0.35, gt=0, lt=1)
    """Where a cell ends: density as a share of the red cells' own."""
    cytoplasm_tint: float = Field(default=0.3, gt=0, lt=1)
    """Where a red cell (0) ends and cytoplasm begins in tint: nuclear stain over density, relative to the nuclei's."""
    edge_share: float = Field(default=0.3, gt=0, lt=1)
    """A cell ends where density has fallen to this share of what it is just inside, ..."""
    edge_depth_um: float = Field(default=0.6, gt=0.05, lt=5)
    """... this deep in the outline: it is drawn up to half of that too wide."""
    edge_density: float = Field(default=0.03, ge=0, lt=1)
    """Lower density is empty field, ..."""
    edge_bite_um: float = Field(default=0.9, gt=0.05, lt=5)
    """... but what lies deeper than this belongs to the cell: granular cytoplasm may be as pale."""
    fringe_um: float = Field(default=0.4, ge=0, lt=5)
    """Blur before colours are compared, against the coloured fringes that a lens leaves at edges."""
    platelet_um2: float = Field(default=12.0, ge=0, lt=50)
    """Largest platelet (4 µm across) ..."""
    platelet_neck_um: float = Field(default=1.6, ge=0, lt=10)
    """... that is told from a cell which it touches along less than this."""
    smoothness: float = Field(default=0.35, ge=0, lt=10)
    """Cost of each step by which neighbouring rays of an outline differ, against the evidence of one pixel."""
