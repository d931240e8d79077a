"""How a data folder says of each picture its class, its person and its scale; ``run.json`` records it."""

import shlex
from typing import Literal

from pydantic import Field

from bloodedge.config import FileName, Strict

ClassName = Literal["normal", "blast"]


class DataLayout(Strict):
    """Where class, person and scale of a picture stand. The default is C-NMC 2019's: folders hem/ and all/."""

    classes: dict[str, ClassName] = Field(default_factory=dict)
    """Names of folders, or labels of the table, in lower case. Empty: hem, normal (and 0) and all, blast (and 1)."""
    labels: FileName | None = None
    """The table of labels, a CSV file; relative to the data folder where it lies inside."""
    image_column: str | None = None
    label_column: str | None = None
    subject_column: str | None = None
    um_per_px_column: str | None = None
    subject: str | None = None
    """A regular expression whose first group is the subject: of a file's name or path, or of ``subject_column``."""
    one_person: bool = False
    """Whether all cells whose subject is not known are one person's."""
    um_per_px: float | None = Field(default=None, gt=0.005, lt=5)
    """Micrometres per pixel of all pictures that have none in the table."""

    @property
    def says_labels(self) -> bool:
        """Whether it changes a picture's class or scale."""
        return bool(self.classes or self.labels or self.um_per_px)

    def options(self) -> str:
        """The options of a command line that read data so; empty for the default."""
        pairs = ",".join(f"{name}={what}" for name, what in self.classes.items())
        given = {
            "--classes": pairs,
            "--labels": self.labels,
            "--image-column": self.image_column,
            "--label-column": self.label_column,
            "--subject-column": self.subject_column,
            "--um-per-px-column": self.um_per_px_column,
            "--subject": self.subject,
            "--um-per-px": self.um_per_px and f"{self.um_per_px:g}",
        }
        words = [f"{option} {shlex.quote(value)}" for option, value in given.items() if value]
        return " ".join([*words, *["--one-person"] * self.one_person])
