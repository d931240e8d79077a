"""The annotated fields that the cell finder is trained on and judged by, of five microscopes."""

import csv
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bloodedge.imaging import Box, Image, read_image

BCCD_UM_PER_PX = 0.085
"""One scale for all of BCCD's frames: red cells of 7.5 µm measure 88 pixels."""
PBC_UM_PER_PX = 0.103

CHULA_WHITE_CELLS = {"141.jpg": (613, 104), "171.jpg": (608, 424), "341.jpg": (539, 430), "391.jpg": (163, 443)}
"""Middle (x, y) of the white cells in Chula's frames, marked by eye: Chula-RBC-12 annotates red cells only."""

PBC_WHITE = frozenset({"BA", "EO", "ERB", "LY", "MO", "BNE", "SNE", "MMY", "MY", "PMY"})
"""Kinds of PBC that are white cells or their like: erythroblasts have a nucleus too."""
_AT_BORDER_PX = 3


@dataclass(frozen=True)
class Frame:
    """A frame with the boxes that its annotators drew.

    border: boxes that the frame's border cuts, where they count neither as missed nor as false; masks: uint8 (H, W), 0
    elsewhere, 128 on a cell's cytoplasm, 255 on its nucleus.
    """

    name: str
    bgr: Image
    boxes: tuple[Box, ...] = ()
    red_cells_px: tuple[float, ...] = ()
    """Mean sides of the boxes of whole red cells."""
    border: tuple[Box, ...] = ()
    mask: Image | None = None


def bccd_frames(folder: Path) -> list[Frame]:
    return [_bccd_frame(folder, path) for path in sorted((folder / "Annotations").glob("*.xml"))]


def _bccd_frame(folder: Path, annotation: Path) -> Frame:
    bgr = read_image(folder / "JPEGImages" / f"{annotation.stem}.jpg")
    white: list[Box] = []
    red: list[float] = []
    for thing in ET.parse(annotation).iter("object"):  # noqa: S314 - a local data set
        corners = [int(thing.findtext(f"bndbox/{side}", "0")) for side in ("xmin", "ymin", "xmax", "ymax")]
        left, top, right, bottom = corners
        if thing.findtext("name") == "WBC":
            white.append((left, top, right - left, bottom - top))
        elif min(left, top) > 3 and right < bgr.shape[1] - 3 and bottom < bgr.shape[0] - 3:
            red.append((right - left + bottom - top) / 2)
    return Frame(annotation.stem, bgr, tuple(white), tuple(red))


def chula_frames(folder: Path) -> list[Frame]:
    paths = sorted((folder / "Dataset").glob("*.jpg"), key=lambda path: int(path.stem))
    return [Frame(path.name, read_image(path)) for path in paths]


def pbc_frames(folder: Path, *, fitted: bool) -> list[Frame]:
    """Pictures evenly spread over the kinds: 30 of each to judge by, or up to 90 of each of the others to fit to.

    Pictures whose middle cell was not boxed though its kind is a white cell are left out.
    """
    boxes = annotated(folder / "boxes.csv")
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(boxes):
        kinds[name.split("_")[0]].append(name)
    frames = []
    for kind, names in sorted(kinds.items()):
        judged = _spread(names, 30)
        for name in _spread([name for name in names if name not in set(judged)], 90) if fitted else judged:
            white = [box for label, box in boxes[name] if label in PBC_WHITE]
            frame = with_border(name, read_image(folder / "images" / f"{name}.webp"), white)
            middle = frame.bgr.shape[1] // 2, frame.bgr.shape[0] // 2
            if kind == "PLATELET" or any(holds(box, middle) for box in white):
                frames.append(frame)
    return frames


def _spread(names: list[str], number: int) -> list[str]:
    return names[:: max(1, len(names) // number)][:number]


def leukaemia_frames(folder: Path) -> list[Frame]:
    boxes = annotated(folder / "boxes.csv")
    paths = sorted(folder.glob("*.webp"))
    return [with_border(path.stem, read_image(path), [box for _, box in boxes[path.stem]]) for path in paths]


def masked_frames(folder: Path, part: str) -> list[Frame]:
    """The pictures of one cell of ``part``, jiangxi or cellavision, with its mask."""
    frames = []
    for path in sorted((folder / part).glob("*.webp")):
        mask = cv2.imread(str(path.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)
        frames.append(Frame(f"{part}/{path.stem}", read_image(path), mask=np.asarray(mask, np.uint8)))
    return frames


def every_source(data: Path) -> dict[str, list[Frame]]:
    """The frames to judge by of every microscope."""
    return {
        "bccd": bccd_frames(data / "bccd"),
        "chula": chula_frames(data / "chula"),
        "leukaemia_fields": leukaemia_frames(data / "leukaemia_fields"),
        "pbc": pbc_frames(data / "pbc", fitted=False),
        "jiangxi": masked_frames(data / "wbc_masks", "jiangxi"),
        "cellavision": masked_frames(data / "wbc_masks", "cellavision"),
    }


def annotated(table: Path) -> dict[str, list[tuple[str, Box]]]:
    """(kind, box) of everything that a table of boxes lists, by picture."""
    boxes: defaultdict[str, list[tuple[str, Box]]] = defaultdict(list)
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            x, y, width, height = (int(row[key]) for key in ("x", "y", "width", "height"))
            boxes[row["image"]].append((row["class"], (x, y, width, height)))
    return boxes


def with_border(name: str, bgr: Image, boxes: list[Box]) -> Frame:
    """The frame, with the boxes that its border cuts apart."""
    cut = [at_border(box, bgr.shape) for box in boxes]
    whole = tuple(box for box, at in zip(boxes, cut, strict=True) if not at)
    return Frame(name, bgr, whole, border=tuple(box for box, at in zip(boxes, cut, strict=True) if at))


def at_border(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box comes within three pixels of the border of a frame of that shape."""
    x, y, width, height = box
    near = _AT_BORDER_PX
    return x <= near or y <= near or x + width >= shape[1] - near or y + height >= shape[0] - near


def holds(box: Box, point: tuple[int, int]) -> bool:
    x, y, width, height = box
    return x <= point[0] < x + width and y <= point[1] < y + height


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)
