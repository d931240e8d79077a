"""The training step with the real pipeline against the same step on one resident batch, and the chip's peak.

    python benchmarks/throughput.py [--model mobilenetv2] [--recipe honest] [--cells 1024] [--rounds 5]

Real: cells gathered, augmented and mixed in the step, draws made on the host. Resident: the first cells of the
accelerator's memory as they lie, the same draws handed over again. Cells are drawn by the simulated microscope (the
cost does not depend on what they show). Rounds of both take turns; the ratio of their medians is the figure. Writes
results/throughput.json.
"""

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bloodedge.engine.keras import load_keras
from bloodedge.files import write_json
from bloodedge.machine import versions
from bloodedge.simulation import golden_inputs
from bloodedge_train import hardware as host
from bloodedge_train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "throughput.json"
PEAK = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
"""bfloat16 operations a second without sparsity, from the makers' data sheets."""
STEP_TO_FORWARD = 3
"""A training step does about three times the arithmetic of inference: forward, and backward for inputs and weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilenetv2")
    parser.add_argument("--recipe", default="honest")
    parser.add_argument("--cells", type=int, default=1024, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    load_keras()
    import keras

    from bloodedge_train import zoo
    from bloodedge_train.zoo.macs import count_macs

    recipe = load_recipe(arguments.recipe)
    imaging = recipe.imaging
    few = golden_inputs(imaging, 64)
    images = few[np.arange(arguments.cells) % len(few)]
    keras.config.set_dtype_policy(host.precision(recipe.fit.precision))
    network = zoo.build(arguments.model, imaging.size_px, recipe.network, views=len(imaging.views))
    keras.config.set_dtype_policy("float32")
    steps = make_steps(network, images, recipe)
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(arguments.rounds + 1):
        for name in sorted(steps, reverse=bool(number % 2)):
            rate = images_per_s(steps[name], feed(recipe, arguments.cells, number, again=name == "resident"))
            if number:  # the first round compiles
                rates[name].append(rate)
                print(f"{name}: {rate:.1f} images/s", file=sys.stderr)
    hardware, speed = host.accelerator(), median(rates["real"])
    operations = 2 * STEP_TO_FORWARD * count_macs(network) * speed
    result = {
        "command": "python " + " ".join(["benchmarks/throughput.py", *sys.argv[1:]]),
        "model": arguments.model,
        "recipe": arguments.recipe,
        "precision": host.precision(recipe.fit.precision),
        "hardware": hardware,
        "versions": versions(host.RECORDED),
        "images_per_s": rates,
        "ratio": speed / median(rates["resident"]),
        "operations_per_s": operations,
        "share_of_peak": operations / PEAK[hardware] if hardware in PEAK else None,
    }
    write_json(RESULTS, result)
    print(f"real / resident: {result['ratio']:.3f}; {speed:.0f} images/s; share of peak: {result['share_of_peak']}")


def make_steps(network: Any, images: Any, recipe: Any) -> dict[str, Any]:
    """Both steps, of one network; the second leaves the gathering and the changes out."""
    from bloodedge_train.fitting.fit import OPTIMISERS
    from bloodedge_train.fitting.step import Step

    class Resident(Step):
        def call(self, draws: Any, training: bool = False) -> Any:  # noqa: ARG002
            return {"said": self.network(self.cells[: recipe.fit.batch], training=training)}

    steps = {"real": Step(network, images, recipe), "resident": Resident(network, images, recipe)}
    for step in steps.values():
        step.compile(optimizer=OPTIMISERS[recipe.fit.optimiser](recipe.fit))
    return steps


def feed(recipe: Any, cells: int, epoch: int, *, again: bool) -> Any:
    """An epoch's draws; with ``again`` one batch's over and over, made beforehand."""
    import keras

    from bloodedge_train.fitting.feed import Feed

    labels = np.arange(cells) % 2
    real = Feed(labels, [str(n % 16) for n in range(cells)], recipe, seed=0, epoch=epoch)
    if not again:
        return real

    class Again(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
        def __init__(self) -> None:
            super().__init__()
            self.batch = real[0]

        def __len__(self) -> int:
            return len(real)

        def __getitem__(self, number: int) -> Any:
            return self.batch

    return Again()


def images_per_s(step: Any, batches: Any) -> float:
    start = perf_counter()
    step.fit(batches, epochs=1, verbose=0, shuffle=False)
    return len(batches) * batches_size(batches) / (perf_counter() - start)


def batches_size(batches: Any) -> int:
    return len(batches[0][2])


if __name__ == "__main__":
    main()
