"""A network that was trained elsewhere: its spec, the same gate, and specs that are wrong."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("tensorflow", reason="TensorFlow is not installed (pip install -e '.[convert]')")

import keras

from bloodedge.bundle import Bundle
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.cli import cli
from bloodedge.data.dataset import inputs, read_dataset
from bloodedge.errors import UsageError
from bloodedge_convert.external.doubts import check_spec
from bloodedge_convert.external.keras_network import framed, load_network
from bloodedge_convert.external.run import External, write_run
from bloodedge_convert.external.spec import ModelSpec, read_spec

from .conftest import IMAGING, features

SPEC = f"""
labels = ["ALL=blast"]
output = "logits"
channels = "BGR"
scale = {1 / 127.5}
offset = -1.0
[imaging]
size_px = {IMAGING.size_px}
um_per_px = {IMAGING.um_per_px}
"""


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, rendered_cells: Path) -> Path:
    """A network of BGR pixels from -1 to 1 with one logit, in the old file format."""
    keras.utils.set_random_seed(2)
    image = keras.Input((IMAGING.size_px, IMAGING.size_px, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(features(IMAGING.size_px)(image))
    network = keras.Model(image, keras.layers.Dense(1)(pooled))
    cells = read_dataset(rendered_cells).unique  # all of them: how well it does on others is not what is tried here
    pictures = inputs(cells, IMAGING)[..., ::-1].astype(np.float32) / 127.5 - 1
    network.compile(keras.optimizers.Adam(5e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    network.fit(pictures, np.array([c.label for c in cells], np.float32), batch_size=16, epochs=8, verbose=0)
    path = tmp_path_factory.mktemp("elsewhere") / "theirs.h5"
    network.save(path)
    return path


def spec(**changes: object) -> ModelSpec:
    return ModelSpec.model_validate(tomllib.loads(SPEC) | changes)


@pytest.mark.slow
def test_it_passes_the_same_gate_and_its_bundle_is_evaluated(
    elsewhere: Path, rendered_cells: Path, tmp_path: Path
) -> None:
    (tmp_path / "spec.toml").write_text(SPEC)
    out = tmp_path / "theirs.bundle"
    args = ["convert", str(elsewhere), str(rendered_cells), "--spec", str(tmp_path / "spec.toml"), "-o", str(out)]
    result = CliRunner().invoke(cli, [*args, "--engine", "litert"])
    assert result.exit_code == 0, result.output + str(result.exception)
    with Bundle(out) as bundle:
        assert bundle.manifest.provenance.recipe["spec"]["channels"] == "BGR"
        assert bundle.manifest.imaging == IMAGING
        assert bundle.manifest.artifacts[0].evaluation.auc > 0.7
    result = CliRunner().invoke(
        cli, ["evaluate", str(out), str(rendered_cells), "--precision", "float32", "--json", str(tmp_path / "f.json")]
    )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ["healthy=normal"]}, "labels seem to be swapped"),
        ({"scale": 1e-6, "offset": 0.0}, "says the same of every cell .*With scale = .* the AUC would be "),
        ({"imaging": {"size_px": 96}}, r"takes \(64, 64, 3\), but the spec says \(96, 96, 3\)"),
        ({"labels": ["normal", "blast"]}, r"gives \(1,\), but the spec has 2 labels"),
        ({"layout": "NCHW"}, r"but the spec says \(3, 64, 64\)"),
    ],
)
def test_a_wrong_spec_is_found_out(
    changes: dict[str, object], words: str, elsewhere: Path, rendered_cells: Path, tmp_path: Path
) -> None:
    external = External(elsewhere, spec(**changes), rendered_cells, DataLayout(), allow_worthless=False)
    with pytest.raises(UsageError, match=words):
        write_run(external, tmp_path / "run", quiet)


def test_less_than_the_makers_claim_is_found_out(elsewhere: Path, rendered_cells: Path) -> None:
    cells = read_dataset(rendered_cells).unique[::6]
    timid = np.array([0.3 + 0.1 * cell.label for cell in cells])  # ranks well, and calls no blast
    check_spec(load_network(elsewhere), spec(), cells, timid)
    with pytest.raises(UsageError, match=r"accuracy is 0\.\d\d instead of the claimed 0\.95"):
        check_spec(load_network(elsewhere), spec(claimed_accuracy=0.95), cells, timid)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('labels = ["sick"]\noutput = "sigmoid"\n[imaging]\n', "says neither normal nor blast"),
        ('labels = ["a=blast", "b=blast"]\noutput = "softmax"\n[imaging]\n', "both normal and blast are needed"),
        ('labels = ["blast"]\noutput = "softmax"\n[imaging]\n', "softmax has an output for each class"),
        ('labels = ["blast"]\noutput = "sigmoid"\nscales = 1\n[imaging]\n', "scales: unknown key"),
    ],
)
def test_a_spec_that_says_no_sense_is_one_sentence(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_spec(tmp_path / "model.keras", path)


def test_a_spec_is_suggested_from_the_file_and_can_be_read(elsewhere: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["convert", str(elsewhere), "--suggest-spec"])
    assert result.exit_code == 0, result.output
    path = tmp_path / "spec.toml"
    path.write_text(result.output)
    suggested = read_spec(elsewhere, path)
    assert (suggested.output, suggested.labels, suggested.layout) == ("logits", ("blast",), "NHWC")
    assert suggested.imaging.size_px == IMAGING.size_px
    result = CliRunner().invoke(cli, ["convert", str(elsewhere), "-o", str(tmp_path / "x.bundle")])
    assert "--suggest-spec" in str(result.exception)


def test_what_each_output_means_is_added_up() -> None:
    image = keras.Input((32, 32, 3))
    network = keras.Model(image, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(image)))
    labels = ("benign=normal", "early=blast", "pro=blast")
    frame = framed(
        network, ModelSpec.model_validate({"labels": labels, "output": "softmax", "imaging": {"size_px": 32}})
    )
    picture = np.random.default_rng(0).integers(0, 3, (2, 32, 32, 3), dtype=np.uint8)
    own, ours = network.predict(picture.astype(np.float32), verbose=0), frame.predict(picture, verbose=0)
    np.testing.assert_allclose(ours, np.stack([own[:, 0], own[:, 1] + own[:, 2]], axis=1), atol=1e-6)
