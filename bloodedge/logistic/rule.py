"""How a head tells a blast by features: a linear rule for any bench, and what may be added at the cells' own.

Colours tell much at the bench that the training cells come from and nothing at another, where dyes and light differ. So
a head may hold two rules, and a third that tells by the same features which of the two a cell is for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.logistic.solver import sigmoid

Floats = NDArray[np.float64]
Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Linear:
    """Log-odds that are linear in a cell's features."""

    weights: Floats
    """(D,)."""
    bias: float

    def log_odds(self, features: Features) -> Floats:
        """(N,) of features (N, D)."""
        return np.asarray(features @ self.weights.astype(np.float32), np.float64) + self.bias

    def plus(self, other: "Linear") -> "Linear":
        """The rule whose log-odds are the sum of both's."""
        return Linear(self.weights + other.weights, self.bias + other.bias)

    def times(self, factor: float) -> "Linear":
        """The rule whose log-odds are so many times these."""
        return Linear(self.weights * factor, self.bias * factor)

    def in_float16(self) -> "Linear":
        """With weights that are float16 numbers, so that files in float16 say the same."""
        return Linear(self.weights.astype(np.float16).astype(np.float64), self.bias)


@dataclass(frozen=True, eq=False)
class OwnBench:
    """What else is known of a cell of the training cells' own bench."""

    more: Linear
    """Added to the log-odds of a blast."""
    gate: Linear
    """Log-odds that a cell is of that bench: their probability is the share of ``more`` that is added."""


@dataclass(frozen=True, eq=False)
class Rule:
    """Log-odds of a blast by a cell's features."""

    any_bench: Linear
    own_bench: OwnBench | None = None

    def log_odds(self, features: Features) -> Floats:
        """(N,) of features (N, D), before any temperature."""
        found = self.any_bench.log_odds(features)
        if self.own_bench is None:
            return found
        return found + self.at_own_bench(features) * self.own_bench.more.log_odds(features)

    def at_own_bench(self, features: Features) -> Floats:
        """(N,) of features (N, D): probability that a cell is of the own bench; 0 with one rule."""
        if self.own_bench is None:
            return np.zeros(len(features))
        return sigmoid(self.own_bench.gate.log_odds(features))

    def withheld(self, features: Features) -> Floats:
        """(N,) of features (N, D): what the gate keeps from the log-odds of the own bench's rule; 0 with one rule."""
        if self.own_bench is None:
            return np.zeros(len(features))
        return (1 - self.at_own_bench(features)) * self.own_bench.more.log_odds(features)

    def opened(self, share: float) -> "Rule":
        """The rule that adds this share, 0..1, of what the gate withholds."""
        own = self.own_bench
        if own is None:
            return self
        return Rule(self.any_bench.plus(own.more.times(share)), OwnBench(own.more.times(1 - share), own.gate))

    def beside(self, other: Linear) -> "Rule":
        """The rule that tells the own bench's cells as this one does, with its gate open, and all others by another."""
        own = self.own_bench
        if own is None:
            return Rule(other)
        return Rule(other, OwnBench(self.any_bench.plus(own.more).plus(other.times(-1)), own.gate))

    def changed(self, factor: float, by: Linear) -> "Rule":
        """The rule whose log-odds are so many times these, and those of ``by`` on top."""
        own = self.own_bench
        changed = None if own is None else OwnBench(own.more.times(factor), own.gate)
        return Rule(self.any_bench.times(factor).plus(by), changed)

    @property
    def linear(self) -> list[Linear]:
        """Its linear parts: for any bench, and where there is one, what the own bench adds and the gate."""
        own = self.own_bench
        return [self.any_bench, *([own.more, own.gate] if own else [])]

    @classmethod
    def of(cls, parts: list[Linear]) -> "Rule":
        """Of what ``linear`` gave."""
        return cls(parts[0], OwnBench(*parts[1:]) if len(parts) > 1 else None)
