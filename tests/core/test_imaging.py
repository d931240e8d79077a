"""The one preprocessing: the same bytes everywhere, physical scale kept, bad images refused with a sentence."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.config import validate
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import (
    CNMC_UM_PER_PX,
    SOURCE_LIGHT,
    Cell,
    ImagingSpec,
    View,
    cell_on_black,
    decode_image,
    first_view,
    network_input,
    read_image,
    read_images,
)
from bloodedge.simulation import render_field

Pixels = NDArray[np.uint8]


def pattern(height: int, width: int) -> Pixels:
    """A picture made of integers alone, the same on every machine: uint8 (height, width, 3) BGR, 1..251."""
    y, x = np.mgrid[:height, :width]
    return np.stack([1 + (a * x + b * y + x * y // 7) % 251 for a, b in ((7, 13), (29, 3), (11, 17))], -1).astype(
        np.uint8
    )


def ellipse(height: int, width: int) -> Pixels:
    """255 inside the ellipse that fills the frame, by integer arithmetic."""
    y, x = np.mgrid[:height, :width]
    inside = ((2 * x + 1 - width) * height) ** 2 + ((2 * y + 1 - height) * width) ** 2 <= (width * height) ** 2
    return np.where(inside, 255, 0).astype(np.uint8)


def pattern_cell(height: int = 100, width: int = 80, um_per_px: float = CNMC_UM_PER_PX) -> Cell:
    """The pattern as a cell with some room round it."""
    bgr, mask = np.full((height + 30, width + 50, 3), 9, np.uint8), np.zeros((height + 30, width + 50), np.uint8)
    bgr[10 : 10 + height, 20 : 20 + width] = pattern(height, width)
    mask[10 : 10 + height, 20 : 20 + width] = ellipse(height, width)
    return Cell(bgr, mask, um_per_px)


def halved(picture: Pixels) -> Pixels:
    """Means of 2x2 pixels in integers, a half rounded up; odd sides get a black line."""
    even = np.pad(picture.astype(int), ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)))
    total = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def linear(picture: Pixels, height: int, width: int) -> Pixels:
    """Bilinear resampling in 8-bit fixed point, as OpenCV documents its bit-exact variant."""

    def taps(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        place = (np.arange(new) + 0.5) * old / new - 0.5
        left = np.floor(place).astype(np.int64)
        share = np.rint(256 * (place - left)).astype(np.int64)
        share[(left < 0) | (left >= old - 1)] = 0
        left = np.clip(left, 0, old - 1)
        return left, np.minimum(left + 1, old - 1), share

    wide = picture.astype(np.int64)
    left, right, share = taps(picture.shape[1], width)
    wide = wide[:, left] * (256 - share)[:, None] + wide[:, right] * share[:, None]
    top, bottom, share = taps(picture.shape[0], height)
    tall = wide[top] * (256 - share)[:, None, None] + wide[bottom] * share[:, None, None]
    return ((tall + (1 << 15)) >> 16).astype(np.uint8)


def framed(picture: Pixels, size_px: int) -> Pixels:
    """Centred on black and turned to RGB; the picture must fit."""
    frame = np.zeros((size_px, size_px, 3), np.uint8)
    top, left = (size_px - picture.shape[0]) // 2, (size_px - picture.shape[1]) // 2
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture[:, :, ::-1]
    return frame


def relit(picture: Pixels, mask: Pixels, light: str) -> Pixels:
    """Levelled or equalised by the definition, pixel by pixel in Python integers."""
    result = picture.copy()
    for channel in range(3):
        values = sorted(int(v) for v in picture[:, :, channel][mask > 0])
        count = len(values)
        if light == "levelled":
            low, high = values[-(-count // 10) - 1], values[-(-9 * count // 10) - 1]
            table = {v: 80 + (v - low) * 110 // (high - low) for v in set(values)}
        else:
            table = {v: 1 + 254 * (2 * values.index(v) + values.count(v)) // (2 * count) for v in set(values)}
        for y, x in np.argwhere(mask > 0):
            result[y, x, channel] = min(255, max(1, table[int(picture[y, x, channel])]))
    return result


@pytest.mark.parametrize("light", ["as_is", "levelled", "equalised"])
@pytest.mark.parametrize(("zoom", "size_px"), [(1, 160), (0.5, 64), (0.25, 32)])
def test_network_input_is_what_integer_arithmetic_gives(light: str, zoom: float, size_px: int) -> None:
    cell = pattern_cell(99, 78)
    spec = ImagingSpec(size_px=size_px, um_per_px=CNMC_UM_PER_PX / zoom, light=light)
    picture, mask = pattern(99, 78), ellipse(99, 78)
    if light != "as_is":
        picture = relit(picture, mask, light)
    picture[mask == 0] = 0
    while zoom < 1:
        picture, zoom = halved(picture), zoom * 2
    assert np.array_equal(network_input(cell, spec), framed(picture, size_px))


def test_bilinear_resampling_is_that_of_fixed_point_arithmetic() -> None:
    spec = ImagingSpec(size_px=160, um_per_px=CNMC_UM_PER_PX / 0.75)
    picture = pattern(100, 80)
    picture[ellipse(100, 80) == 0] = 0
    assert np.array_equal(network_input(pattern_cell(100, 80), spec), framed(linear(picture, 75, 60), 160))


def test_the_same_cell_gives_the_same_bytes_on_every_machine() -> None:
    cell, spec = pattern_cell(300, 260), ImagingSpec(size_px=64, views=("canonical",), light="levelled")
    picture, mask = relit(pattern(300, 260), ellipse(300, 260), "levelled"), ellipse(300, 260)
    picture[mask == 0] = 0
    zoom = np.sqrt(0.45 * 64**2 / np.count_nonzero(mask))
    small = halved(halved(picture))
    expected = framed(linear(small, round(75 * 4 * zoom), round(65 * 4 * zoom)), 64)
    digest = hashlib.sha256(network_input(cell, spec).tobytes()).hexdigest()
    assert digest == hashlib.sha256(expected.tobytes()).hexdigest()
    assert digest == "6a6e84dd8696d204a20d9e37ced4892ad60e673dc4b002a9f2fe3d3bcfdc3ed5"


@pytest.mark.parametrize("light", ["as_is", "levelled", "equalised"])
def test_physical_scale_is_kept_whatever_the_camera(light: str) -> None:
    coarse = pattern_cell(60, 50, um_per_px=0.132)
    fine = Cell(coarse.bgr.repeat(2, 0).repeat(2, 1), coarse.mask.repeat(2, 0).repeat(2, 1), 0.066)
    spec = ImagingSpec(size_px=96, um_per_px=0.132, light=light)
    assert np.array_equal(network_input(coarse, spec), network_input(fine, spec))
    assert coarse.area_um2 == pytest.approx(fine.area_um2)


def test_a_larger_cell_stays_larger_at_physical_scale_and_not_at_canonical_scale() -> None:
    small, large = pattern_cell(100, 100), pattern_cell(200, 200)

    def lit(cell: Cell, spec: ImagingSpec) -> int:
        return int(network_input(cell, spec).any(axis=2).sum())

    physical = ImagingSpec(size_px=160)
    assert lit(large, physical) / lit(small, physical) == pytest.approx(4, rel=0.05)
    canonical = ImagingSpec(size_px=160, views=("canonical",), area_fraction=0.45)
    for cell in (small, large):
        assert lit(cell, canonical) / 160**2 == pytest.approx(0.45, rel=0.05)


@pytest.mark.parametrize("denoise", ["none", "wavelet"])
@pytest.mark.parametrize("views", [("physical", "canonical"), ("canonical", "physical")])
@pytest.mark.parametrize("side", [60, 300])
def test_each_of_two_views_has_the_bytes_of_that_view_alone(side: int, views: tuple[View, View], denoise: str) -> None:
    cell = pattern_cell(side, side - 10)
    both = ImagingSpec(size_px=64, views=views, light="levelled", denoise=denoise)
    image = network_input(cell, both)
    assert image.shape == both.input_shape == (2, 64, 64, 3)
    for number, view in enumerate(views):
        alone = both.model_copy(update={"views": (view,)})
        assert network_input(cell, alone).tobytes() == image[number].tobytes()
    assert first_view(image).tobytes() == image[0].tobytes()
    assert not np.array_equal(image[0], image[1])


def test_the_older_key_of_a_spec_is_read() -> None:
    assert ImagingSpec.model_validate({"scale": "canonical"}) == ImagingSpec(views=("canonical",))
    assert ImagingSpec.model_validate({"scale": "physical", "size_px": 96}) == ImagingSpec(size_px=96)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"views": ["physical", "physical"]}, 'views: "physical" is there twice; name each view once'),
        ({"views": []}, "views: name at least one, physical or canonical"),
        ({"views": ["physical", "square"]}, "views.1: Input should be 'physical' or 'canonical' (it is 'square')"),
        ({"scale": "square"}, "views.0: Input should be 'physical' or 'canonical' (it is 'square')"),
        ({"scale": "physical", "views": ["canonical"]}, "scale is the older name of views; leave it out"),
    ],
)
def test_wrong_views_get_one_sentence(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate(ImagingSpec, values, "The spec")
    assert said in str(caught.value)
    assert "has 1 mistake:" in str(caught.value)


def test_the_cell_is_centred_wherever_it_lies_in_its_crop() -> None:
    cell = pattern_cell(40, 40)
    moved = Cell(np.roll(cell.bgr, (15, 20), (0, 1)), np.roll(cell.mask, (15, 20), (0, 1)), cell.um_per_px)
    spec = ImagingSpec(size_px=64, um_per_px=CNMC_UM_PER_PX)
    image = network_input(cell, spec)
    assert np.array_equal(image, network_input(moved, spec))
    rows, columns = np.flatnonzero(image.any((1, 2))), np.flatnonzero(image.any((0, 2)))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (12, 51, 12, 51)


def test_what_reaches_beyond_the_frame_is_cut_evenly() -> None:
    cell = pattern_cell(100, 80)
    spec = ImagingSpec(size_px=32, um_per_px=CNMC_UM_PER_PX)
    picture = pattern(100, 80)
    picture[ellipse(100, 80) == 0] = 0
    assert np.array_equal(network_input(cell, spec), picture[34:66, 24:56, ::-1])


def test_outside_the_mask_everything_is_black() -> None:
    cell = pattern_cell(60, 60)
    image = network_input(cell, ImagingSpec(size_px=64, um_per_px=CNMC_UM_PER_PX, light="equalised"))
    inside = ellipse(60, 60) > 0
    assert not image[2:62, 2:62][~inside].any()
    assert image[2:62, 2:62][inside].all()


def test_light_is_relative_to_the_cell() -> None:
    """A lamp half as bright: the same picture once levelled, but for rounding."""
    cell = pattern_cell(80, 80)
    dim = Cell((cell.bgr // 2).astype(np.uint8), cell.mask, cell.um_per_px)
    for light, most in (("levelled", 4), ("equalised", 4)):
        spec = ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX, light=light)
        difference = np.abs(network_input(cell, spec).astype(int) - network_input(dim, spec).astype(int))
        assert difference.max() <= most
    as_is = ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX)
    assert np.abs(network_input(cell, as_is).astype(int) - network_input(dim, as_is).astype(int)).max() > 50


def test_a_lamp_s_level_is_taken_from_the_field_and_from_nothing_else() -> None:
    cell, spec = pattern_cell(80, 80), ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX, light="relit")
    as_is = network_input(cell, spec.model_copy(update={"light": "as_is"}))
    assert np.array_equal(network_input(cell, spec), as_is)
    assert np.array_equal(network_input(replace(cell, light=(SOURCE_LIGHT,) * 3), spec), as_is)
    lamp = np.array([120, 160, 250])
    dim = np.rint(cell.bgr * lamp / SOURCE_LIGHT).clip(0, 255).astype(np.uint8)
    seen = network_input(replace(cell, bgr=dim, light=(120, 160, 250)), spec).astype(int)
    whole = (as_is < 255 * SOURCE_LIGHT / lamp.max()).all(axis=2)  # what the brighter lamp did not saturate
    assert np.abs(seen - as_is)[whole].max() <= 1
    assert np.abs(seen - network_input(replace(cell, bgr=dim), spec).astype(int)).max() > 50
    black = replace(cell, bgr=np.ones_like(cell.bgr), light=(255, 0, 255))
    assert network_input(black, spec).any(axis=2).sum() == network_input(cell, spec).any(axis=2).sum()


@pytest.mark.parametrize("views", [("physical",), ("canonical",)])
def test_the_rim_is_left_out_in_micrometres(views: tuple[View, ...]) -> None:
    spec = ImagingSpec(size_px=64, um_per_px=0.1, views=views, trim_um=0.2)
    for um_per_px, rim in ((0.1, 2), (0.066, 4), (0.2, 1), (0.5, 1)):
        square = Cell(pattern(40, 40), np.full((40, 40), 255, np.uint8), um_per_px)
        inner = np.zeros((40, 40), np.uint8)
        inner[rim : 40 - rim, rim : 40 - rim] = 255
        expected = network_input(replace(square, mask=inner), spec.model_copy(update={"trim_um": 0.0}))
        assert np.array_equal(network_input(square, spec), expected)


def test_a_cell_that_is_all_rim_is_seen_whole() -> None:
    cell = pattern_cell(5, 5)
    trimmed = ImagingSpec(size_px=64, um_per_px=CNMC_UM_PER_PX, trim_um=0.5)
    assert np.array_equal(network_input(cell, trimmed), network_input(cell, ImagingSpec(size_px=64, um_per_px=0.066)))


def test_a_flat_cell_can_be_relit() -> None:
    cell = Cell(np.full((40, 40, 3), 77, np.uint8), np.full((40, 40), 255, np.uint8), CNMC_UM_PER_PX)
    for light in ("levelled", "equalised"):
        assert network_input(cell, ImagingSpec(size_px=64, light=light)).any()


def test_a_cell_without_a_pixel_is_refused() -> None:
    with pytest.raises(BloodedgeError, match="mask is empty"):
        network_input(Cell(pattern(20, 20), np.zeros((20, 20), np.uint8), 0.1), ImagingSpec())
    with pytest.raises(BloodedgeError, match="one colour everywhere"):
        cell_on_black(np.full((64, 64, 3), 3, np.uint8))


def test_the_mask_of_a_cut_out_cell_is_its_largest_part_with_its_holes() -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[10:40, 10:40] = 200
    picture[20:25, 20:25] = 0  # a vacuole that segmentation blackened
    picture[50:55, 50:55] = 200  # debris
    cell = cell_on_black(picture)
    assert cell.area_px == 30 * 30
    assert not cell.mask[45:, 45:].any()


def encoded(suffix: str, picture: Pixels) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


@pytest.mark.parametrize("suffix", [".bmp", ".png", ".jpg", ".webp"])
def test_an_image_cut_off_anywhere_is_refused(suffix: str) -> None:
    data = encoded(suffix, pattern(96, 96))
    assert decode_image(data, "cell").shape == (96, 96, 3)
    for kept in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(BloodedgeError, match="cell is truncated or not an image; copy it again"):
            decode_image(data[: int(kept * len(data))], "cell")
    with pytest.raises(BloodedgeError, match="truncated"):
        decode_image(data[:-3], "cell")


@pytest.mark.parametrize(
    ("picture", "suffix", "sentence"),
    [
        (pattern(32, 32).astype(np.float32), ".tif", "has 32 bits per channel; save it as an 8-bit colour image"),
        (pattern(32, 32)[:, :, 0], ".png", "is a grey image; stained cells need colour"),
        (pattern(32, 32)[:, :, 0], ".jpg", "is a grey image; stained cells need colour"),
        (pattern(32, 32)[:, :, 0], ".bmp", "is a grey image; stained cells need colour"),
        (pattern(1, 1), ".png", "is 1x1 pixels; sides from 16 to 16384"),
        (pattern(15, 300), ".png", "is 300x15 pixels"),
    ],
)
def test_unusable_images_are_refused_with_one_sentence(
    tmp_path: Path, picture: NDArray[np.generic], suffix: str, sentence: str
) -> None:
    path = tmp_path / f"cell{suffix}"
    path.write_bytes(encoded(suffix, picture))
    with pytest.raises(BloodedgeError, match=sentence) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image " * 100)
    for name, sentence in (
        ("empty.png", "is empty"),
        ("text.png", "not an image"),
        ("none.png", "cannot be read"),
        (".", "cannot be read"),
    ):
        with pytest.raises(BloodedgeError, match=sentence):
            read_image(tmp_path / name)


def test_transparent_pixels_are_black() -> None:
    colour, alpha = pattern(32, 32), np.full((32, 32), 255, np.uint8)
    alpha[:8], alpha[8:16] = 0, 100
    image = decode_image(encoded(".png", np.dstack([colour, alpha])), "cell")
    assert not image[:16].any()
    assert np.array_equal(image[16:], colour[16:])


@pytest.mark.parametrize(("bits", "factor"), [(12, 16), (16, 257)])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_by_the_range_that_they_fill(suffix: str, bits: int, factor: int) -> None:
    """A camera of 12 bits stores values up to 4095 in 16."""
    colour = pattern(32, 32)
    deep = np.minimum(colour.astype(np.uint16) * factor, 2**bits - 1)
    assert np.array_equal(decode_image(encoded(suffix, deep), "cell"), colour)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("after", [1, 65, 5000])
def test_bytes_after_a_pictures_end_do_no_harm(suffix: str, after: int) -> None:
    data = encoded(suffix, pattern(96, 96))
    assert np.array_equal(decode_image(data + bytes(after), "cell"), decode_image(data, "cell"))


def test_a_jpeg_whose_trailer_looks_like_its_end_is_still_seen_to_be_cut() -> None:
    """A thumbnail inside it has an end marker of its own, and so may what follows a picture that was cut."""
    data = encoded(".jpg", pattern(96, 96))
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    whole = data[:2] + thumbnail + data[2:]
    assert decode_image(whole, "cell").shape == (96, 96, 3)
    with pytest.raises(BloodedgeError, match="truncated"):
        decode_image(whole[: len(whole) - len(data) // 2], "cell")


def test_a_progressive_jpeg_is_whole_after_its_last_scan() -> None:
    data = cv2.imencode(".jpg", pattern(96, 96), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert decode_image(data, "cell").shape == (96, 96, 3)
    with pytest.raises(BloodedgeError, match="truncated"):
        decode_image(data[: len(data) * 3 // 4], "cell")


@pytest.mark.parametrize("off", [-2, 2])
def test_a_bmp_whose_header_is_two_bytes_off_is_read(off: int) -> None:
    data = bytearray(encoded(".bmp", pattern(96, 96)))
    data[2:6] = (len(data) + off).to_bytes(4, "little")
    assert np.array_equal(decode_image(bytes(data), "cell"), pattern(96, 96))


def tagged(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value of a tag of its first directory."""
    (at,), changed = struct.unpack_from("<I", data, 4), bytearray(data)
    (entries,) = struct.unpack_from("<H", data, at)
    places = (at + 2 + 12 * entry for entry in range(entries))
    place = next(place for place in places if struct.unpack_from("<H", data, place)[0] == tag)
    struct.pack_into("<H", changed, place + 8, value)
    return bytes(changed)


