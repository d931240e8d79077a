"""The same cells for other people's tools: COCO's JSON, and Ultralytics YOLO's labels of outlines.

Both are of the pictures in ``images/``, each with the outline of the one cell in its middle.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import cv2

from bloodedge.data.exported_cells import CLASSES, IMAGES, ExportedCell
from bloodedge.imaging import Image

HELD_OUT = 5
"""Every so many-th subject is in YOLO's validation part."""


def _outline(mask: Image) -> list[list[int]]:
    """A mask's border as a polygon [[x, y], ...]."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [[int(x), int(y)] for x, y in max(contours, key=cv2.contourArea)[:, 0]]


def _picture(cell: ExportedCell) -> str:
    return f"{IMAGES}/{PurePosixPath(cell.file).name}"


def coco(cells: Sequence[ExportedCell], masks: Mapping[str, Image]) -> str:
    """COCO's JSON of objects; masks: by each cell's file, uint8 (h, w)."""
    images, annotations = [], []
    for number, cell in enumerate(cells, 1):
        mask = masks[cell.file]
        images.append(
            {"id": number, "file_name": _picture(cell), "width": mask.shape[1], "height": mask.shape[0]}
            | {"subject": cell.subject, "um_per_px": cell.um_per_px}
        )
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": CLASSES.index(cell.label) + 1,
                "bbox": list(cv2.boundingRect(mask)),
                "area": int(cv2.countNonZero(mask)),
                "segmentation": [[value for point in _outline(mask) for value in point]],
                "iscrowd": 0,
                "attributes": {"kind": cell.kind, "sampling": cell.sampling},
            }
        )
    categories = [{"id": number, "name": name, "supercategory": "cell"} for number, name in enumerate(CLASSES, 1)]
    return json.dumps(
        {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}, indent=1
    )


def yolo(cells: Sequence[ExportedCell], masks: Mapping[str, Image]) -> dict[str, str]:
    """Files of a YOLO data set by their names: ``data.yaml``, ``labels/``, and the parts, split by subject."""
    subjects = sorted({cell.subject for cell in cells})
    held_out = set(subjects[HELD_OUT - 1 :: HELD_OUT] or subjects[1:2])
    parts: dict[str, list[str]] = {"train.txt": [], "val.txt": []}
    files = {}
    for cell in cells:
        parts["val.txt" if cell.subject in held_out else "train.txt"].append(f"./{_picture(cell)}\n")
        height, width = masks[cell.file].shape
        points = [f"{(x + 0.5) / width:.6f} {(y + 0.5) / height:.6f}" for x, y in _outline(masks[cell.file])]
        name = PurePosixPath(cell.file).with_suffix(".txt").name
        files[f"labels/{name}"] = f"{CLASSES.index(cell.label)} {' '.join(points)}\n"
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    note = "The parts are split by subject." if held_out else "There is one subject: val.txt is empty."
    files["data.yaml"] = f"# {note}\npath: .\ntrain: train.txt\nval: val.txt\nnames:\n{names}"
    return files | {name: "".join(lines) for name, lines in parts.items()}
