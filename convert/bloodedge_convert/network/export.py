"""From a Keras network to the SavedModels that all converters start from."""

import json
from collections.abc import Container, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.manifest import EngineName
from bloodedge_convert.job import REWRITES

Images = NDArray[np.uint8]

ROUNDED = "rounded_model_"


def export_saved_model(model: Any, folder: Path) -> None:
    """Write the SavedModel that converters start from.

    Its batch is static: a dynamic batch leaves SHAPE and RESHAPE chains that break int8 graphs into many partitions.
    Weights are constants of the graph: every converter makes them so, and a SavedModel with hundreds of variables, as
    ``model.export`` writes it, takes TensorFlow two to three times as long to write and to read.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.uint8, name="image")
    serve = tf.function(lambda image: model(image, training=False), input_signature=[spec])
    module = tf.Module()
    module.serve = convert_variables_to_constants_v2(serve.get_concrete_function())
    tf.saved_model.save(
        module,
        str(folder),
        signatures=module.serve,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def export_graphs(
    model: Any, calibration: Images, engines: Iterable[EngineName], folder: Path, int8: Container[EngineName] = ()
) -> None:
    """Write a SavedModel of the network in each engine's fastest form, and a list of the rewrites.

    calibration: images on which the outputs of the forms are compared. int8: engines that also get one whose weights
    lie on int8's steps.
    """
    from bloodedge_convert.network.rewrite import rewrite
    from bloodedge_convert.network.rounding import Rounding

    done, plain = [], cache(lambda: Rounding(model, calibration))
    for engine in engines:
        rewritten, rows = rewrite(model, engine, calibration)
        done += rows
        if rewritten is not model:
            export_saved_model(rewritten, folder / f"saved_model_{engine}")
        if engine in int8:
            rounding = plain() if rewritten is model else Rounding(rewritten, calibration)
            rounding.apply(engine)
            export_saved_model(rewritten, folder / f"{ROUNDED}{engine}")
            rounding.undo()
    export_saved_model(model, folder / "saved_model")
    (folder / REWRITES).write_text(json.dumps([row.model_dump() for row in done]), encoding="utf-8")


def rounded_model_for(engine: EngineName, folder: Path) -> Path:
    """The SavedModel that an engine's int8 is made from."""
    return folder / f"{ROUNDED}{engine}"


def saved_model_for(engine: str, folder: Path) -> Path:
    """The SavedModel that an engine's converter starts from."""
    own = folder / f"saved_model_{engine}"
    return own if own.is_dir() else folder / "saved_model"