@pytest.mark.parametrize("photometric", [8, 9])
def test_cielab_is_refused_instead_of_read_in_wrong_colours(photometric: int) -> None:
    data = tagged(encoded(".tif", pattern(96, 96)), 262, photometric)
    with pytest.raises(BloodedgeError, match="cell stores its colours as CIELAB; save it as RGB"):
        decode_image(data, "cell")


def test_every_page_of_a_tiff_is_read_or_its_pages_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    pages = [pattern(64, 64) // divisor for divisor in (1, 2, 3, 4)]
    assert cv2.imwritemulti(str(path), pages)
    assert all(np.array_equal(ours, page) for ours, page in zip(read_images(path), pages, strict=True))
    with pytest.raises(BloodedgeError, match=r"stack\.tif holds 4 pictures; save each as a file of its own"):
        read_image(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BloodedgeError, match="truncated"):
        read_images(path)


def test_a_tiff_of_one_page_is_one_picture(tmp_path: Path) -> None:
    (tmp_path / "one.tif").write_bytes(encoded(".tif", pattern(64, 64)))
    (one,) = read_images(tmp_path / "one.tif")
    assert np.array_equal(one, pattern(64, 64))


def cut_out(background: int | tuple[int, int, int], side: int = 120) -> Pixels:
    """The pattern's ellipse in the middle of another colour."""
    picture = np.full((side, side, 3), background, np.uint8)
    inside = ellipse(80, 60) > 0
    picture[20:100, 30:90][inside] = pattern(80, 60)[inside] // 2 + 40
    return picture


@pytest.mark.parametrize("background", [255, 190, (230, 240, 250), (250, 20, 10)])
def test_a_cell_on_another_even_background_is_what_it_is_on_black(background: int | tuple[int, int, int]) -> None:
    black, other = cell_on_black(cut_out(0)), cell_on_black(cut_out(background))
    assert np.array_equal(other.mask, black.mask)
    spec = ImagingSpec(size_px=64, light="levelled")
    assert np.array_equal(network_input(other, spec), network_input(black, spec))


def test_a_cell_on_a_background_with_the_noise_of_compression_keeps_its_area() -> None:
    data = cv2.imencode(".jpg", cv2.GaussianBlur(cut_out(255), (5, 5), 0), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    assert cell_on_black(decode_image(data, "cell")).area_px == pytest.approx(
        cell_on_black(cut_out(0)).area_px, rel=0.2
    )


def test_a_closely_cropped_cell_is_read_on_black_and_on_white() -> None:
    close = (slice(20, 100), slice(30, 90))
    whole = cell_on_black(cut_out(0))
    for background in (0, 255):
        assert cell_on_black(np.ascontiguousarray(cut_out(background)[close])).area_px == whole.area_px


def clipped() -> Pixels:
    """A cell that all four borders cut."""
    return np.ascontiguousarray(cut_out(0)[35:85, 42:78])


def several() -> Pixels:
    return np.hstack([cut_out(255), cut_out(255)])


@pytest.mark.parametrize("make", [clipped, several, lambda: render_field(0).bgr, lambda: pattern(200, 300)])
def test_a_field_or_a_piece_of_one_is_no_cell(make: Callable[[], Pixels]) -> None:
    with pytest.raises(BloodedgeError, match="found with: bloodedge find IMAGE"):
        cell_on_black(make())


def test_real_fields_are_no_cells(real_data: Path) -> None:
    paths = [
        path for name in ("bccd/JPEGImages", "chula", "leukaemia_fields") for path in (real_data / name).rglob("*")
    ]
    fields = [path for path in sorted(paths) if path.suffix in {".jpg", ".png", ".webp"}][::8]
    assert len(fields) > 20
    for path in fields:
        with pytest.raises(BloodedgeError, match="bloodedge find IMAGE"):
            cell_on_black(read_image(path))


@pytest.mark.slow
def test_real_cells_have_the_masks_and_inputs_that_they_had_when_only_black_was_known(real_data: Path) -> None:
    """What was cut out onto black, as every network's cells were, must not move by a byte."""

    def masked(picture: Pixels) -> Pixels:
        _, lit = cv2.threshold(picture.max(axis=2), 10, 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        return cv2.drawContours(np.zeros_like(lit), [max(contours, key=cv2.contourArea)], 0, 255, cv2.FILLED)

    paths = [*sorted((real_data / "cnmc").rglob("*.webp"))[::40], *(real_data / "cnmc_bmp").rglob("*.bmp")]
    for path in paths:
        picture = cv2.imread(str(path))
        cell, spec = cell_on_black(read_image(path)), ImagingSpec(views=("canonical",), light="levelled")
        assert np.array_equal(cell.bgr, picture)
        assert np.array_equal(cell.mask, masked(picture))
        before = Cell(picture, masked(picture), CNMC_UM_PER_PX)
        assert np.array_equal(network_input(cell, spec), network_input(before, spec))
