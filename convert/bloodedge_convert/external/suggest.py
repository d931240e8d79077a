"""A spec suggested from a model's file, for a person to correct."""

from pathlib import Path
from typing import Any

from bloodedge.imaging import CNMC_UM_PER_PX
from bloodedge_convert.external.keras_network import load_network, scales_itself

CROP_PX = 450
"""Pixels along one of C-NMC's crops, which a network of another program most often saw whole."""


def suggest_spec(path: Path) -> str:
    """``SPEC.toml`` with what the file says, and a comment where it does not."""
    network = load_network(path)
    shape = tuple(network.input_shape[1:])
    last = shape[-1] == 3 or shape[0] != 3
    size = next((side for side in (shape[:2] if last else shape[1:]) if side), 224)
    outputs = int(network.output_shape[-1])
    activation = _activation(network)
    output = activation if activation in {"softmax", "sigmoid"} else "logits"
    names = ["blast"] if outputs == 1 else ["normal", "blast"] if outputs == 2 else ["NAME=normal"] * outputs
    scaled = scales_itself(network)
    why = "the network scales its input itself" if scaled else "most often 1/255; not written in the file"
    return "\n".join(
        [
            f"# What {path.name} takes and gives. Lines marked ? are guesses: check them against its training.",
            f"labels = {names!r}  # ? the outputs in their order; NAME=blast and NAME=normal are added up".replace(
                "'", '"'
            ),
            f'output = "{output}"',
            f'layout = "{"NHWC" if last else "NCHW"}"',
            'channels = "RGB"  # ? OpenCV reads BGR',
            f"scale = {1.0 if scaled else 0.00392157}  # ? {why}: it takes pixel * scale + offset",
            "offset = 0.0  # ?",
            "seen = false  # ? true where it was fitted to people of DATA",
            "# claimed_accuracy = 0.95",
            "",
            "[imaging]",
            f"size_px = {size}",
            f"um_per_px = {CROP_PX * CNMC_UM_PER_PX / size:.4f}  # ? of a whole C-NMC crop at this size",
            "",
        ]
    )


def _activation(network: Any) -> str:
    """The name of the last layer's activation; empty if it has none."""
    last = [*network._flatten_layers(include_self=False)][-1]
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name or {"Softmax": "softmax"}.get(type(last).__name__, "")
