"""Predictions as JSON, CSV, GeoJSON and a page; each file appears whole or not at all."""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TextIO

from bloodedge.decision.kinds import OTHER, Kind
from bloodedge.errors import disk_errors
from bloodedge.files import put_in_place, temporary_beside
from bloodedge.text import as_text, not_a_formula
from bloodedge_device.predict.page import gallery_file
from bloodedge_device.predict.predictor import Add, CellPrediction, Prediction

COLUMNS = (
    "source", "page", "frame", "shows", "um_per_px", "x", "y", "width", "height", "area_um2", "kind", "stage",
    "kind_probability", "blast_probability", "decision", "reason", "quality", "problem",
)  # fmt: skip

COLOURS = {"blast": (214, 69, 65), "normal": (38, 140, 90), "uncertain": (217, 150, 30)}
"""Red, green and blue of a cell of which *blast or normal?* was asked, in QuPath."""
KIND_COLOURS = {
    Kind.NEUTROPHIL: (150, 110, 200),
    Kind.EOSINOPHIL: (235, 110, 60),
    Kind.BASOPHIL: (70, 60, 160),
    Kind.IMMATURE_GRANULOCYTE: (190, 80, 170),
    Kind.ERYTHROBLAST: (160, 60, 90),
}
OTHER_COLOUR = (120, 130, 140)


def output_file(form: str, target: str) -> AbstractContextManager[Add]:
    """The file ``target`` in a form: json, csv, geojson, gallery. It is there when the block ends; stdout for ``-``."""
    return {"json": _json_file, "csv": _csv_file, "geojson": _geojson_file, "gallery": gallery_file}[form](target)


def to_json(prediction: Prediction) -> dict[str, Any]:
    """A picture's cells for programs; box [x, y, width, height] and outline in the picture's pixels."""
    picture = prediction.picture
    scale = prediction.um_per_px
    value: dict[str, Any] = {
        "source": as_text(picture.path),
        "page": picture.page,
        "frame": picture.frame,
        "shows": prediction.shows,
        "um_per_px": None if scale is None else round(scale, 5),
        "quality": prediction.quality,
        "cells": [_cell_json(cell) for cell in prediction.cells],
        "rejected": [{"box": list(other.box), "reason": other.reason} for other in prediction.rejected],
    }
    return value if picture.problem is None else value | {"problem": picture.problem}


def _cell_json(cell: CellPrediction) -> dict[str, Any]:
    kind = cell.kind
    return {
        "box": list(cell.box),
        "outline": [list(point) for point in cell.outline],
        "area_um2": round(cell.area_um2, 2),
        "touches_border": cell.touches_border,
        "kind": kind and kind.kind,
        "stage": kind and kind.stage,
        "kind_probability": kind and round(kind.probability, 4),
        "blast_probability": None if cell.blast_probability is None else round(cell.blast_probability, 4),
        "decision": cell.decision,
        "reason": cell.reason,
    }


@contextmanager
def _text_file(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
        return
    path = Path(target)
    with disk_errors(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_beside(path) as temporary:
        with disk_errors(path.name):
            file = temporary.open("w", encoding="utf-8", newline="")
        with file:
            yield file
        with disk_errors(path.name):
            put_in_place(temporary, path)


@contextmanager
def _items(target: str, before: str, after: str) -> Iterator[Callable[[Any], None]]:
    """A JSON array between other text; yields what writes one more item, on a line of its own."""
    with _text_file(target) as file:
        file.write(before)
        separator = "\n"

        def add(value: Any) -> None:
            nonlocal separator
            file.write(separator + json.dumps(value, allow_nan=False))
            separator = ",\n"

        yield add
        file.write(after)


@contextmanager
def _json_file(target: str) -> Iterator[Add]:
    """An array of ``to_json``."""
    with _items(target, "[", "\n]\n") as add:
        yield lambda prediction: add(to_json(prediction))


@contextmanager
def _geojson_file(target: str) -> Iterator[Add]:
    """A FeatureCollection (RFC 7946, but in pixels) whose features QuPath takes for detections."""
    with _items(target, '{"type": "FeatureCollection", "features": [', "\n]}\n") as add:

        def add_cells(prediction: Prediction) -> None:
            for cell in prediction.cells:
                add(_feature(prediction, cell))

        yield add_cells


def _feature(prediction: Prediction, cell: CellPrediction) -> dict[str, Any]:
    picture = prediction.picture
    place = {"page": picture.page, "frame": picture.frame}
    kind = "" if cell.kind is None else cell.kind.kind.words
    name = kind if cell.decision == OTHER else f"{kind}: {cell.decision}" if kind else cell.decision
    measurements = {
        "Kind probability": None if cell.kind is None else cell.kind.probability,
        "Blast probability": cell.blast_probability,
        "Area µm^2": cell.area_um2,
    }
    ring = [list(point) for point in (*cell.outline, cell.outline[0])]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": name, "color": list(_colour(cell))},
            "measurements": {key: round(value, 4) for key, value in measurements.items() if value is not None},
            "source": as_text(picture.path),
            **{key: number for key, number in place.items() if number is not None},
            "reason": cell.reason,
        },
    }


def _colour(cell: CellPrediction) -> tuple[int, int, int]:
    if cell.decision in COLOURS:
        return COLOURS[cell.decision]
    return OTHER_COLOUR if cell.kind is None else KIND_COLOURS.get(cell.kind.kind, OTHER_COLOUR)


@contextmanager
def _csv_file(target: str) -> Iterator[Add]:
    """One row a cell under COLUMNS (RFC 4180); a picture without cells has a row as well."""
    with _text_file(target) as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        yield lambda prediction: rows.writerows(_rows(prediction))


def _rows(prediction: Prediction) -> Iterator[dict[str, Any]]:
    value = to_json(prediction)
    shared = {key: value[key] for key in ("page", "frame", "shows", "um_per_px", "quality")}
    shared |= {"source": not_a_formula(value["source"]), "problem": not_a_formula(value.get("problem", ""))}
    for cell in value["cells"]:
        x, y, width, height = cell["box"]
        own = {key: cell[key] for key in COLUMNS if key in cell}
        yield shared | own | {"x": x, "y": y, "width": width, "height": height}
    if not value["cells"]:
        yield shared
