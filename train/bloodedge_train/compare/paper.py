"""The paper's figures, as far as they are known: ``paper.toml`` beside this file, or a completed copy of it."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from bloodedge.config import Strict, read_toml, validate

FigureName = Literal["accuracy", "precision", "recall", "f1"]
PACKAGED = Path(__file__).with_name("paper.toml")


class PaperNetwork(Strict):
    """One row of the paper's Table 1; a figure that is not known is None."""

    name: str
    """As the paper spells it."""
    accuracy: float | None = Field(default=None, ge=0, le=1)
    precision: float | None = Field(default=None, ge=0, le=1)
    recall: float | None = Field(default=None, ge=0, le=1)
    f1: float | None = Field(default=None, ge=0, le=1)
    at_least: tuple[FigureName, ...] = ()
    """Figures known only as a lower bound."""

    @property
    def known(self) -> bool:
        """Whether any figure is known."""
        return any(value is not None for value in (self.accuracy, self.precision, self.recall, self.f1))


class Paper(Strict):
    """A paper's results on the data that it used."""

    title: str
    source: str
    """Where the figures in the file come from."""
    data: str
    recipe: str
    networks: dict[str, PaperNetwork]


def read_paper(path: Path | None = None) -> Paper:
    """The figures in ``path``, by default the packaged file; raises UsageError listing every mistake in it."""
    source = path or PACKAGED
    return validate(Paper, read_toml(source), str(source))
