"""Dyes are found in mixtures of them, and a cell of one slide is painted with those of another."""

import numpy as np
import pytest

from bloodedge.imaging import Cell, ImagingSpec, network_input
from bloodedge.imaging.optical_density import romanowsky
from bloodedge.imaging.restain import SOURCE_LIGHT, StainBasis, fit_stain, restained

LIGHT = (SOURCE_LIGHT,) * 3


def mixed(dyes: np.ndarray, strengths=(1.0, 0.8), count: int = 20_000, seed: int = 0) -> np.ndarray:
    """Densities (count, 3) of pixels with amounts of two dyes, some with one alone."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0, 1, (count, 2)) * strengths
    amounts[: count // 10, 0] = 0
    amounts[count // 10 : count // 5, 1] = 0
    return amounts @ dyes[:2] + rng.normal(0, 0.005, (count, 3))


def turned(by: float) -> np.ndarray:
    dyes = romanowsky()[:2] + by * np.array([[-1, 1, 0.5], [1, -1, 0.5]])
    return np.asarray(dyes / np.linalg.norm(dyes, axis=1, keepdims=True))


def picture(densities: np.ndarray, light=LIGHT) -> np.ndarray:
    levels = (np.array(light[::-1]) + 1) * 10 ** -densities.reshape(100, -1, 3) - 1
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)[:, :, ::-1].copy()


@pytest.mark.parametrize("by", [0.0, 0.1])
def test_the_dyes_of_a_mixture_are_found(by):
    dyes = turned(by)
    found = fit_stain(mixed(dyes))
    assert found.note is None
    assert np.einsum("ij,ij->i", np.array(found.dyes), dyes) == pytest.approx([1, 1], abs=0.005)
    assert found.strength == pytest.approx((0.99, 0.79), rel=0.1)


@pytest.mark.parametrize(
    ("densities", "note"),
    [
        (np.zeros((0, 3)), "too few stained pixels"),
        (np.full((50_000, 3), 0.01), "too few stained pixels"),
        (np.outer(np.linspace(0.2, 1, 5000), romanowsky()[0]), "one dye alone"),
        (np.full((5000, 3), 0.5), "one dye alone"),
    ],
)
def test_without_two_dyes_the_general_ones_are_taken_and_it_says_why(densities, note):
    found = fit_stain(densities)
    assert found.note == note
    assert np.array(found.dyes) == pytest.approx(romanowsky()[:2])
    assert np.isfinite(found.strength).all()


def test_colours_that_no_dyes_give_are_said_to_be_none():
    rng = np.random.default_rng(0)
    wild = np.concatenate([rng.normal((1, -1, 0.2), 0.1, (5000, 3)), rng.normal((-1, 1, 0.2), 0.1, (5000, 3))])
    assert fit_stain(wild).note == "colours that no pair of dyes gives"


def basis(dyes: np.ndarray, strength=(1.0, 0.8)) -> StainBasis:
    return StainBasis.model_validate({"dyes": dyes[:2].tolist(), "strength": strength})


def test_a_slide_is_painted_with_the_reference_s_dyes():
    amounts_of = (1.0, 0.8)
    slide = picture(mixed(turned(0.1), amounts_of))
    wanted = picture(mixed(romanowsky(), amounts_of))
    done = restained(slide, LIGHT, basis(turned(0.1)), basis(romanowsky()))
    before, after = (np.abs(image.astype(int) - wanted).mean() for image in (slide, done))
    assert after < 0.25 * before


def test_the_light_is_brought_to_the_reference_s():
    densities = mixed(romanowsky())
    done = restained(picture(densities, (180, 150, 230)), (180, 150, 230), basis(romanowsky()), basis(romanowsky()))
    assert np.abs(done.astype(int) - picture(densities)).max() <= 3


def test_its_own_dyes_and_light_leave_a_picture_as_it_is():
    slide = picture(mixed(romanowsky()))
    done = restained(slide, LIGHT, basis(romanowsky()), basis(romanowsky()))
    assert np.abs(done.astype(int) - slide).max() <= 1


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_pictures_stay_pictures(level):
    image = np.full((20, 20, 3), level, np.uint8)
    done = restained(image, LIGHT, basis(turned(0.2)), basis(romanowsky(), (3.0, 0.1)))
    assert (done.dtype, done.shape) == (np.uint8, image.shape)


def test_imaging_paints_a_cell_with_the_spec_s_dyes_from_those_of_its_slide_or_its_own():
    slide = turned(0.1)
    bgr = picture(mixed(slide))
    mask = np.full(bgr.shape[:2], 255, np.uint8)
    spec = ImagingSpec(um_per_px=0.1, stain=basis(romanowsky()))
    plain = network_input(Cell(bgr, mask, 0.1), spec.model_copy(update={"stain": None}))
    told = network_input(Cell(bgr, mask, 0.1, LIGHT, basis(slide)), spec)
    fitted = network_input(Cell(bgr, mask, 0.1), spec)
    assert np.abs(told.astype(int) - plain).mean() > 2
    assert np.abs(told.astype(int) - fitted).mean() < 2
