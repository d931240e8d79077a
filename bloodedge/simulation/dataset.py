"""Rendered single cells: a data set in C-NMC's layout, and the golden inputs of a bundle."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from bloodedge.console import Progress
from bloodedge.data.dataset import CLASS_NAMES, RENDERED_MARK
from bloodedge.data.pictures import in_threads
from bloodedge.decision.thresholds import LABELS
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import folder_beside
from bloodedge.finder import find_cells
from bloodedge.imaging import CNMC_UM_PER_PX, Cell, Image, ImagingSpec, network_input
from bloodedge.simulation.cells import white_cell
from bloodedge.simulation.optics import captured, defocused, illumination, transmittance
from bloodedge.simulation.spec import FieldSpec, SubjectStyle

CROP_PX = 450
"""Side of a crop, C-NMC's."""

_MARKER_TEXT = "These cells were drawn by the simulated microscope of bloodedge; no patient's cell is among them.\n"
_FOLDS = 3
_CELLS_PER_IMAGE = 6
_DATASET, _GOLDEN = 1, 2
"""Streams of random numbers: golden cells are never those of a data set."""


def render_cell(label: str, seed: int, style: SubjectStyle | None = None) -> Cell:
    """One white cell cut out onto black, as C-NMC's are, with the light, focus and noise of a field.

    The finder cuts it out: where cytoplasm is pale its outline lies inside the drawn one, in a frame as here.
    Its picture is uint8 (450, 450, 3) at CNMC_UM_PER_PX.
    Raises BloodedgeError when ``label`` is neither "blast" nor "normal".
    """
    if label not in LABELS:
        raise BloodedgeError(f'There is no cell "{label}" to draw; choose one of: {", ".join(LABELS)}.')
    rng = np.random.default_rng([seed, LABELS.index(label)])
    style = style or SubjectStyle()
    sprite = white_cell(rng, label, style, CNMC_UM_PER_PX)
    side = len(sprite.mask)
    spec = FieldSpec(
        width=side,
        height=side,
        um_per_px=CNMC_UM_PER_PX,
        unevenness=rng.uniform(0, 0.06),
        defocus_um=rng.uniform(0.1, 0.3),
        style=style,
    )
    light = illumination(rng, spec) * transmittance(sprite.amounts, spec.style, spec.stain_strength)
    picture = captured(rng, defocused(light, spec.defocus_um / spec.um_per_px), spec.sensor_noise)
    mask = _found(picture, sprite.mask)
    return Cell(_on_black(picture * (mask > 0)[:, :, None]), _on_black(mask), CNMC_UM_PER_PX)


def _found(picture: Image, drawn: Image) -> Image:
    """The mask of the finder's one cell; the drawn one where it finds another number."""
    found = find_cells(picture, CNMC_UM_PER_PX).cells
    if len(found) != 1:
        return drawn
    (x, y, width, height), mask = found[0].box, np.zeros_like(drawn)
    mask[y : y + height, x : x + width] = found[0].mask
    return mask


def _on_black(picture: Image) -> Image:
    """A square picture in the middle of a black one of side CROP_PX, cut to it when larger."""
    crop = np.zeros((CROP_PX, CROP_PX, *picture.shape[2:]), np.uint8)
    side = min(len(picture), CROP_PX)
    source, target = (len(picture) - side) // 2, (CROP_PX - side) // 2
    crop[target : target + side, target : target + side] = picture[source : source + side, source : source + side]
    return crop


def write_dataset(
    folder: Path,
    subjects: int = 24,
    cells_per_subject: int = 60,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a data set in C-NMC's layout: half of the subjects healthy (``H1``...), half patients (``1``...).

    Each subject has its own SubjectStyle; the folds hold whole subjects. ``progress(done, total)`` is called after each
    cell. The folder appears whole or not at all, and replaces an earlier one. Raises UsageError when it holds anything
    else.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RENDERED_MARK).is_file():
        raise UsageError(f"{folder} holds files that this command did not make; choose another folder.")
    with folder_beside(folder) as unfinished:
        (unfinished / RENDERED_MARK).write_text(_MARKER_TEXT, encoding="utf-8")
        drawings = []
        for subject in range(subjects):
            number, label, word = subject // 2 + 1, LABELS[subject % 2], CLASS_NAMES[subject % 2]
            name = str(number) if label == "blast" else f"H{number}"
            place = unfinished / f"fold_{(number - 1) % _FOLDS}" / word
            place.mkdir(parents=True, exist_ok=True)
            for index, draw in enumerate(_cells_of_subject(label, cells_per_subject, [_DATASET, seed, subject])):
                image, in_image = divmod(index, _CELLS_PER_IMAGE)
                drawings.append((place / f"UID_{name}_{image + 1}_{in_image + 1}_{word}.png", draw))
        in_threads(lambda drawing: _write_png(drawing[0], drawing[1]().bgr), drawings, progress)


def _cells_of_subject(label: str, count: int, seed: list[int]) -> Iterator[Callable[[], Cell]]:
    """What draws each of ``count`` cells in one style."""
    style_seed, *cell_seeds = np.random.default_rng(seed).integers(2**62, size=count + 1).tolist()
    style = SubjectStyle.of(style_seed)
    for cell_seed in cell_seeds:
        yield partial(render_cell, label, cell_seed, style)


def _write_png(path: Path, bgr: Image) -> None:
    _, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    path.write_bytes(data.tobytes())


def golden_inputs(spec: ImagingSpec, count: int = 32, seed: int = 0) -> Image:
    """Rendered cells as network inputs, uint8 (count, *spec.input_shape), RGB.

    Normal cells and blasts take turns, and each is of a subject of its own that is in no rendered data set.
    """
    cells = (next(_cells_of_subject(LABELS[index % 2], 1, [_GOLDEN, seed, index]))() for index in range(count))
    return np.stack([network_input(cell, spec) for cell in cells])
