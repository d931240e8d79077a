"""A first layer that unmixes optical densities into dyes, fixed or learned.

After Duggal, Gupta, Gupta & Mallick, "SD-Layer: Stain deconvolutional layer for CNNs in medical microscopic imaging",
MICCAI 2017. Theirs takes the logarithm, inverts a learned basis and applies tanh, all in the network. Here the
logarithm is a table before the network (``ImagingSpec.colour = "density"``), since int8 has no logarithm; what is
learned is the inverse itself, the same nine numbers with no inversion in the graph; it is linear, so that a pretrained
network gets the range it knows; and it starts from Romanowsky's dyes instead of one cell's singular vectors.
"""

from typing import Any, Literal

import numpy as np

from bloodedge.imaging.optical_density import unmixing


def layer(kind: Literal["romanowsky", "learned"]) -> Any:
    """A Keras layer from density codes (N, H, W, 3) red, green, blue, 0..255, uint8 or float, to dyes.

    Its output is float32 (N, H, W, 3) under any dtype policy: methylene blue, eosin and residual, in the unit of the
    codes, so that 0 stays 0 and cells lie within about 0..285. "romanowsky" stays as it is, "learned" starts there.
    """
    import keras

    dyes = keras.layers.Conv2D(3, 1, use_bias=False, trainable=kind == "learned", dtype="float32", name="dyes")
    dyes.build((None, None, None, 3))
    dyes.set_weights([unmixing()[np.newaxis, np.newaxis]])
    codes = keras.layers.Rescaling(1.0, dtype="float32", name="codes")  # a convolution takes no uint8
    return keras.Sequential([codes, dyes], name="stain")
