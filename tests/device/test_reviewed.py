"""A person's review of the cells gives figures that say what they are of."""

import pytest
from sklearn.metrics import roc_auc_score

from bloodedge.metrics import wilson
from bloodedge_device.slide.review import REVIEW_LABELS, ReviewedCell, review_figures


def cells(said, person, count, probability=0.5, sampling="random", frames=5):
    return [ReviewedCell(said, person, probability, number % frames, sampling) for number in range(count)]


TABLE = [
    *cells("blast", "blast", 40, 0.9),
    *cells("normal", "blast", 10, 0.2),
    *cells("normal", "normal", 27, 0.1),
    *cells("blast", "normal", 3, 0.8),
    *cells("uncertain", "blast", 4, 0.55),
    *cells("uncertain", "normal", 6, 0.45),
    *cells("blast", "not_a_cell", 5, 0.7),
    *cells("uncertain", "unsure", 2, None),
]


def test_figures_are_those_of_a_table_counted_by_hand():
    figures = review_figures(TABLE)["random"]
    assert figures.reviewed == 97
    assert figures.confusion == ((27, 3), (10, 40))
    assert figures.accuracy.share == pytest.approx(67 / 80)
    assert figures.sensitivity.share == pytest.approx(40 / 50)
    assert figures.specificity.share == pytest.approx(27 / 30)
    assert figures.accuracy.ci95 == wilson(67, 80)
    assert figures.sensitivity.ci95 == wilson(40, 50)
    assert figures.specificity.ci95 == wilson(27, 30)


def test_things_that_are_no_cell_or_that_nobody_can_name_are_counted_but_not_wrong():
    figures = review_figures(TABLE)["random"]
    assert figures.answers == {"blast": 54, "normal": 36, "not_a_cell": 5, "unsure": 2}
    without = review_figures([c for c in TABLE if c.reviewed in {"blast", "normal"}])["random"]
    assert figures.accuracy.share == without.accuracy.share
    assert tuple(figures.answers) == REVIEW_LABELS


def test_what_people_say_of_uncertain_cells_stands_apart():
    figures = review_figures(TABLE)["random"]
    assert figures.uncertain == {"blast": 4, "normal": 6, "not_a_cell": 0, "unsure": 2}


def test_the_auc_is_that_of_scikit_learn_with_uncertain_cells_in_it():
    named = [c for c in TABLE if c.reviewed in {"blast", "normal"}]
    expected = roc_auc_score([c.reviewed == "blast" for c in named], [c.blast_probability for c in named])
    assert review_figures(TABLE)["random"].auc == pytest.approx(expected)


def test_gallery_cells_do_not_touch_the_figures_of_random_ones():
    picked = cells("blast", "normal", 50, 0.99, sampling="gallery")
    both = review_figures([*TABLE, *picked])
    assert both["random"] == review_figures(TABLE)["random"]
    assert both["random"].unbiased
    assert not both["gallery"].unbiased
    assert both["gallery"].accuracy.share == 0


def test_errors_that_come_frame_by_frame_widen_the_interval():
    right = [ReviewedCell("blast", "blast", 0.9, frame, "random") for frame in range(16) for _ in range(10)]
    wrong = [ReviewedCell("normal", "blast", 0.1, frame, "random") for frame in range(16, 20) for _ in range(10)]
    accuracy = review_figures([*right, *wrong])["random"].accuracy
    low, high = accuracy.ci95
    wide_low, wide_high = accuracy.clustered_ci95
    assert accuracy.share == 0.8
    # Frames are all right or all wrong: 20 frames count, not 200 cells, so about the root of 10 as wide.
    assert (wide_high - wide_low) / (high - low) == pytest.approx(10**0.5, rel=0.15)


def test_no_review_gives_no_figures_but_no_error():
    for figures in review_figures([]).values():
        assert figures.reviewed == 0
        assert figures.accuracy.share is None
        assert figures.auc is None
        assert figures.accuracy.clustered_ci95 is None
