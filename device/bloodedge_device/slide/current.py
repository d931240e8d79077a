"""The slide that lies under the microscope."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from bloodedge.decision.prevalence import Rates
from bloodedge_device.latency import StageTimes
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.slide.statistics import Tally


@dataclass
class SlideInWork:
    """What is kept of one slide while its frames come."""

    id: int
    """Of its row in the store; another one when a new database had to be begun."""
    label: str
    pipeline: Pipeline
    rates: Rates | None = None
    """How often the artifact that calls its cells errs; None where its bundle does not say."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    tally: Tally = field(default_factory=Tally)

    @property
    def times(self) -> StageTimes:
        """How long its stages take."""
        return self.pipeline.times
