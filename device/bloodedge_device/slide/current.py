"""The slide under the microscope."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.kind_shares import KindRates
from bloodedge.decision.slide_verdict import PeopleScores
from bloodedge_device.latency import StageTimes
from bloodedge_device.slide.differential import TARGET
from bloodedge_device.slide.tally import Tally


@dataclass
class CurrentSlide:
    """What is kept of a slide while its frames come."""

    id: int
    """Of its row in the store; changes when a new database had to be begun."""
    label: str
    rates: Rates | None = None
    """How often the artifact that calls its cells errs; None where its bundle does not say."""
    times: StageTimes = field(default_factory=StageTimes)
    """How long its stages take."""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    people_scores: PeopleScores | None = None
    """Held-out people's scores of the bundle; None where it has none."""
    kind_rates: KindRates | None = None
    """How often the kind network errs; None where that is not known."""
    target: int = TARGET
    """Leucocytes to be counted."""
    tally: Tally = field(default_factory=Tally)
