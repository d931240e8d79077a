"""The one preprocessing: a segmented cell becomes the network's input, on the GPU host and on the board alike.

Only integer arithmetic and OpenCV's bit-exact filters are used, so that the same cell gives the same bytes on every
machine. The spec travels with the run folder and the bundle.
"""

from bloodedge.imaging.cell import (
    BACKGROUND_LEVEL,
    CNMC_UM_PER_PX,
    SOURCE_LIGHT,
    Box,
    Cell,
    Image,
    Light,
    NotCutOutError,
    as_image,
    cell_on_black,
    is_on_black,
)
from bloodedge.imaging.network_input import ImagingSpec, View, first_view, network_input
from bloodedge.imaging.reading import colour_8bit, decode_image, iterate_images, read_image, read_images

__all__ = [
    "BACKGROUND_LEVEL",
    "CNMC_UM_PER_PX",
    "SOURCE_LIGHT",
    "Box",
    "Cell",
    "Image",
    "ImagingSpec",
    "Light",
    "NotCutOutError",
    "View",
    "as_image",
    "cell_on_black",
    "colour_8bit",
    "decode_image",
    "first_view",
    "is_on_black",
    "iterate_images",
    "network_input",
    "read_image",
    "read_images",
]
