"""Counts cells for which the network gives no probability; a few in a row mean that it is broken."""

from bloodedge.decision.thresholds import Reason
from bloodedge_device.frames import FrameResult
from bloodedge_device.health import Level

MOST_IN_A_ROW = 5
"""Cells. A sound network never fails to give a probability; one whose memory or driver is broken fails again."""


class ModelFaults:
    """One network's cells without a probability; counted in the daemon's thread, read in any."""

    def __init__(self) -> None:
        self.cells = self.faults = self.in_a_row = 0

    def add(self, result: FrameResult) -> None:
        """Count a frame's cells, except those that the network was not asked about."""
        for cell in result.cells:
            fault = cell.reason is Reason.MODEL_FAULT
            if fault or cell.blast_probability is not None:
                self.cells += 1
                self.faults += fault
                self.in_a_row = self.in_a_row + 1 if fault else 0

    @property
    def at_fault(self) -> bool:
        """Whether the bundle is to be rolled back."""
        return self.in_a_row >= MOST_IN_A_ROW

    def condition(self) -> tuple[Level, str]:
        """For the daemon's health."""
        if not self.faults:
            return Level.OK, "The network gives a probability for every cell."
        level = Level.FAILED if self.in_a_row else Level.WARNING
        return level, (
            f"The network gave no probability for {self.faults} of {self.cells} cells, which are uncertain: model"
            " fault. Install another bundle, or convert the run again."
        )
