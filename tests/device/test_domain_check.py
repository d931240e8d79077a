import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from bloodedge_device.slide.domain_check import OUTSIDE_SHARE, REMEMBERED, SURELY, SlideDomain


def judged(outside: NDArray[np.bool_]) -> list[bool]:
    """Whether the slide is outside the domain after each cell."""
    slide, verdicts = SlideDomain(), []
    for cell in outside:
        slide.note(outside=bool(cell))
        verdicts.append(slide.is_outside)
    return verdicts


@pytest.mark.parametrize("cells", [1, 3, 15, 60, REMEMBERED])
def test_a_slide_is_outside_the_domain_exactly_where_the_binomial_tail_says_so(cells: int) -> None:
    verdicts = [judged(np.arange(cells) < outside)[-1] for outside in range(cells + 1)]
    tails = binom.sf(np.arange(-1, cells), cells, OUTSIDE_SHARE)
    assert verdicts == (tails < SURELY).tolist()


def test_slides_like_the_held_out_ones_are_practically_never_outside_the_domain() -> None:
    rng = np.random.default_rng(0)
    ever = sum(any(judged(rng.random(300) < 0.05)) for _ in range(1000))
    assert ever <= 2


def test_a_slide_of_another_kind_is_found_out_within_a_few_cells() -> None:
    rng = np.random.default_rng(0)
    in_any_order = [rng.permutation(np.arange(15) < 9) for _ in range(1000)]  # 60 % outside
    assert all(judged(cells)[-1] for cells in in_any_order)
    assert sum(any(judged(rng.random(40) < 0.6)) for _ in range(1000)) > 995


def test_a_slide_that_changes_under_way_is_seen_and_forgiven_again() -> None:
    usual, strange = np.zeros(1000, np.bool_), np.ones(REMEMBERED, np.bool_)
    verdicts = judged(np.concatenate([usual, strange, usual]))
    assert not any(verdicts[:1000])
    assert verdicts[1000 + REMEMBERED - 1]
    assert not verdicts[-1]
