"""Whether a slide's cells are still like the reference people's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from bloodedge.decision.reference_people import ASPECTS, FEWEST_CELLS, Aspect, Floats, Reference, aspects_of

_NAMES: dict[Aspect, str] = {
    "confidence": "confidence in",
    "area_um2": "size of",
    "stain": "stain of",
    "focus": "fine detail of",
}
_CURES: dict[Aspect, str] = {
    "confidence": "check stain, light and focus, and have cells of this slide reviewed",
    "area_um2": "check the micrometres per pixel and which kinds of cell are found",
    "stain": "check stain and white balance",
    "focus": "check focus, immersion oil and the camera's sharpening",
}


@dataclass(frozen=True)
class Drift:
    """How far one aspect of a slide's cells is from the reference people's."""

    aspect: Aspect
    cells: int
    distance: float | None
    """Kolmogorov-Smirnov distance, 0..1; None for fewer than FEWEST_CELLS cells."""
    limit: float
    """The distance that 95 % of reference people keep to each other."""
    drifted: bool | None
    """Farther than ``limit`` by more than chance; None for fewer than FEWEST_CELLS cells."""

    @property
    def sentence(self) -> str:
        """The finding and, where it has drifted, what to check."""
        what = f"The {_NAMES[self.aspect]} these cells"
        if self.distance is None:
            return f"{what} is not yet compared: {self.cells} of at least {FEWEST_CELLS} cells were classified."
        figures = f"distance {self.distance:.2f}, limit {self.limit:.2f}"
        if self.drifted:
            return f"{what} is unlike the reference people's: {figures}; {_CURES[self.aspect]}."
        return f"{what} is like the reference people's: {figures}."


def drift(reference: Reference, figures: ArrayLike, probabilities: ArrayLike, areas: Sequence[float]) -> list[Drift]:
    """Every aspect of a slide's N classified cells, each cell once.

    figures: (N, 41), of ``bloodedge.decision.domain.describe``; probabilities: (N,), of a blast, calibrated;
    areas: (N,), µm².
    """
    return drift_of_aspects(reference, aspects_of(figures, probabilities, areas))


def drift_of_aspects(reference: Reference, values: Mapping[Aspect, Floats]) -> list[Drift]:
    """As ``drift``; values: of each aspect, (N,)."""
    found = []
    for aspect in ASPECTS:
        drifted = reference.drifted(aspect, values[aspect])
        distance = None if drifted is None else reference.distance(aspect, values[aspect])
        found.append(Drift(aspect, len(values[aspect]), distance, reference.aspects[aspect].limit, drifted))
    return found
