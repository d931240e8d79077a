"""A wrong spec found out: by what the network says of cells, and what it would say if they were scaled otherwise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.dataset import CellFile, inputs
from bloodedge.errors import UsageError
from bloodedge.metrics import auc
from bloodedge_convert.external.keras_network import framed, scales_itself
from bloodedge_convert.external.spec import ModelSpec

ALIKE = 1e-3
"""Standard deviation of the blast probability below which a network says the same of every cell."""
SWAPPED, CHANCE = 0.35, 0.6
"""AUC below which the labels are swapped, and below which something else may be wrong."""
BELOW_CLAIM = 0.1
BETTER = 0.1
"""AUC by which another scaling has to be better to be named."""
TRIED = 120
"""Cells on which other scalings are tried."""
SCALINGS = {
    "scale = 1, offset = 0": (1.0, 0.0),
    "scale = 0.00392157, offset = 0": (1 / 255, 0.0),
    "scale = 0.00784314, offset = -1": (1 / 127.5, -1.0),
    "scale = [0.01712475, 0.017507, 0.01742919], offset = [-2.1179, -2.03571, -1.80444] (ImageNet's)": (
        (0.01712475, 0.017507, 0.01742919),
        (-2.1179, -2.03571, -1.80444),
    ),
}


def check_spec(network: Any, spec: ModelSpec, cells: Sequence[CellFile], blast: NDArray[np.float64]) -> None:
    """Raise UsageError, with what seems to be wrong, when a network does no better than chance or than it claims.

    blast: (N,) its blast probabilities of ``cells``.
    """
    labels = np.array([cell.label for cell in cells])
    area = auc(labels, blast)
    accuracy = float(((blast >= 0.5) == labels).mean())
    if area is not None and area < SWAPPED:
        raise UsageError(
            f"The labels seem to be swapped: the AUC on {len(cells)} cells is {area:.2f}, and {1 - area:.2f} the other "
            "way round; change their order in the spec."
        )
    claimed = spec.claimed_accuracy
    short = claimed is not None and accuracy < claimed - BELOW_CLAIM
    alike = float(blast.std()) < ALIKE
    if area is None or not (alike or short or area < CHANCE):
        return
    found = f"its accuracy is {accuracy:.2f}" + (f" instead of the claimed {claimed:.2f}" if short else "")
    if alike:
        found = f"it says the same of every cell ({blast.mean():.2f}), as with saturated inputs"
    raise UsageError(
        f"With this spec the network is of no use: on {len(cells)} cells {found}, AUC {area:.2f}. "
        f"{_cure(network, spec, cells)} --allow-worthless converts it all the same."
    )


def _cure(network: Any, spec: ModelSpec, cells: Sequence[CellFile]) -> str:
    """What to change: the scaling, or the order of colours, that makes it better; a guess where none does."""
    some = cells[:: max(1, len(cells) // TRIED)]
    images, labels = inputs(some, spec.imaging), [cell.label for cell in some]

    def of(changed: ModelSpec) -> float:
        blast = np.nan_to_num(np.asarray(framed(network, changed).predict(images, verbose=0))[:, 1])
        return 0.5 if blast.std() < ALIKE else auc(labels, blast) or 0.5

    own = of(spec)
    other = "BGR" if spec.channels == "RGB" else "RGB"
    changes = {name: {"scale": scale, "offset": offset} for name, (scale, offset) in SCALINGS.items()}
    tried = {
        **{name: of(spec.model_copy(update=change)) for name, change in changes.items()},
        f'channels = "{other}"': of(spec.model_copy(update={"channels": other})),
    }
    best = max(tried, key=tried.__getitem__)
    if tried[best] >= max(own + BETTER, CHANCE):
        itself = " (it has a layer that scales its input itself)" if scales_itself(network) else ""
        return f"With {best} the AUC would be {tried[best]:.2f}{itself}: correct the spec."
    return "No other scaling or order of colours is better: check size, imaging and labels, or its training."
