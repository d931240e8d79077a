"""A logistic head: fitted with classes and people weighted evenly, its penalty chosen over people held back in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.dataset import CLASS_NAMES
from bloodedge.data.split import deal
from bloodedge.errors import UsageError
from bloodedge.logistic.basis import Basis, Int8Noise
from bloodedge.logistic.solver import Problems, sigmoid, solve
from bloodedge.metrics import auc
from bloodedge_train.recipe import HeadSpec

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Labels = NDArray[np.int64]

FEWEST_FOLDS = 2


@dataclass(frozen=True)
class Choice:
    """A penalty with its figures on people held back in turn, each cell weighted as in fitting."""

    penalty: float
    loss: float
    """Mean log loss."""
    auc: float
    accuracy: float


@dataclass(frozen=True)
class Head:
    """A linear rule on features as they are."""

    weights: Floats
    """(D,), float16 numbers."""
    bias: float
    penalty: float
    choices: tuple[Choice, ...]
    """Every penalty that was tried."""
    inner: Floats
    """Blast probabilities (N,) of the cells it was fitted to, each by a head that was fitted to none of its group."""
    folds: NDArray[np.int64]
    """(N,): the fold in which each cell was held back."""

    def blast_probability(self, features: Features) -> Floats:
        """(N,) of features (N, D), before any temperature."""
        return sigmoid(np.asarray(features @ self.weights.astype(np.float32), np.float64) + self.bias)


def fit_head(
    features: Features,
    labels: Labels,
    groups: Sequence[str],
    spec: HeadSpec,
    seed: int = 0,
    noise: Int8Noise | None = None,
) -> Head:
    """Choose a penalty by people held back in turn, then fit to all.

    features: (N, D); groups: who stays together (N,); noise: what it adds to the log-odds' variance is penalised too.
    Raises UsageError when a class has fewer than two groups.
    """
    folds = inner_folds(labels, groups, spec.inner_folds, seed)
    penalties = np.asarray(spec.penalties)
    kept = [folds != fold for fold in range(folds.max() + 1)]
    basis = Basis(features, noise if spec.int8_noise else None, spec.int8_noise)
    seen = basis.of(features)
    coefficients, intercepts = _solve(seen, labels, groups, kept, penalties, spec)
    blasts = np.empty((len(labels), len(penalties)))
    for fold in range(len(kept)):
        out, own = folds == fold, slice(fold * len(penalties), (fold + 1) * len(penalties))
        blasts[out] = sigmoid(seen[out] @ coefficients[:, own].astype(np.float32) + intercepts[own])
    weights = weigh(labels, groups, spec)
    choices = tuple(_judged(p, blasts[:, n], labels, weights) for n, p in enumerate(spec.penalties))
    best = min(range(len(choices)), key=lambda n: choices[n].loss)
    everyone = [np.ones(len(labels), bool)]
    final, bias = _solve(seen, labels, groups, everyone, penalties[best : best + 1], spec)
    raw = basis.raw(final[:, 0]).astype(np.float16).astype(np.float64)  # so that files in float16 say the same
    offset = float(bias[0] - basis.centre @ raw)
    return Head(raw, offset, spec.penalties[best], choices, blasts[:, best], folds)


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
