"""A slide's differential count as results with LOINC codes.

The codes are those without a method, as a count on pictures of a smear is neither an analyser's automated count nor a
manual one. Codes and names: LOINC (loinc.org), Regenstrief Institute; they were compared with a published list of
LOINC's own names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bloodedge import RESEARCH_USE, __version__
from bloodedge.errors import UsageError
from bloodedge_device.report.reading import DeviceReport
from bloodedge_device.slide.differential import Differential, DifferentialRow

PANEL = ("69738-3", "Differential panel, method unspecified - Blood")
CODES = {
    "blast": ("26446-5", "Blasts/Leukocytes in Blood"),
    "neutrophil": ("26511-6", "Neutrophils/Leukocytes in Blood"),
    "band": ("26508-2", "Band form neutrophils/Leukocytes in Blood"),
    "segmented": ("26505-8", "Segmented neutrophils/Leukocytes in Blood"),
    "lymphocyte": ("26478-8", "Lymphocytes/Leukocytes in Blood"),
    "monocyte": ("26485-3", "Monocytes/Leukocytes in Blood"),
    "eosinophil": ("26450-7", "Eosinophils/Leukocytes in Blood"),
    "basophil": ("30180-4", "Basophils/Leukocytes in Blood"),
    "immature_granulocyte": ("38518-7", "Immature granulocytes/Leukocytes in Blood"),
    "erythroblast": ("19048-8", "Nucleated erythrocytes/Leukocytes [Ratio] in Blood"),
}
PER_CENT, PER_100_LEUCOCYTES = "%", "/100{WBCs}"
"""Units in UCUM."""


@dataclass(frozen=True)
class Result:
    """One figure of the count."""

    key: str
    """Of CODES."""
    value: float
    unit: str
    note: str
    """Cells and interval, a sentence."""

    @property
    def loinc(self) -> str:
        """Its LOINC code."""
        return CODES[self.key][0]

    @property
    def name(self) -> str:
        """LOINC's name."""
        return CODES[self.key][1]


@dataclass(frozen=True)
class Results:
    """A slide's results."""

    report: DeviceReport
    specimen: str
    """The specimen's number as the laboratory's system has it; empty where none was given."""
    figures: tuple[Result, ...]
    conclusion: str
    """What to read with them, For Research Use Only first."""

    @property
    def slide_id(self) -> str:
        """A name of the slide that says nothing about the person."""
        return f"slide-{self.report.slide}"

    @property
    def device(self) -> str:
        """What made the results."""
        return f"bloodedge {__version__}, bundle {self.report.manifest.name} {self.report.manifest.serial}"


def results_of(report: DeviceReport, specimen: str = "") -> Results:
    """A slide's results, after review where a person reviewed kinds; UsageError without leucocytes."""
    after = report.reviewed_differential
    count = after or report.differential
    if count is None or not count.leucocytes:
        raise UsageError(
            f"Slide {report.slide} has no differential count to send: no leucocyte's kind was told; choose another with"
            " --slide ID."
        )
    how = "After a person's review of kinds." if after else "Not reviewed by a person."
    words = (RESEARCH_USE, how, *report.warnings, *count.sentences, count.beside_sentence)
    return Results(report, specimen, tuple(_figures(count)), " ".join(words))


def _figures(count: Differential) -> Iterator[Result]:
    for row in count.rows:
        yield _figure(row, count)
        if row.kind == "neutrophil" and count.band + count.segmented:
            for stage, cells in (("band", count.band), ("segmented", count.segmented)):
                value = round(100 * cells / count.leucocytes, 1)
                yield Result(stage, value, PER_CENT, f"{cells} of {count.leucocytes} leucocytes.")
    red = round(count.erythroblasts_per_100 or 0.0, 1)
    yield Result("erythroblast", red, PER_100_LEUCOCYTES, f"{count.erythroblasts} cells beside the leucocytes.")


def _figure(row: DifferentialRow, count: Differential) -> Result:
    share, low, high, how = row.share or 0.0, row.low, row.high, "exact limits"
    if row.corrected is not None and row.corrected_low is not None and row.corrected_high is not None:
        share, low, high, how = row.corrected, row.corrected_low, row.corrected_high, "corrected for errors"
    interval = f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, {how}"
    note = f"{row.cells} of {count.leucocytes} leucocytes as told; {interval}."
    return Result(row.kind, round(100 * share, 1), PER_CENT, note)
