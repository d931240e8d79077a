"""A slide's share of blasts: the estimate, when it is sure enough, and its sentences."""

import math
from dataclasses import dataclass

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.prevalence import BlastShare, ShareFigures, blast_share
from bloodedge.report import count, percent
from bloodedge_device.slide.interval import FEWEST_CLUSTERS, ClusteredShare


@dataclass(frozen=True)
class SlideShare:
    """The share of blasts on one slide."""

    counted: ClusteredShare
    """Blasts among called cells, frame by frame."""
    estimate: BlastShare
    drawn: tuple[int, int] | None = None
    """Blasts and normal cells that the simulated microscope drew in the processed frames."""

    @classmethod
    def of(cls, counted: ClusteredShare, rates: Rates | None, drawn: tuple[int, int] | None = None) -> "SlideShare":
        """rates: error rates of the artifact that called the cells."""
        estimate = blast_share(rates, counted.successes, counted.trials, counted.equivalent_trials)
        return cls(counted, estimate, drawn)

    @property
    def truth(self) -> float | None:
        """The drawn share, 0..1."""
        return None if self.drawn is None or not sum(self.drawn) else self.drawn[0] / sum(self.drawn)

    @property
    def figures(self) -> ShareFigures:
        """The figures as plain data."""
        return ShareFigures.model_validate({**vars(self.estimate), "truth": self.truth})

    def enough(self, half_width: float) -> bool:
        """Whether half of the interval's length is at most ``half_width``, after FEWEST_CLUSTERS frames or more."""
        is_known = self.estimate.corrected is not None and self.counted.clusters >= FEWEST_CLUSTERS
        return is_known and self.estimate.half_width <= half_width

    def cells_needed(self, half_width: float) -> int | None:
        """About how many more called cells are ``enough``; None when more cells would not help."""
        if self.enough(half_width):
            return 0
        if self.estimate.called is None:
            return self.counted.cells_needed(half_width)
        times = self.estimate.times_the_cells(half_width)
        if self.estimate.corrected is None or math.isinf(times):
            return None
        a_frame = self.counted.trials / self.counted.clusters
        needed = max(times * self.counted.trials, FEWEST_CLUSTERS * a_frame)
        return max(1, math.ceil(needed) - self.counted.trials)

    @property
    def is_number(self) -> bool:
        """Whether the headline is a figure."""
        return self.estimate.corrected is not None and not self.estimate.cannot_tell

    @property
    def headline(self) -> str:
        """The share in a few words, such as "31 %"."""
        estimate = self.estimate
        if estimate.corrected is not None and not estimate.cannot_tell:
            return percent(estimate.corrected)
        if estimate.called is None:
            return "no cell called"
        return "share of blasts not known" if estimate.corrected is None else "cannot tell the share of blasts"

    @property
    def interval_sentence(self) -> str:
        """The interval of the corrected share; empty where there is none."""
        share = self.estimate
        if share.corrected is None:
            return ""
        if share.corrected == 0:
            return f"No blasts, or up to {percent(share.high)} (95 % interval), corrected for errors and refusals."
        return f"{percent(share.low)} to {percent(share.high)} (95 % interval), corrected for errors and refusals."

    @property
    def limit_sentence(self) -> str:
        """What limits the share's precision; empty where it is the number of cells."""
        if self.estimate.called is None:
            return ""
        if not self.estimate.rates_known:
            return (
                "The share cannot be corrected: this bundle does not say how often it errs on enough people whom it"
                " has not seen. Convert it again with more people held out."
            )
        if self.estimate.cannot_tell:
            return (
                "This model cannot tell the share of blasts on this slide: it errs too often, or too differently, on"
                " people whom it has not seen. More cells will not help."
            )
        if self.estimate.limited_by == "classifier":
            return "The classifier's errors on people whom it has not seen limit this, more than the number of cells."
        return ""

    @property
    def called_sentence(self) -> str:
        """The share of called cells, with the interval of the count alone."""
        if self.estimate.called is None:
            return "No cell was called blast or normal, so the slide may hold any share of blasts."
        low, high = self.counted.clustered_ci95 or self.counted.ci95
        return (
            f"Of {count(self.counted.trials)} called cells, {percent(self.estimate.called)} were called blasts"
            f" ({percent(low)} to {percent(high)} by counting alone)."
        )

    @property
    def truth_sentence(self) -> str:
        """The drawn share; empty for real cameras."""
        if self.drawn is None or self.truth is None:
            return ""
        return f"Drawn by the simulator: {percent(self.truth)} blasts ({self.drawn[0]} of {count(sum(self.drawn))})."

    @property
    def sentences(self) -> list[str]:
        """All sentences beside the headline, the most important first."""
        found = (self.interval_sentence, self.limit_sentence, self.called_sentence, self.truth_sentence)
        return [sentence for sentence in found if sentence]

    @property
    def sentence(self) -> str:
        """All in one paragraph."""
        return " ".join(([f"Blasts: {self.headline}."] if self.is_number else []) + self.sentences)
