"""The picture in the handbook of the device: rendered fields, what the finder finds, and what the network gets.

    python benchmarks/strip.py docs/field.png

Rendered, so that no data set's picture is copied: a field of one specimen in three lights, with what was rejected.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from bloodedge.files import write_bytes
from bloodedge.finder import find_cells
from bloodedge.finder.picture import outlined
from bloodedge.imaging import Image, ImagingSpec, as_image, network_input
from bloodedge.simulation import FieldSpec, SubjectStyle, render_field

SPEC = ImagingSpec(size_px=160, views=("canonical",), light="levelled")
FIELDS = ((21, "warm"), (33, "neutral"), (8, "blue"))
TITLES = ("what the camera gives", "what the finder finds", "what the network gets")
FRAME = (400, 300)
GAP, HEAD = 12, 34
CELLS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    target = parser.parse_args().target
    rows = [row(seed, light) for seed, light in FIELDS]
    picture = np.vstack([titles(rows[0].shape[1]), *rows])
    write_bytes(target, cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def row(seed: int, light: str) -> Image:
    """One field: as it is, outlined, and its cells as network inputs, two by two."""
    spec = FieldSpec.model_validate(
        {"style": SubjectStyle.of(seed), "light": light, "white_cells": (4, 5), "um_per_px": 0.12}
    )
    field = render_field(seed, spec)
    found = find_cells(field.bgr, None)
    whole = [cell for cell in found.cells if not cell.touches_border][:CELLS]
    side = (FRAME[1] - GAP) // 2
    inputs = np.full((FRAME[1], 2 * side + GAP, 3), 255, np.uint8)
    for number, cell in enumerate(whole):
        shown = network_input(cell.crop(field.bgr, found.um_per_px), SPEC)[:, :, ::-1]
        top, left = (k * (side + GAP) for k in divmod(number, 2))
        inputs[top : top + side, left : left + side] = cv2.resize(shown, (side, side), interpolation=cv2.INTER_AREA)
    shown_frames = (field.bgr, outlined(field.bgr, found))
    frames = [as_image(cv2.resize(one, FRAME, interpolation=cv2.INTER_AREA)) for one in shown_frames]
    return padded([*frames, inputs])


def padded(pictures: list[Image]) -> Image:
    """Pictures of one height side by side on white."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    line = np.hstack([part for picture in pictures for part in (gap, picture)] + [gap])
    return as_image(np.vstack([line, np.full((GAP, line.shape[1], 3), 255, np.uint8)]))


def titles(width: int) -> Image:
    """The columns' heads."""
    head = np.full((HEAD, width, 3), 255, np.uint8)
    for number, text in enumerate(TITLES):
        place = GAP + number * (FRAME[0] + GAP), HEAD - 12
        cv2.putText(head, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (70, 60, 50), 1, cv2.LINE_AA)
    return head


if __name__ == "__main__":
    main()
