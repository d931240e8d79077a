"""``convert --qat``: int8 is made from fitted weights, the float model stays what it was."""

import numpy as np

from bloodedge.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge_convert.calibration import full_range
from bloodedge_convert.job import TUNING, Job, Kind, fine_tuning, run_converters

from .conftest import IMAGING


def test_fitted_weights_go_into_int8_alone(run, rendered_cells, tmp_path):
    images = inputs(read_dataset(rendered_cells).cells[::3], IMAGING)
    kinds = [Kind(engine="litert", precision=precision) for precision in ("float32", "int8")]
    said = {}
    for steps in (0, 120):
        folder = tmp_path / str(steps)
        folder.mkdir()
        np.save(folder / TUNING, images)
        job = Job(run=str(run), size_px=IMAGING.size_px, kinds=kinds, fine_tuning_steps=steps)
        reference = run_converters(folder, job, full_range(images[:40]), images, lambda *_: None)
        models = [(folder / f"model_{kind.precision}.tflite").read_bytes() for kind in kinds]
        said[steps] = [load_bytes("litert", model, None, 1).predict(images) for model in models]
        np.testing.assert_allclose(said[steps][0], reference, atol=1e-4)
        assert np.abs(said[steps][1] - reference).max() < 0.1
    assert fine_tuning(tmp_path / "0") is None
    brought = fine_tuning(tmp_path / "120")
    assert brought is not None
    assert brought.after < brought.before
    assert not np.array_equal(said[0][1], said[120][1])
