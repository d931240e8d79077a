"""The middles of white cells, one piece of the network's core map each."""

from dataclasses import dataclass

import cv2
import numpy as np

from bloodedge.finder.network import PER_UNIT, ZERO, Maps
from bloodedge.finder.parameters import FinderParameters
from bloodedge.imaging import Box, Image

MOST = 600
"""Most cells of a frame that are outlined, the likeliest first: the work of any frame is bounded."""


@dataclass(frozen=True)
class Seed:
    """The inner part of one cell: mask uint8 (h, w) 0/255 of the box's size, in a shrunken frame's pixels."""

    box: Box
    mask: Image
    odds: float
    """Highest log-odds of being a cell's core."""

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y): the mean of its pixels."""
        moments = cv2.moments(self.mask, binaryImage=True)
        return self.box[0] + moments["m10"] / moments["m00"], self.box[1] + moments["m01"] / moments["m00"]


def seeds_in(maps: Maps, um_per_px: float, parameters: FinderParameters) -> list[Seed]:
    """Seeds of a frame's maps at the frame's scale, the likeliest first."""
    low = ZERO + PER_UNIT * parameters.core_odds
    inner = (maps.core > low).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(inner)
    core = maps.core[top : top + height, left : left + width]
    if not core.size:
        return []
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        inner[top : top + height, left : left + width], connectivity=4
    )
    large = stats[:, cv2.CC_STAT_AREA] * um_per_px**2 >= parameters.core_um2
    large[0] = False
    found = []
    for label in np.flatnonzero(large)[np.argsort(-stats[large, cv2.CC_STAT_AREA], kind="stable")][: 2 * MOST]:
        x, y, width, height = (int(v) for v in stats[label][:4])
        window = np.s_[y : y + height, x : x + width]
        mask = (labels[window] == label).astype(np.uint8) * 255
        odds = (int(core[window][mask > 0].max()) - ZERO) / PER_UNIT
        if odds >= parameters.seed_odds:
            found.append(Seed((left + x, top + y, width, height), mask, odds))
    return sorted(found, key=lambda seed: -seed.odds)[:MOST]
