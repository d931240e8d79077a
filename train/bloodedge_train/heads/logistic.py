"""A logistic head: fitted with classes and people weighted evenly, its penalty chosen over people held back in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.dataset import CLASS_NAMES
from bloodedge.data.split import deal
from bloodedge.errors import UsageError
from bloodedge.logistic.basis import Basis, Noise
from bloodedge.logistic.rule import Linear, OwnBench, Rule
from bloodedge.logistic.solver import Problems, sigmoid, solve
from bloodedge.metrics import auc
from bloodedge_train.recipe import HeadSpec

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Labels = NDArray[np.int64]

FEWEST_FOLDS = 2
GATE_PENALTY = 0.1
"""Of the rule that tells benches apart: with it hardly a cell of people not seen is on the wrong side."""


@dataclass(frozen=True)
class Choice:
    """A penalty with its figures on people held back in turn, each cell weighted as in fitting."""

    penalty: float
    loss: float
    """Mean log loss."""
    auc: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Shown:
    """Features of some cells, and of the same ones as something else shows them."""

    plain: Features
    """(n, D)."""
    changed: Features
    """(n, D)."""
    groups: NDArray[np.str_]
    """(n,): who stays together."""

    def noise(self, weight: float) -> Noise:
        """What the change adds to the log-odds, to be penalised."""
        return Noise(self.changed - self.plain, weight)


@dataclass(frozen=True, eq=False)
class Bears:
    """What a head has to bear, beside people that it has not seen; nothing by default."""

    int8: Noise | None = None
    steps: Floats | None = None
    """As ``Basis`` takes them."""
    cameras: Shown | None = None
    """Cells as cameras at the training cells' own bench show them."""
    benches: Shown | None = None
    """Cells as other benches show them; needs ``cameras``."""


@dataclass(frozen=True, eq=False)
class Head:
    """A rule on features as they are, in float16 numbers, and how it was chosen."""

    rule: Rule
    penalty: float
    choices: tuple[Choice, ...]
    """Every penalty that was tried; of two rules those of the own bench's."""
    inner: Floats
    """Blast probabilities (N,) of the cells it was fitted to, each by a head that was fitted to none of its group."""
    folds: NDArray[np.int64]
    """(N,): the fold in which each cell was held back."""

    def blast_probability(self, features: Features) -> Floats:
        """(N,) of features (N, D), before any temperature."""
        return sigmoid(self.rule.log_odds(features))


def fit_head(
    features: Features,
    labels: Labels,
    groups: Sequence[str],
    spec: HeadSpec,
    seed: int = 0,
    bears: Bears | None = None,
) -> Head:
    """Choose a penalty by people held back in turn, then fit to all.

    features: (N, D); groups: who stays together (N,). Where the head has to bear other benches, one rule is fitted for
    the cells' own bench, one for any, and a gate between them. Raises UsageError when a class has fewer than two
    groups.
    """
    bears = bears or Bears()
    folds = inner_folds(labels, groups, spec.inner_folds, seed)
    int8 = [bears.int8] if bears.int8 else []
    cameras = [bears.cameras.noise(spec.camera_noise)] if bears.cameras and spec.camera_noise else []
    own = _fit_rule(features, labels, groups, spec, folds, [*int8, *cameras], bears.steps)
    if bears.benches is None:
        return own
    noises = [*int8, bears.benches.noise(spec.bench_noise)]
    any_ = _fit_rule(features, labels, groups, spec, folds, noises, bears.steps)
    gate, ours = fit_gate(features, groups, spec, folds, bears)
    at_any, at_own = any_.rule.any_bench, own.rule.any_bench
    rule = Rule(at_any, OwnBench(at_own.plus(at_any.times(-1)).in_float16(), gate))
    log_odds = _log_odds(any_.inner) + ours * (_log_odds(own.inner) - _log_odds(any_.inner))
    return replace(own, rule=rule, inner=sigmoid(log_odds))


def _fit_rule(
    features: Features,
    labels: Labels,
    groups: Sequence[str],
    spec: HeadSpec,
    folds: NDArray[np.int64],
    noises: Sequence[Noise],
    steps: Floats | None,
) -> Head:
    """One linear rule, its penalty chosen over the folds (N,)."""
    penalties = np.asarray(spec.penalties)
    kept = [folds != fold for fold in range(folds.max() + 1)]
    basis = Basis(features, noises, steps)
    seen = basis.of(features)
    coefficients, intercepts = _solve(seen, labels, groups, kept, penalties, spec)
    blasts = np.empty((len(labels), len(penalties)))
    for fold in range(len(kept)):
        out, columns = folds == fold, slice(fold * len(penalties), (fold + 1) * len(penalties))
        blasts[out] = sigmoid(seen[out] @ coefficients[:, columns].astype(np.float32) + intercepts[columns])
    weights = weigh(labels, groups, spec)
    choices = tuple(_judged(p, blasts[:, n], labels, weights) for n, p in enumerate(spec.penalties))
    best = min(range(len(choices)), key=lambda n: choices[n].loss)
    everyone = [np.ones(len(labels), bool)]
    final, bias = _solve(seen, labels, groups, everyone, penalties[best : best + 1], spec)
    rule = Rule(_on_raw_features(basis, final[:, 0], bias[0]))
    return Head(rule, spec.penalties[best], choices, blasts[:, best], folds)


