"""Settings of a simulated field: subject, smear, light and camera."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from bloodedge.config import Strict
from bloodedge.decision.kinds import Kind

OtherKind = Literal[Kind.NEUTROPHIL, Kind.MONOCYTE, Kind.EOSINOPHIL, Kind.BASOPHIL]
Share = Annotated[float, Field(ge=0, le=1)]
MIXED: dict[OtherKind, float] = {
    Kind.NEUTROPHIL: 0.45,
    Kind.MONOCYTE: 0.08,
    Kind.EOSINOPHIL: 0.05,
    Kind.BASOPHIL: 0.02,
}
"""Other kinds in a mixed smear, about as in a patient's blood; the other 0.4 are lymphocytes and blasts."""

Factor = Annotated[float, Field(gt=0.3, lt=3)]


class SubjectStyle(Strict):
    """How one subject's slide differs from the average one: its staining, its cells and the light of its session."""

    azure: Factor = 1.0
    """Uptake of the azure dye, relative."""
    eosin: Factor = 1.0
    """Uptake of eosin, relative."""
    hue: float = Field(default=0.0, ge=-1, le=1)
    """Polychroming of the azure dye: -1 bluer, +1 redder."""
    cell_size: Factor = 1.0
    """White cells' diameters, relative (they stay inside their textbook range)."""
    red_cell_size: Factor = 1.0
    """Red cells' diameters, relative (they stay within 6..8.5 µm)."""
    chromatin_grain: Factor = 1.0
    """Size of the chromatin's clumps, relative: fixation and drying change it."""
    light_level: Factor = 1.0
    """Exposure of the session, relative."""
    warmth: float = Field(default=0.0, ge=-1, le=1)
    """Lamp and white balance of the session: -1 bluer, +1 yellower."""

    @classmethod
    def of(cls, seed: int) -> "SubjectStyle":
        """The style of subject number ``seed`` of an endless row of subjects."""
        rng = np.random.default_rng([seed, 0x57])

        def factor(spread: float) -> float:
            return float(np.exp(spread * np.clip(rng.standard_normal(), -2, 2)))

        return cls(
            azure=factor(0.15),
            eosin=factor(0.15),
            hue=float(rng.uniform(-1, 1)),
            cell_size=factor(0.06),
            red_cell_size=factor(0.03),
            chromatin_grain=factor(0.22),
            light_level=factor(0.04),
            warmth=float(rng.uniform(-1, 1)),
        )


class FieldSpec(Strict):
    """One field of view as ``render_field`` draws it."""

    width: int = Field(default=640, ge=64, le=4096)
    height: int = Field(default=480, ge=64, le=4096)
    um_per_px: float = Field(default=0.1, ge=0.03, le=0.5)
    """With the default a red cell of 7.5 µm is 75 pixels wide."""
    red_cells_per_1000_um2: float = Field(default=10.0, ge=0, le=25)
    """Density; 9 cover two fifths of the field. Fewer are drawn where ``overlap`` leaves no room for more."""
    platelets_per_1000_um2: float = Field(default=0.7, ge=0, le=10)
    white_cells: tuple[int, int] = (1, 3)
    """Fewest and most white cells of a field; fewer are drawn when no more fit."""
    blast_share: float = Field(default=0.5, ge=0, le=1)
    """Probability that a white cell is a blast; the others are normal lymphocytes."""
    other_kinds: dict[OtherKind, Share] = Field(default_factory=dict)
    """Shares of the white cells that are of other kinds, 0..1 together; the rest are lymphocytes and blasts."""
    overlap: float = Field(default=0.2, ge=0, le=0.9)
    """How deep red cells may lie over each other, as a share of the distance at which they touch."""
    light: Literal["warm", "neutral", "blue"] = "neutral"
    unevenness: float = Field(default=0.12, ge=0, le=0.6)
    """Share of the light that is missing in the darkest corner."""
    stain_strength: float = Field(default=1.0, ge=0, le=4)
    """Multiplies every optical density."""
    defocus_um: float = Field(default=0.15, ge=0, le=5)
    """Standard deviation of the Gaussian blur; 0.1 to 0.2 is a 100x oil objective in focus."""
    sensor_noise: float = Field(default=1.0, ge=0, le=10)
    """1 is a small CMOS camera at low gain, 0 no noise."""
    style: SubjectStyle = SubjectStyle()

    @model_validator(mode="after")
    def _numbers_fit(self) -> "FieldSpec":
        fewest, most = self.white_cells
        if not 0 <= fewest <= most:
            raise ValueError("white_cells must be two numbers, the fewest and the most, from 0 up")
        if sum(self.other_kinds.values()) > 1 + 1e-9:
            raise ValueError("other_kinds are shares of the white cells; together they must be at most 1")
        return self
