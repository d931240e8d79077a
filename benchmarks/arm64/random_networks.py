"""An int8 LiteRT network of every architecture, from random weights, by the project's own converter.

    python benchmarks/arm64/random_networks.py [--models edgenet vgg19 ...] [--size 96] [--both-views]
        [--out .cache/arm64/networks]
    python benchmarks/arm64/run.py models/cells.bundle .cache/arm64/networks/*.tflite

Says nothing about accuracy: it gives run.py every kind of layer that the zoo has. Files that are there are kept.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from board import REPO
from numpy.typing import NDArray

from bloodedge.engine.keras import load_keras
from bloodedge.errors import BloodedgeError
from bloodedge.files import write_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import golden_inputs
from bloodedge_convert.job import Job, Kind, file_names, run_converters
from bloodedge_train.recipe import NetworkSpec
from bloodedge_train.zoo import ZOO, build

KINDS = [Kind(engine="litert", precision="float32"), Kind(engine="litert", precision="int8")]
"""Biases of int8 are corrected against float32."""
SPREAD = 2.0
"""Deviation of the log odds between cells: probabilities from about 0.02 to 0.98."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=ZOO, default=list(ZOO))
    parser.add_argument("--size", type=int, default=96, help="side of the input in pixels")
    parser.add_argument("--both-views", action="store_true", help="networks that see each cell at two scales")
    parser.add_argument("--calibration-cells", type=int, default=8)
    parser.add_argument("--out", type=Path, default=REPO / ".cache" / "arm64" / "networks")
    options = parser.parse_args()
    load_keras()
    failed = 0
    spec = ImagingSpec(size_px=options.size, views=("physical", "canonical") if options.both_views else ("physical",))
    images = golden_inputs(spec, options.calibration_cells)
    for name in options.models:
        target = options.out / f"{name}{'_both_views' * options.both_views}.tflite"
        if target.is_file():
            continue
        began = perf_counter()
        try:
            write_bytes(target, converted(name, images))
        except BloodedgeError as error:
            failed = error.exit_code
            print(f"{name}: {error}", file=sys.stderr)
            continue
        print(f"{name}: {target.stat().st_size / 2**20:.1f} MiB, {perf_counter() - began:.0f} s", flush=True)
    return failed


def converted(name: str, images: NDArray[np.uint8]) -> bytes:
    """The int8 ``.tflite`` of a random network of the zoo, calibrated on ``images``, its network inputs uint8."""
    import keras

    keras.utils.set_random_seed(0)
    network = build(name, images.shape[-2], NetworkSpec(), views=1 if images.ndim == 4 else images.shape[1])
    spread_classes(network, images)
    with tempfile.TemporaryDirectory(prefix="bloodedge-arm64-") as temporary:
        folder, run = Path(temporary) / "job", Path(temporary) / "run"
        folder.mkdir()
        run.mkdir()
        network.save(run / "model.keras")
        job = Job(run=str(run), kinds=KINDS, engines=["litert"], int8_engines=["litert"])
        run_converters(folder, job, images, images, lambda *_: None)
        return (folder / file_names(KINDS[1])[0]).read_bytes()


def spread_classes(network: Any, images: NDArray[np.uint8]) -> None:
    """Scale the last layer so that the images' log odds have mean 0 and deviation SPREAD; random ones are all alike."""
    import keras

    last = network.get_layer("probabilities")
    features = keras.ops.convert_to_numpy(keras.Model(network.input, last.input)(images, training=False))
    kernel, bias = last.get_weights()
    odds = features @ (kernel[:, 1] - kernel[:, 0])
    scale = SPREAD / max(float(odds.std()), 1e-6)
    last.set_weights([kernel * scale, np.array([0, -odds.mean() * scale], bias.dtype)])


if __name__ == "__main__":
    sys.exit(main())
