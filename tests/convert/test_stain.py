"""A network that unmixes dyes first converts like any other: int8 from the first byte on."""

import numpy as np
import pytest

from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge.imaging import ImagingSpec
from bloodedge_convert.calibration_set import full_range
from bloodedge_convert.job import Job, Kind, file_names, run_converters
from bloodedge_train.zoo import unmixing

from .conftest import features

SIZE = 64
KINDS = [Kind(engine=engine, precision=p) for engine in ("litert", "openvino") for p in ("float32", "int8")]


@pytest.fixture(scope="module")
def images(rendered_cells):
    """Densities of rendered cells, (120, 64, 64, 3)."""
    cells = read_dataset(rendered_cells).cells[::2]
    return inputs(cells, ImagingSpec(size_px=SIZE, um_per_px=0.33, colour="density"))


@pytest.fixture(scope="module")
def converted(images, tmp_path_factory):
    """(folder of the artifacts, the float model's outputs); its head tells apart what its features tell apart most."""
    keras = pytest.importorskip("keras", reason="Keras is not installed (pip install -e '.[train]')")
    keras.utils.set_random_seed(1)
    image = keras.Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(unmixing.layer("learned")(image))
    x = keras.layers.GlobalAveragePooling2D(name="pool")(features(SIZE)(x))
    model = keras.Model(image, keras.layers.Dense(2, activation="softmax", name="probabilities")(x))
    pooled = keras.Model(image, x).predict(images, verbose=0)
    centred = pooled - pooled.mean(axis=0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    direction /= (centred @ direction).std()
    offset = pooled.mean(axis=0) @ direction
    model.layers[-1].set_weights([np.stack([-direction, direction], axis=1), np.array([offset, -offset])])
    folder = tmp_path_factory.mktemp("stained")
    model.save(folder / "model.keras")
    job = Job(run=str(folder), size_px=SIZE, kinds=KINDS, engines=["litert", "openvino", "onnx"])
    return folder, run_converters(folder, job, full_range(images[::2]), images, lambda *_: None)


def outputs(kind: Kind, folder, images):
    files = [(folder / name).read_bytes() for name in file_names(kind)]
    return load_bytes(kind.engine, files[0], files[1] if len(files) > 1 else None, 2).predict(images)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_outputs_follow_the_float_network(kind, converted, images):
    folder, reference = converted
    found = outputs(kind, folder, images)
    assert reference[:, 1].std() > 0.2  # it tells cells apart
    if kind.precision == "float32":
        assert np.abs(found - reference).max() < 1e-4
    else:  # without the layer OpenVINO keeps 0.992 and LiteRT 0.9998 of these features, which lie 0.05 apart
        assert np.corrcoef(found[:, 1], reference[:, 1])[0, 1] > 0.95
        assert abs(found[:, 1].mean() - reference[:, 1].mean()) < 0.03


def test_int8_unmixes_bytes_in_one_convolution(converted):
    """Nothing stands between the image and the dyes, and nothing goes back to float behind them."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(model_content=(converted[0] / "model_int8.tflite").read_bytes())
    names = [op["op_name"] for op in network._get_ops_details()]
    assert names[:3] == ["CAST", "QUANTIZE", "CONV_2D"]
    assert not {"DEQUANTIZE", "LOG", "MUL"} & set(names)
