"""Networks that are changed before int8 is made: the float model stays what it was."""

import numpy as np
import pytest

from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.engine import load_bytes
from bloodedge_convert.cells.calibration_set import full_range
from bloodedge_convert.job import MIXED, TRIAL, TUNING, Job, Kind, fine_tuning, run_again, run_converters
from bloodedge_convert.litert.mixed import Mixed

from .conftest import IMAGING

KINDS = [Kind(engine="litert", precision=precision) for precision in ("float32", "int8")]
METHODS = ("percentile", "mse", "entropy", "equalised", "mixed", "qat")


@pytest.fixture(scope="module")
def converted(run, rendered_cells, tmp_path_factory):
    """A folder with the first job done, its images, what the float model and the converted networks say."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")
    images = inputs(read_dataset(rendered_cells).cells[::3], IMAGING)
    folder = tmp_path_factory.mktemp("job")
    for name in (TUNING, TRIAL):
        np.save(folder / name, images)
    job = Job(run=str(run), kinds=KINDS, engines=["litert"], int8_engines=["litert"], fine_tuning_steps=120)
    reference = run_converters(folder, job, full_range(images[:40]), images, lambda *_: None)
    return folder, job, images, reference, [(folder / f"model_{kind.precision}.tflite").read_bytes() for kind in KINDS]


def say(model, images):
    return load_bytes("litert", model, None, 1).predict(images)


def again(folder, job):
    """One method in a process of its own, as conversion runs them all; the others here, where TensorFlow is loaded."""
    from bloodedge_convert.worker import Worker

    if job.method == METHODS[0]:
        run_again(folder, job, lambda *_: None)
    else:
        (folder / "job.json").write_text(job.model_dump_json())
        Worker(folder, lambda *_: None).do()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_another_method_makes_another_int8_and_no_other_float(method, converted):
    folder, job, images, reference, (plain, int8) = converted
    again(folder, job.model_copy(update={"kinds": KINDS[1:], "method": method}))
    made = (folder / "model_int8.tflite").read_bytes()
    np.testing.assert_allclose(say(plain, images), reference, atol=1e-4)
    assert (folder / "model_float32.tflite").read_bytes() == plain
    assert np.abs(say(made, images) - reference).max() < 0.1
    if method in {"percentile", "mse", "entropy"}:
        assert made != int8
    if method == "qat":
        brought = fine_tuning(folder)
        assert brought is not None
        assert (made != int8) == (brought.after < brought.before)  # no gain: the network is as it was
    if method == "mixed":
        chosen = Mixed.model_validate_json((folder / MIXED).read_bytes())
        assert (made != int8) == bool(chosen.layers)
        assert chosen.distance_after <= chosen.distance_before
