import math

import numpy as np
import pytest
from pydantic import ValidationError

from bloodedge.decision.kind_shares import KindRates, corrected_share, exact_limits
from bloodedge.decision.kinds import ASKED, COUNTED, Kind

KINDS = tuple(Kind)[:9]
TRUE = np.array([0.55, 0.28, 0.07, 0.03, 0.01, 0.02, 0.01, 0.02, 0.01])
"""A smear's cells by kind: mostly neutrophils and lymphocytes."""


def rates(right: float, unknown: float, cells: int = 400) -> KindRates:
    """A network that is right so often, refuses so often, and confuses evenly."""
    row = np.full((9, 10), (1 - right - unknown) / 8)
    row[:, 9] = unknown
    np.fill_diagonal(row, right)
    return KindRates(kinds=KINDS, confusion=tuple(tuple(int(n) for n in line) for line in np.rint(row * cells)))


def chances(of: KindRates) -> np.ndarray:
    table = np.array(of.confusion, float)
    return table / table.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("per_cent", "cells", "limits"),
    [  # Rümke's table, rounded outwards to whole per cent as it is printed
        (0, 100, (0, 4)), (1, 100, (0, 6)), (5, 100, (1, 12)), (10, 100, (4, 18)), (50, 100, (39, 61)),
        (0, 200, (0, 2)), (5, 200, (2, 10)), (10, 200, (6, 16)), (50, 200, (42, 58)), (100, 100, (96, 100)),
    ],
)  # fmt: skip
def test_limits_are_those_of_ruemkes_table(per_cent: int, cells: int, limits: tuple[int, int]) -> None:
    low, high = exact_limits(per_cent * cells // 100, cells)
    assert (math.floor(100 * low), math.ceil(100 * high)) == limits


def test_limits_are_scipys_clopper_and_pearson() -> None:
    stats = pytest.importorskip(
        "scipy.stats", reason="SciPy, whose limits ours are held against, is not installed (pip install -e '.[train]')"
    )
    for part, whole in ((0, 1), (1, 1), (3, 17), (12, 200), (399, 400), (31_000, 100_000)):
        interval = stats.binomtest(part, whole).proportion_ci(0.95, "exact")
        assert exact_limits(part, whole) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert exact_limits(0, 0) == (0, 1)


def test_a_network_without_errors_gives_the_exact_limits() -> None:
    perfect = rates(1.0, 0.0, 10_000_000)
    told = {Kind.NEUTROPHIL: 120, Kind.LYMPHOCYTE: 70, Kind.EOSINOPHIL: 10, Kind.PLATELET: 30, Kind.UNKNOWN: 50}
    for kind, part in ((Kind.NEUTROPHIL, 120), (Kind.EOSINOPHIL, 10), (Kind.BASOPHIL, 0)):
        share = corrected_share(perfect, told, [kind])
        assert share is not None
        assert share.share == pytest.approx(part / 200, abs=1e-4)
        assert (share.low, share.high) == pytest.approx(exact_limits(part, 200), abs=0.006)
    assert corrected_share(perfect, {Kind.PLATELET: 5, Kind.UNKNOWN: 5}, [Kind.NEUTROPHIL]) is None


@pytest.mark.parametrize("cells", [100, 400, 3000])
@pytest.mark.parametrize(("right", "unknown"), [(0.9, 0.05), (0.75, 0.15)])
def test_intervals_hold_the_truth_and_the_correction_takes_the_bias_away(
    cells: int, right: float, unknown: float
) -> None:
    rng = np.random.default_rng(cells)
    errs = rates(right, unknown)
    truth, counted = TRUE[:6] / TRUE[:6].sum(), len(COUNTED)
    held, corrected, raw, slides = 0, [], [], 60
    for _ in range(slides):
        # how this network errs is known from as many cells as the rates say
        real = np.stack([rng.dirichlet(np.array(row) + 0.1) for row in errs.confusion])
        seen = rng.multinomial(cells, TRUE @ real)
        told = dict(zip((*KINDS, Kind.UNKNOWN), seen.tolist(), strict=True))
        shares = [corrected_share(errs, told, [kind]) for kind in COUNTED]
        assert all(s is not None for s in shares)
        held += sum(s.low <= t <= s.high for s, t in zip(shares, truth, strict=True) if s)
        corrected.append([s.share for s in shares if s])
        raw.append(seen[:counted] / seen[:counted].sum())
    assert held / (slides * counted) >= 0.94
    off, off_raw = np.mean(corrected, axis=0) - truth, np.mean(raw, axis=0) - truth
    assert np.abs(off).max() < 0.02
    assert np.abs(off).max() < np.abs(off_raw).max() / 2


def test_a_group_is_corrected_as_one() -> None:
    errs = rates(0.9, 0.05)
    told = dict(zip((*KINDS, Kind.UNKNOWN), (1000 * TRUE @ chances(errs)).round().astype(int).tolist(), strict=True))
    both = corrected_share(errs, told, sorted(ASKED))
    assert both is not None
    assert both.share == pytest.approx(0.35 / 0.96, abs=0.005)
    assert both.low < both.share < both.high < both.low + 0.09


def test_refusing_more_of_every_kind_changes_no_share() -> None:
    errs, strict = rates(0.9, 0.05), rates(0.9, 0.05)
    seen = (2000 * TRUE @ chances(errs)).round().astype(int)
    told = dict(zip((*KINDS, Kind.UNKNOWN), seen.tolist(), strict=True))
    refused = {kind: cells // 2 for kind, cells in told.items()} | {Kind.UNKNOWN: 1050}
    for kind in COUNTED:
        one, other = corrected_share(errs, told, [kind]), corrected_share(strict, refused, [kind])
        assert one is not None
        assert other is not None
        assert one.share == pytest.approx(other.share, abs=0.01)


def test_a_kind_of_which_no_cell_was_judged_is_left_out() -> None:
    whole = rates(0.9, 0.05)
    rows = [list(row) for row in whole.confusion]
    rows[8] = [0] * 10  # artefacts
    without = KindRates.model_validate({"kinds": KINDS, "confusion": rows})
    told = dict(zip((*KINDS, Kind.UNKNOWN), (2000 * TRUE @ chances(whole)).round().astype(int).tolist(), strict=True))
    for kind, truth in zip(COUNTED, TRUE / TRUE[:6].sum(), strict=False):
        share = corrected_share(without, told, [kind])
        assert share is not None
        assert share.share == pytest.approx(truth, abs=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kinds": KINDS[:4]},
        {"kinds": (*KINDS[:8], Kind.UNKNOWN)},
        {"confusion": ((1,) * 9,) * 9},
        {"confusion": ((0,) * 9 + (5,),) * 9},
        {"confusion": ((1,) * 9 + (-1,),) * 9},
    ],
)
def test_rates_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KindRates.model_validate({"kinds": KINDS, "confusion": ((1,) * 10,) * 9} | wrong)