def fit_gate(
    features: Features, groups: Sequence[str], spec: HeadSpec, folds: NDArray[np.int64], bears: Bears
) -> tuple[Linear, Floats]:
    """What tells cells as they are from those that cameras or other benches show, and the probability (N,) of that.

    Cameras count as others: with them on its own side the gate lets the own bench's colours mislead under other dyes.

    Each cell's probability is by a gate that was fitted to none of its group.
    """
    cameras, benches = bears.cameras, bears.benches
    assert cameras is not None
    assert benches is not None
    shown = np.concatenate([cameras.plain, cameras.changed, benches.changed])
    ours = np.repeat([1, 0], [len(cameras.plain), len(cameras.changed) + len(benches.changed)])
    people = np.concatenate([cameras.groups, cameras.groups, benches.groups])
    fold_of = dict(zip(groups, folds.tolist(), strict=True))
    known = np.isin(people, list(fold_of))  # of people that the head is fitted to, and of nobody else
    shown, ours, people = shown[known], ours[known], people[known]
    fold = np.array([fold_of[person] for person in people])
    basis = Basis(shown, [bears.int8] if bears.int8 else [], bears.steps)
    kept = [*(fold != number for number in range(folds.max() + 1)), np.ones(len(fold), bool)]
    coefficients, intercepts = _solve(basis.of(shown), ours, people.tolist(), kept, np.array([GATE_PENALTY]), spec)
    rules = [_on_raw_features(basis, coefficients[:, n], intercepts[n]) for n in range(len(kept))]
    found = np.empty(len(features))
    for number, rule in enumerate(rules[:-1]):
        out = folds == number
        found[out] = sigmoid(rule.log_odds(features[out]))
    return rules[-1], found


def _on_raw_features(basis: Basis, coefficients: Floats, intercept: float) -> Linear:
    weights = basis.raw(coefficients)
    rounded = Linear(weights, 0.0).in_float16().weights
    return Linear(rounded, float(intercept - basis.centre @ rounded))


def _log_odds(probability: Floats) -> Floats:
    inside = np.clip(probability, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def inner_folds(labels: Labels, groups: Sequence[str], count: int, seed: int) -> NDArray[np.int64]:
    """(N,): a fold for each cell, the same for all of a group, both classes in each; fewer where people are few.

    Raises UsageError when a class has fewer than two groups.
    """
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    cells = np.zeros((len(names), 2))
    np.add.at(cells, (owner, labels), 1)
    for label, name in enumerate(CLASS_NAMES):
        have = int((cells[:, label] > 0).sum())
        if have < FEWEST_FOLDS:
            raise UsageError(
                f"Only {have} independent group{'s' if have != 1 else ''} of subjects to train on with {name} cells; "
                "a head is chosen by holding people back in turn and needs two of each class. Add subjects."
            )
        count = min(count, have)
    dealt = deal(cells, np.full(count, 1 / count), np.random.default_rng([seed, 1]))
    return dealt[owner]


def weigh(labels: Labels, groups: Sequence[str], spec: HeadSpec) -> Floats:
    """(N,), their sum 1: half for each class, and within a class what ``spec.people`` says for each group."""
    _, owner = np.unique(np.asarray(groups), return_inverse=True)
    weights = np.zeros(len(labels))
    for label in (0, 1):
        members = labels == label
        cells = np.bincount(owner[members])[owner[members]]
        share = {"even": 1 / cells, "sqrt": 1 / np.sqrt(cells), "cells": np.ones(len(cells))}[spec.people]
        weights[members] = share / share.sum() / 2
    return weights


def _solve(
    features: Features,
    labels: Labels,
    groups: Sequence[str],
    kept: Sequence[NDArray[np.bool_]],
    penalties: Floats,
    spec: HeadSpec,
) -> tuple[Floats, Floats]:
    """Coefficients (D, F * P) and intercepts of F choices of cells (N,), each with P penalties."""
    weights = np.zeros((len(labels), len(kept)), np.float32)
    for number, chosen in enumerate(kept):
        people = [group for group, yes in zip(groups, chosen, strict=True) if yes]
        weights[chosen, number] = weigh(labels[chosen], people, spec)
    each = np.repeat(weights, len(penalties), axis=1)
    return solve(Problems(features, labels, each, np.tile(penalties, len(kept))))


def _judged(penalty: float, blasts: Floats, labels: Labels, weights: Floats) -> Choice:
    right = np.where(labels == 1, blasts, 1 - blasts)
    loss = -float((weights * np.log(np.maximum(right, 1e-12))).sum())
    return Choice(penalty, loss, auc(labels, blasts) or 0.0, float((weights * (right > 0.5)).sum()))
