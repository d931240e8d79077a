"""How a run reports its progress."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bloodedge.console import Progress
from bloodedge_train.recipe import Recipe

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import BatchDone, EpochDone


@dataclass(frozen=True)
class Watcher:
    """How a run reports its progress."""

    step: Callable[[str], AbstractContextManager[Progress]]
    """Opens a progress display for a named step."""
    fitting: Callable[[Recipe, int], AbstractContextManager[tuple["BatchDone", "EpochDone"]]]
    """Opens the display of the epochs, given the recipe and the epochs done before."""
    say: Callable[[str], None]
