"""The finder, its scale, the frame gate and what becomes of found cells, over frames that no microscope should give."""

import math
from collections.abc import Callable
from time import process_time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError
from bloodedge.finder import Found, estimate_um_per_px, find_cells
from bloodedge.finder.frame_gate import check
from bloodedge.finder.network import Maps
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.seeds import MOST, seeds_in
from bloodedge.imaging import Image, ImagingSpec, network_input
from bloodedge.simulation import FieldSpec, render_field

pytestmark = pytest.mark.filterwarnings("error")

SPEC = ImagingSpec(size_px=64)
STEADY = settings(max_examples=40, deadline=None, derandomize=True, database=None)

Painter = Callable[[np.random.Generator, int, int], NDArray[np.number]]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    blue, green, red = (int(v) for v in rng.integers(0, 256, 3))
    return blue, green, red


def single_colour(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    return np.full((height, width, 3), _colour(rng), np.uint8)


def grey_as_colour(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    return rng.integers(0, 256, (height, width, 1), np.uint8).repeat(3, axis=2)


def noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    return rng.normal(rng.uniform(0, 255, 3), rng.uniform(0, 90), (height, width, 3))


def grain(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    """Noise as coarse as nuclei are."""
    size = max(1, width // int(rng.integers(2, 40))), max(1, height // int(rng.integers(2, 40)))
    return cv2.resize(rng.integers(0, 256, (*size[::-1], 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def gradient(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    start, down, across = rng.uniform(-100, 300, (3, 3))
    return start + y[..., None] * down + x[..., None] * across


def uneven_light(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    """An empty field whose light falls off to one side and to the corners."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope, vignette = rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 0.15)
    light = 1 + slope[0] * x + slope[1] * y - vignette * (x * x + y * y)
    return light[..., None] * rng.uniform(150, 230, 3) + rng.normal(0, 2, (height, width, 3))


def checkerboard(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    side = int(rng.integers(1, 60))
    odd = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    return np.array([_colour(rng), _colour(rng)], np.uint8)[odd]


def ellipses(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    frame = single_colour(rng, height, width).astype(np.uint8)
    for _ in range(int(rng.integers(1, 40))):
        middle = int(rng.integers(-20, width + 20)), int(rng.integers(-20, height + 20))
        axes = int(rng.integers(0, 60)), int(rng.integers(0, 60))
        cv2.ellipse(frame, middle, axes, float(rng.uniform(0, 360)), 0, 360, _colour(rng), cv2.FILLED)
    return frame


def stained_ellipses(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    """Purple and pink on light grey, as in a smear, but of any size, number and shape."""
    frame = np.full((height, width, 3), (215, 220, 215), np.uint8)
    for _ in range(int(rng.integers(1, 25))):
        middle = int(rng.integers(0, width)), int(rng.integers(0, height))
        axes = int(rng.integers(1, 70)), int(rng.integers(1, 70))
        colour = ((150, 150, 200), (150, 50, 110), (170, 110, 150))[int(rng.integers(0, 3))]
        cv2.ellipse(frame, middle, axes, float(rng.uniform(0, 360)), 0, 360, colour, cv2.FILLED)
    return frame + rng.normal(0, 3, frame.shape)


def nothing_but_stain(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    """Nuclear stain from side to side, under a camera's grain."""
    return rng.normal((150, 50, 110), rng.uniform(0, 8), (height, width, 3))


def saturated(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    return stained_ellipses(rng, height, width) * rng.uniform(1.2, 8)


def underexposed(rng: np.random.Generator, height: int, width: int) -> NDArray[np.number]:
    return stained_ellipses(rng, height, width) * rng.uniform(0, 0.2)


PAINTERS: tuple[Painter, ...] = (
    single_colour,
    grey_as_colour,
    noise,
    grain,
    gradient,
    uneven_light,
    checkerboard,
    ellipses,
    stained_ellipses,
    nothing_but_stain,
    saturated,
    underexposed,
)

EMPTY: tuple[Painter, ...] = (single_colour, uneven_light, nothing_but_stain)

SIDES = st.one_of(st.integers(16, 40), st.integers(16, 280))
SCALES = st.one_of(st.none(), st.floats(0.01, 2))


def painted(painter: Painter, seed: int, height: int, width: int) -> Image:
    frame = painter(np.random.default_rng(seed), height, width)
    return np.clip(frame, 0, 255).astype(np.uint8)


def assert_sane(bgr: Image, found: Found) -> None:
    """Boxes, masks and figures of everything found agree with each other and with the frame, uint8 (H, W, 3)."""
    height, width = bgr.shape[:2]
    owners = np.zeros((height, width), np.uint8)
    assert math.isfinite(found.um_per_px)
    assert found.um_per_px > 0
    for thing in (*found.cells, *found.rejected):
        x, y, w, h = thing.box
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
    for cell in found.cells:
        x, y, w, h = cell.box
        assert cell.mask.shape == (h, w)
        assert set(np.unique(cell.mask)) <= {0, 255}
        assert cell.area_px == np.count_nonzero(cell.mask) > 0
        assert 0 < cell.nucleus_px <= cell.area_px
        assert 0 < cell.completeness <= 1
        assert all(map(math.isfinite, (cell.area_um2, cell.nuclear_density, cell.focus)))
        assert cell.focus >= 0
        owners[y : y + h, x : x + w] += cell.mask > 0
        assert cell.outline
        image = network_input(cell.crop(bgr, found.um_per_px), SPEC)
        assert image.shape == (64, 64, 3)
    assert owners.max(initial=0) <= 1


def look_at(bgr: Image, um_per_px: float | None) -> Found:
    """Everything that the device asks of a frame, with the answers checked."""
    gate = check(bgr)
    assert all(map(math.isfinite, (gate.focus, gate.brightness, gate.saturated)))
    assert 0 <= gate.brightness <= 255
    assert 0 <= gate.saturated <= 1
    scale = estimate_um_per_px(bgr)
    assert scale is None or (math.isfinite(scale) and scale > 0)
    found = find_cells(bgr, um_per_px)
    assert_sane(bgr, found)
    return found


@pytest.mark.parametrize("painter", PAINTERS, ids=lambda painter: painter.__name__)
@settings(STEADY)
@given(seed=st.integers(0, 2**32 - 1), height=SIDES, width=SIDES, um_per_px=SCALES)
def test_any_frame_gives_a_sane_answer(
    painter: Painter, seed: int, height: int, width: int, um_per_px: float | None
) -> None:
    look_at(painted(painter, seed, height, width), um_per_px)


@settings(STEADY, max_examples=20)
@given(
    seed=st.integers(0, 1000),
    left=st.integers(0, 600),
    top=st.integers(0, 440),
    width=st.integers(16, 400),
    height=st.integers(16, 400),
    gain=st.floats(0.2, 2.5),
    um_per_px=st.one_of(st.none(), st.floats(0.03, 0.5)),
)
def test_any_cut_of_a_smear_under_any_light_gives_a_sane_answer(
    seed: int, left: int, top: int, width: int, height: int, gain: float, um_per_px: float | None
) -> None:
    frame = render_field(seed, FieldSpec(white_cells=(3, 8))).bgr[top : top + height, left : left + width]
    look_at(np.clip(frame * gain, 0, 255).astype(np.uint8), um_per_px)


@pytest.mark.parametrize("painter", EMPTY, ids=lambda painter: painter.__name__)
@settings(STEADY)
@given(seed=st.integers(0, 2**32 - 1), height=SIDES, width=SIDES, um_per_px=SCALES)
def test_frames_without_shapes_hold_no_cells(
    painter: Painter, seed: int, height: int, width: int, um_per_px: float | None
) -> None:
    assert find_cells(painted(painter, seed, height, width), um_per_px).cells == ()


@pytest.mark.parametrize("um_per_px", [None, 0.01, 0.1, 2.0])
@pytest.mark.parametrize("level", [0, 205, 255])
@pytest.mark.parametrize("size", [(16, 16), (16, 4001), (3001, 16), (333, 333)])
def test_black_grey_and_white_frames_of_any_shape_hold_nothing(
    size: tuple[int, int], level: int, um_per_px: float | None
) -> None:
    found = look_at(np.full((*size, 3), level, np.uint8), um_per_px)
    assert (found.cells, found.rejected) == ((), ())


@pytest.mark.parametrize("spread", [0, 12])
def test_an_8k_frame_of_nothing_holds_nothing(spread: int) -> None:
    tile = np.random.default_rng(8).integers(205 - spread, 206 + spread, (540, 960, 3), np.uint8)
    frame = np.tile(tile, (8, 8, 1))
    assert look_at(frame, None).cells == ()
    assert estimate_um_per_px(frame) is None


@pytest.mark.parametrize("ask", [find_cells, estimate_um_per_px], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((1, 1, 3), np.uint8), "1x1 pixels"),
        (np.zeros((0, 0, 3), np.uint8), "0x0 pixels"),
        (np.zeros((15, 400, 3), np.uint8), "400x15 pixels"),
        (np.zeros((60, 80), np.uint8), "grey image"),
        (np.zeros((60, 80, 1), np.uint8), "grey image"),
        (np.zeros((60, 80, 2), np.uint8), "grey image"),
        (np.zeros((60, 80, 3), np.uint16), "16 bits"),
        (np.zeros((60, 80, 3), np.float32), "32 bits"),
        (np.full((60, 80, 3), np.nan), "64 bits"),
    ],
    ids=["1x1", "0x0", "too low", "grey", "one channel", "two channels", "16-bit", "float", "not a number"],
)
def test_frames_that_are_no_8_bit_colour_are_refused_in_a_sentence(
    ask: Callable[[Image], object], frame: Image, said: str
) -> None:
    with pytest.raises(BloodedgeError, match=said):
        ask(frame)


def test_an_alpha_channel_changes_nothing() -> None:
    bgr = render_field(0).bgr
    alpha = np.random.default_rng(0).integers(0, 256, bgr.shape[:2], np.uint8)
    layered = np.dstack([bgr, alpha])
    plain, found = find_cells(bgr), find_cells(layered)
    assert plain.cells
    assert estimate_um_per_px(layered) == plain.um_per_px == found.um_per_px
    assert found.rejected == plain.rejected
    assert [(cell.box, cell.outline) for cell in found.cells] == [(cell.box, cell.outline) for cell in plain.cells]


def test_a_frame_that_is_a_view_of_another_gives_what_its_copy_gives() -> None:
    view = render_field(0).bgr[::-1, ::-1]
    assert [cell.box for cell in look_at(view, 0.1).cells] == [cell.box for cell in find_cells(view.copy(), 0.1).cells]


@pytest.mark.parametrize("um_per_px", [None, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("side", [1, 4, 12, 30])
def test_a_frame_of_nothing_but_pieces_is_looked_at_in_bounded_time(side: int, um_per_px: float | None) -> None:
    """A checkerboard once took 19 seconds; a usual frame takes a hundredth of one."""
    odd = (np.arange(400)[:, None] // side + np.arange(400) // side) % 2
    frame = np.array([(215, 220, 215), (150, 50, 110)], np.uint8)[odd]
    start = process_time()
    find_cells(frame, um_per_px)
    assert process_time() - start < 3


def test_no_frame_has_more_seeds_than_can_be_outlined() -> None:
    """Cores everywhere, as a network might draw them in noise."""
    odd = (np.arange(600)[:, None] // 8 + np.arange(800) // 8) % 2
    core = (odd * 255).astype(np.uint8)
    seeds = seeds_in(Maps(core, core), 0.25, FinderParameters())
    assert len(seeds) == MOST
