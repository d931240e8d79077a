"""A simulated microscope: rendered blood smears and single cells with their truth, seeded, NumPy and OpenCV only."""

from bloodedge.simulation.dataset import golden_inputs, render_cell, write_dataset
from bloodedge.simulation.paste import paste_cells
from bloodedge.simulation.smear import Box, Field, TrueCell, render_field
from bloodedge.simulation.spec import MIXED, FieldSpec, SubjectStyle

__all__ = [
    "MIXED",
    "Box",
    "Field",
    "FieldSpec",
    "SubjectStyle",
    "TrueCell",
    "golden_inputs",
    "paste_cells",
    "render_cell",
    "render_field",
    "write_dataset",
]
