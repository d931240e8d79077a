"""Cells that several frames show are counted once."""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.simulation import Field, FieldSpec, render_field
from bloodedge_device.slide.overlap import Placement, Sighting, SlideMap

WIDTH, HEIGHT, UM_PER_PX = 640, 480, 0.1
NOISE = 1.5


@pytest.fixture(scope="module")
def smear() -> Field:
    """A stretch of a smear, 256 by 160 micrometres, without the camera's light and noise."""
    spec = FieldSpec(width=2560, height=1600, white_cells=(60, 60), unevenness=0, sensor_noise=0)
    return render_field(1, spec)


def camera(bgr: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a camera makes of a view: darker corners, 3 % of flicker and its own noise each time."""
    y, x = np.mgrid[-1 : 1 : bgr.shape[0] * 1j, -1 : 1 : bgr.shape[1] * 1j]
    light = (1 - 0.06 * (x**2 + y**2)) * rng.uniform(0.97, 1.03)
    return np.clip(np.rint(bgr * light[..., None] + rng.normal(0, NOISE, bgr.shape)), 0, 255).astype(np.uint8)


@dataclass
class Looked:
    """A frame, its placement, and for each sighting the true cell's index."""

    placement: Placement
    truth: list[int]
    sightings: list[Sighting]
    corner: tuple[int, int]


def place(slide: SlideMap, bgr: np.ndarray, um_per_px: float, sightings: list[Sighting]) -> Placement:
    slide.locate(bgr)
    return slide.identify(um_per_px, sightings)


def look(slide: SlideMap, smear: Field, corner: tuple[int, int], rng: np.random.Generator) -> Looked:
    """Show the slide map the part of the smear at ``corner``, with outlines as exact as a finder's."""
    x, y = corner
    truth, sightings = [], []
    for index, cell in enumerate(smear.cells):
        whole = np.zeros(smear.bgr.shape[:2], np.uint8)
        left, top, width, height = cell.box
        whole[top : top + height, left : left + width] = cell.mask
        part = whole[y : y + HEIGHT, x : x + WIDTH]
        area = cv2.countNonZero(part)
        if area < 600:
            continue
        moments = cv2.moments(part, binaryImage=True)
        centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"] + rng.normal(0, 2, 2)
        cut = area < cv2.countNonZero(cell.mask) or cell.cut_by_border
        sightings.append(Sighting(tuple(centre), area * UM_PER_PX**2 * rng.uniform(0.92, 1.08), cut))
        truth.append(index)
    frame = camera(smear.bgr[y : y + HEIGHT, x : x + WIDTH], rng)
    return Looked(place(slide, frame, UM_PER_PX, sightings), truth, sightings, corner)


def walk(smear: Field, corners: list[tuple[int, int]], seed: int = 0) -> list[Looked]:
    slide, rng = SlideMap(), np.random.default_rng(seed)
    return [look(slide, smear, corner, rng) for corner in corners]


def tally(frames: list[Looked]) -> tuple[float, float]:
    """Share of the repeated whole sightings known as such, and share of all sightings given another cell's number."""
    number_of: dict[int, set[int]] = {}
    cell_of: dict[int, int] = {}
    repeats = caught = merged = total = 0
    for frame in frames:
        for seen, cell, sighting in zip(frame.placement.seen, frame.truth, frame.sightings, strict=True):
            total += 1
            merged += cell_of.setdefault(seen.number, cell) != cell
            if cell in number_of and not sighting.cut:
                repeats += 1
                caught += seen.number in number_of[cell]
            number_of.setdefault(cell, set()).add(seen.number)
    assert repeats > 20
    return caught / repeats, merged / total


SERPENTINE = [(x if row % 2 == 0 else 1900 - x, 40 + 330 * row) for row in range(4) for x in range(0, 1901, 211)]


@pytest.fixture(scope="module")
def scan(smear) -> list[Looked]:
    return walk(smear, SERPENTINE)


def test_a_scan_row_by_row_counts_each_cell_once(scan):
    assert {frame.placement.patch for frame in scan} == {0}
    recall, merged = tally(scan)
    assert recall >= 0.98
    assert merged <= 0.005


def test_counting_first_whole_sightings_gives_the_number_of_cells_that_were_ever_seen_whole(scan):
    counted, true = [], set()
    for frame in scan:
        for seen, cell, sighting in zip(frame.placement.seen, frame.truth, frame.sightings, strict=True):
            if not sighting.cut:
                true.add(cell)
                counted += [cell] * (seen.first or seen.better)
    assert len(true) > 40
    assert sorted(counted) == sorted(true)


def test_places_stay_well_within_a_cell_s_radius_over_a_scan_of_forty_frames(scan):
    x, y = scan[0].corner
    for frame in scan:
        true = (np.array(frame.corner) - (x, y)) * UM_PER_PX
        assert np.hypot(*(np.array(frame.placement.offset_um) - true)) < 1.5


@pytest.mark.parametrize("step", [(480, 0), (0, 360), (320, 240), (-320, 240), (0, -360), (-480, 0)])
def test_a_quarter_of_overlap_is_enough(smear, step):
    start = (960, 560)
    first, second = walk(smear, [start, (start[0] + step[0], start[1] + step[1])])
    assert second.placement.patch == first.placement.patch
    assert second.placement.offset_um == pytest.approx(np.array(step) * UM_PER_PX, abs=0.15)


def test_a_still_stage_shows_the_same_cells_again(smear):
    frames = walk(smear, [(700, 500)] * 6)
    assert frames[0].sightings
    for earlier, later in pairwise(frames):
        assert [s.number for s in later.placement.seen] == [s.number for s in earlier.placement.seen]
        assert not any(s.first for s in later.placement.seen)
        assert later.placement.offset_um == pytest.approx((0, 0), abs=0.1)


def test_a_cell_is_known_again_after_the_stage_came_back(smear):
    there = [(x, 600) for x in range(0, 1500, 250)]
    frames = walk(smear, [*there, *there[::-1]])
    recall, merged = tally(frames)
    assert recall >= 0.98
    assert merged == 0
    assert not any(s.first for frame in frames[len(there) :] for s in frame.placement.seen)


def test_a_jump_opens_a_patch_and_a_jump_back_finds_the_old_one(smear):
    frames = walk(smear, [(100, 100), (1800, 1000), (150, 130)])
    patches = [frame.placement.patch for frame in frames]
    assert patches[0] != patches[1]
    assert patches[2] == patches[0]
    assert frames[1].placement.agreement is None
    again = [s for s, t in zip(frames[2].placement.seen, frames[2].truth, strict=True) if t in frames[0].truth]
    assert again
    assert not any(s.first for s in again)


def test_a_cell_first_cut_by_the_border_is_better_once_it_is_whole():
    spec = FieldSpec(width=1400, height=480, white_cells=(8, 8), unevenness=0, sensor_noise=0)
    smear = render_field(5, spec)
    frames = walk(smear, [(x, 0) for x in range(0, 761, 40)])
    history: dict[int, list[tuple[bool, bool]]] = {}
    for frame in frames:
        for seen, cell, sighting in zip(frame.placement.seen, frame.truth, frame.sightings, strict=True):
            history.setdefault(cell, []).append((sighting.cut, seen.better))
    came_in = [h for h in history.values() if h[0][0] and not all(cut for cut, _ in h)]
    assert came_in
    for sightings in came_in:
        first_whole = next(index for index, (cut, _) in enumerate(sightings) if not cut)
        assert [index for index, (_, better) in enumerate(sightings) if better] == [first_whole]


def test_unrelated_fields_share_no_cell():
    slide, rng = SlideMap(), np.random.default_rng(0)
    for seed in range(40):
        field = render_field(seed)
        sightings = [Sighting((320, 240), 120, cut=False)]
        placement = place(slide, camera(field.bgr, rng), UM_PER_PX, sightings)
        assert placement.patch == seed
        assert placement.seen[0].first


def test_lone_white_cells_in_empty_fields_are_not_taken_for_one():
    slide, rng = SlideMap(), np.random.default_rng(0)
    alone = {"white_cells": (1, 1), "red_cells_per_1000_um2": 0, "platelets_per_1000_um2": 0}
    for seed in range(40):
        field = render_field(seed, FieldSpec(**alone))
        x, y, width, height = field.cells[0].box
        middle = Sighting((x + width / 2, y + height / 2), 120, cut=False)
        assert place(slide, camera(field.bgr, rng), UM_PER_PX, [middle]).seen[0].first


def test_two_touching_cells_of_one_size_stay_two(smear):
    slide = SlideMap()
    frame = smear.bgr[:HEIGHT, :WIDTH]
    pair = [Sighting((300, 240), np.pi * 36, cut=False), Sighting((420, 240), np.pi * 36, cut=False)]
    first = place(slide, frame, UM_PER_PX, pair)
    again = place(slide, frame, UM_PER_PX, pair[::-1])
    assert [s.number for s in again.seen] == [s.number for s in first.seen][::-1]
    assert len({s.number for s in first.seen}) == 2


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_frames_neither_crash_nor_fit_anything(smear, level):
    slide, rng = SlideMap(), np.random.default_rng(0)
    flat = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    blanks = [flat, flat, camera(flat, rng), camera(flat, rng)]
    placements = [place(slide, frame, UM_PER_PX, []) for frame in blanks]
    assert [p.agreement for p in placements] == [None] * 4
    look(slide, smear, (100, 100), rng)
    place(slide, flat, UM_PER_PX, [])
    assert look(slide, smear, (180, 100), rng).placement.agreement is not None


def test_frames_of_another_size_are_not_compared(smear):
    slide = SlideMap()
    placements = [place(slide, smear.bgr[:h, :w], UM_PER_PX, []) for h, w in ((480, 640), (960, 1280), (7, 5))]
    assert len({p.patch for p in placements}) == 3
