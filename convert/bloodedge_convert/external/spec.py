"""What a network's file does not say: what its inputs and outputs mean. ``SPEC.toml``."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from bloodedge.bundle.other_formats import model_kind
from bloodedge.config import Strict, read_toml, validate
from bloodedge.decision.thresholds import LABELS
from bloodedge.errors import UsageError, quoted
from bloodedge.imaging import ImagingSpec

Floats = NDArray[np.float32]
SUFFIXES = {".keras": "keras", ".h5": "keras", ".hdf5": "keras", ".onnx": "onnx"}
Channels = float | tuple[float, float, float]
"""One number for all three channels, or one each, in the order that the network takes them."""


def _meaning(label: str) -> str:
    """The class of an output: "blast" of "blast" and of "early=blast"."""
    meaning = label.rpartition("=")[2].strip().lower()
    if meaning not in LABELS:
        message = f'labels: "{label}" says neither normal nor blast; write NAME=normal or NAME=blast'
        raise ValueError(message)
    return label


class ModelSpec(Strict):
    """``SPEC.toml``."""

    labels: tuple[Annotated[str, AfterValidator(_meaning)], ...] = Field(min_length=1)
    """The outputs' classes in order: normal, blast, or NAME=normal, NAME=blast, whose probabilities are added up. A
    single output is the probability of the class that it names."""
    output: Literal["softmax", "sigmoid", "logits"]
    """What the network gives: probabilities of all classes, the probability of one, or logits of either."""
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    """Whether the colour channels are the input's last axis or its second."""
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: Channels = 1.0
    """The network takes pixel * scale + offset, with pixels from 0 to 255."""
    offset: Channels = 0.0
    imaging: ImagingSpec
    """How a cell becomes the picture; size_px is the network's input size."""
    seen: bool = False
    """Whether the network was fitted to people of DATA: its figures are then called leaky."""
    claimed_accuracy: float | None = Field(default=None, ge=0, le=1)
    """The accuracy that its makers give; far less here means that this spec is wrong."""

    @model_validator(mode="after")
    def _fits_its_output(self) -> "ModelSpec":
        meanings = {label.rpartition("=")[2].strip().lower() for label in self.labels}
        if len(self.labels) > 1 and len(meanings) < 2:
            message = "labels: both normal and blast are needed"
            raise ValueError(message)
        if self.output == "sigmoid" and len(self.labels) > 1:
            message = "labels: a sigmoid output is of one class; name that one"
            raise ValueError(message)
        if self.output == "softmax" and len(self.labels) == 1:
            message = "labels: softmax has an output for each class; name them all, or say sigmoid"
            raise ValueError(message)
        if len(self.imaging.views) > 1:
            message = "imaging.views: another program's network sees one view; name one"
            raise ValueError(message)
        return self

    def to_classes(self) -> tuple[Floats, Floats]:
        """(matrix (K, 2), bias (2,)) that take K probabilities to those of normal and blast."""
        matrix = np.zeros((len(self.labels), 2), np.float32)
        bias = np.zeros(2, np.float32)
        for row, label in zip(matrix, self.labels, strict=True):
            row[LABELS.index(label.rpartition("=")[2].strip().lower())] = 1
        if len(self.labels) == 1:
            bias = 1 - matrix[0]
            matrix = matrix - bias
        return matrix, bias


def is_external(path: Path) -> bool:
    """Whether a path is another program's model and no run folder."""
    return (path.suffix.lower() in SUFFIXES and path.is_file()) or (path / "saved_model.pb").is_file()


def source_kind(path: Path) -> Literal["keras", "onnx", "saved_model"]:
    """How a model is read."""
    if path.is_dir():
        return "saved_model"
    return "onnx" if SUFFIXES[path.suffix.lower()] == "onnx" else "keras"


def read_spec(model: Path, spec: Path | None) -> ModelSpec:
    """Read a spec; raises UsageError with every mistake, and for a model without one."""
    if spec is None:
        raise UsageError(
            f"{model} is {model_kind(model)}, which does not say what its inputs and outputs mean: write "
            f"that with: bloodedge convert {quoted(model)} --suggest-spec > spec.toml, correct it, and give --spec"
        )
    return validate(ModelSpec, read_toml(spec), str(spec))
