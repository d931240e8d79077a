"""A slide's figures: counts, the share of blasts with its interval, and everything that was not classified."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.kind_shares import KindRates
from bloodedge.decision.kinds import OTHER
from bloodedge.decision.slide_verdict import PeopleScores, ScoreCounts, SlideVerdict, slide_verdict
from bloodedge.decision.thresholds import LABELS
from bloodedge.metrics import wilson
from bloodedge_device.slide.differential import Differential, KindKey
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.share import SlideShare


@dataclass(frozen=True)
class SlideStatistics:
    """Counts over one slide; reasons are those of bloodedge.decision.thresholds.Reason, most frequent first."""

    frames_processed: int
    frames_dropped: int
    """Replaced by a newer frame before the pipeline was free."""
    frames_without_cells: int
    frames_rejected: dict[str, int]
    """Rejected frames by reason."""
    cells: dict[str, int]
    """Cells by label: normal, blast, uncertain, and other, of which *blast or normal?* is not asked."""
    uncertain: dict[str, int]
    """Uncertain cells by reason."""
    not_cells: dict[str, int]
    """Objects that the finder rejected, by reason."""
    repeated: int
    """Views of cells of which an earlier or better view is counted."""
    clustered: ClusteredShare
    """Blasts among called cells, frame by frame."""
    scores: ScoreCounts
    """Called cells and those in the abstain band, by blast probability."""
    drawn: tuple[int, int] | None = None
    """Blasts and normal cells that the simulated microscope drew in the processed frames; None of a real camera."""
    kinds: Mapping[KindKey, int] = field(default_factory=dict)
    """Cells whose kind was told, by kind, stage and label."""

    @property
    def frames_seen(self) -> int:
        """All frames of the camera."""
        return self.frames_processed + self.frames_dropped

    @property
    def cells_total(self) -> int:
        """White cells found."""
        return sum(self.cells.values())

    @property
    def called(self) -> int:
        """Cells called either normal or blast."""
        return sum(self.cells[label] for label in LABELS)

    @property
    def blast_share(self) -> float | None:
        """Blasts among the called cells, 0..1; None before the first."""
        return self.cells["blast"] / self.called if self.called else None

    @property
    def blast_ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``blast_share``: as if cells were independent."""
        return wilson(self.cells["blast"], self.called)

    @property
    def asked(self) -> int:
        """Cells of which *blast or normal?* is asked, those cut by the frame's border included."""
        return self.cells_total - self.cells[OTHER]

    @property
    def uncertain_share(self) -> float | None:
        """Uncertain cells among those asked, 0..1; None before the first."""
        return self.cells["uncertain"] / self.asked if self.asked else None

    @property
    def _other_words(self) -> str:
        return f", {self.cells[OTHER]} of other kinds" if self.cells[OTHER] else ""

    def share(self, rates: Rates | None) -> SlideShare:
        """The slide's share of blasts; rates: of the artifact that called its cells."""
        return SlideShare.of(self.clustered, rates, self.drawn)

    def differential(self, kind_rates: KindRates | None, share: SlideShare, target: int) -> Differential | None:
        """The differential count; None where no kind was told. See ``Differential.of``."""
        return Differential.of(self.kinds, kind_rates, share, target)

    def verdict(self, people: PeopleScores | None) -> SlideVerdict | None:
        """What the slide as a whole looks like; people: of the bundle that called its cells, None where it has none."""
        return slide_verdict(people, self.scores)

    def sentence(self, rates: Rates | None, people: PeopleScores | None = None) -> str:
        """The slide's figures in a few sentences."""
        rejected = sum(self.frames_rejected.values())
        verdict = self.verdict(people)
        return (
            f"{self.frames_seen} frames ({self.frames_dropped} dropped, {rejected} rejected), "
            f"{self.cells_total} cells, {self.cells['uncertain']} uncertain{self._other_words}."
            f" {self.share(rates).sentence}" + (f" {verdict.sentence}" if verdict else "")
        )
