"""OpenVINO files: float32, weights stored as float16, int8 by NNCF."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine.openvino import import_openvino, shared_core
from bloodedge_convert.job import Method, Report, counted

Images = NDArray[np.uint8]

WITH_WEIGHTS = {"Convolution", "GroupConvolution", "MatMul"}
MOST_FLOAT_LAYERS = 8
RANKING_CELLS = 100
"""Cells for the method "mixed": each layer's return to float32 is tried on all of them."""


def read(saved_model: Path) -> Any:
    """The network as an ``openvino.Model`` in float32."""
    return import_openvino().convert_model(saved_model)


def read_alike(saved_model: Path, model: Any) -> Any:
    """As ``read``, for the same network with other weights: each operator is called as in ``model``."""
    other = read(saved_model)
    for op, like in zip(other.get_ordered_ops(), model.get_ordered_ops(), strict=True):
        assert op.get_type_name() == like.get_type_name()
        op.set_friendly_name(like.get_friendly_name())
    return other


def save(model: Any, target: Path, *, float16: bool = False) -> None:
    """``target`` (.xml) and its .bin; with ``float16`` the weights are stored in half the bytes."""
    model.set_rt_info("", ["conversion_parameters", "input_model"])  # else the SavedModel's path on this machine
    import_openvino().save_model(model, target, compress_to_fp16=float16)


def quantise(model: Any, images: Images, method: Method, report: Report) -> Any:
    """The int8 form of ``model`` (openvino.Model), activations' ranges taken over ``images`` in the method's way.

    Biases are not corrected: NNCF's own correction leaves depthwise convolutions out (see openvino.bias).
    """
    import_openvino()
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # None is NNCF's own choice, means of extremes. Alone, it ruined networks whose cells fill half of a camera's range.
    known = RangeEstimatorParametersSet
    ranges = {"mean": None, "percentile": known.MEAN_QUANTILE, "mse": known.HISTOGRAM}
    advanced = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True, activations_range_estimator_params=ranges.get(method, known.MINMAX)
    )
    # Mixed: activations after a linear bottleneck are signed and lopsided, which symmetric ranges waste.
    return nncf.quantize(
        model,
        nncf.Dataset([image[np.newaxis] for image in counted(images, "Calibrating: openvino int8", report)]),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        ignored_scope=nncf.IgnoredScope(names=_logits(model)),
        advanced_parameters=advanced,
    )


def quantise_mixed(model: Any, images: Images, trial: Images, max_distance: float, report: Report) -> Any:
    """The int8 form with the most harmful layers left in float32, by NNCF's accuracy control.

    Layers go back to float32, those first whose return helps most, until the mean distance of the blast probability
    from the float model's over ``trial`` is at most ``max_distance``; if that is not to be had, the nearest.
    """
    import_openvino()
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedAccuracyRestorerParameters

    trial = trial[:RANKING_CELLS]
    reference = _blast(shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}), trial)
    what, rounds = "Looking for layers to leave in float32: openvino int8", itertools.count(1)

    def likeness(compiled: Any, data: Any) -> tuple[float, list[float]]:
        """One minus the distance, of the mean and of each of the cells ``data``."""
        numbers = [int(number) for number in data]
        distances = np.abs(_blast(compiled, trial[numbers]) - reference[numbers])
        report(what, 0, next(rounds))
        return 1 - float(distances.mean()), [1 - float(one) for one in distances]

    mixed = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset([image[np.newaxis] for image in counted(images, "Calibrating: openvino int8", report)]),
        nncf.Dataset(range(len(trial)), lambda number: trial[number : number + 1]),
        likeness,
        max_drop=max_distance,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=False),
        advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
            max_num_iterations=MOST_FLOAT_LAYERS, ranking_subset_size=RANKING_CELLS
        ),
    )
    report(what, 1, 1)
    return mixed


def _logits(model: Any) -> list[str]:
    """Names of the operators from the last layers with weights to the output; they stay in float32."""
    waiting, found = [result.input_value(0).get_node() for result in model.get_results()], set()
    while waiting:
        op = waiting.pop()
        name = op.get_friendly_name()
        if name not in found and op.get_type_name() not in {"Constant", "Parameter"}:
            found.add(name)
            if op.get_type_name() not in WITH_WEIGHTS:
                waiting += [op.input_value(side).get_node() for side in range(op.get_input_size())]
    return sorted(found)


def _blast(compiled: Any, images: Images) -> NDArray[np.float64]:
    """The blast probability (N,) that a compiled network gives."""
    request = compiled.create_infer_request()
    return np.array([next(iter(request.infer([image[np.newaxis]]).values()))[0, 1] for image in images], np.float64)
