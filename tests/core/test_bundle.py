"""A bundle is trusted byte for byte, or refused with a sentence."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bloodedge.bundle import Bundle, is_bundle, zip_folder
from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.manifest import Agreement, Artifact, Baseline, Golden, InputSpec, Manifest, Provenance
from bloodedge.bundle.run_record import SplitRecord, read_run
from bloodedge.decision.thresholds import Thresholds
from bloodedge.engine import load_artifact
from bloodedge.engine.golden import ROUNDING, check_golden, compare, pack_golden
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import ImagingSpec

EVALUATION = Evaluation(
    cells=2,
    subjects=2,
    accuracy=1.0,
    weighted_f1=1.0,
    macro_f1=1.0,
    balanced_accuracy=1.0,
    sensitivity=1.0,
    specificity=1.0,
    auc=1.0,
    ece=0.0,
    ci95={},
    per_subject={},
    confusion=[[1, 0], [0, 1]],
)
AGREEMENT = Agreement(cells=2, flips=0, flip_rate=0, max_probability_difference=0, drop={}, drop_ci95={})
LATENCY = LatencyMs(p50=1, p95=1, p99=1)
GOLDEN_BLAST = np.float32([0.1, 0.45, 0.495, 0.9])
"""The float model's blast probabilities of four golden cells; the third is within ROUNDING of the threshold."""


def softmax(blast: np.ndarray) -> np.ndarray:
    return np.stack([1 - blast, blast], axis=1).astype(np.float32)


def manifest(files: dict[str, bytes]) -> Manifest:
    return Manifest(
        serial=1,
        name="little",
        labels=["normal", "blast"],
        input=InputSpec(height=32, width=32),
        imaging=ImagingSpec(size_px=32),
        temperature=1.0,
        thresholds=Thresholds(),
        artifacts=[
            Artifact(
                engine="litert",
                precision="int8",
                file="artifacts/model_int8.tflite",
                sha256="0",
                size_bytes=1,
                evaluation=EVALUATION,
                agreement=AGREEMENT,
            )
        ],
        baseline=Baseline(hardware="a test", backend="none", latency_ms=LATENCY, evaluation=EVALUATION),
        golden=Golden(inputs=4, max_flips={"litert/int8": 0}, max_probability_difference={"litert/int8": 0.03}),
        provenance=Provenance(
            run="little",
            model="none",
            parameters=1,
            recipe={},
            weights="none",
            data_fingerprint="0",
            rendered=True,
            split=SplitRecord(kind="group", seed=0, parts={}),
            calibration_cells=1,
            calibration_digest="0",
            converted="2026-01-01T00:00:00+00:00",
            hardware="a test",
            versions={},
        ),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unpacked bundle whose model is not one; nothing here runs it."""
    files = {
        "artifacts/model_int8.tflite": b"a model's bytes",
        "golden.npz": pack_golden(np.zeros((4, 32, 32, 3), np.uint8), softmax(GOLDEN_BLAST)),
        "MODEL_CARD.md": b"# little\n",
    }
    place = tmp_path / "little"
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    (place / "manifest.json").write_text(manifest(files).model_dump_json())
    return place


@pytest.fixture
def zipped(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "little.bundle"
    zip_folder(folder, path)
    return path


def change_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_and_its_zip_are_the_same_bundle(folder, zipped):
    for path in (folder, zipped):
        assert is_bundle(path)
        with Bundle(path) as bundle:
            bundle.verify()
            assert bundle.manifest.name == "little"
            assert bundle.read("artifacts/model_int8.tflite") == b"a model's bytes"


def test_equal_bundles_are_equal_bytes(folder, tmp_path):
    (folder / "MODEL_CARD.md").touch()
    zip_folder(folder, tmp_path / "one")
    zip_folder(folder, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("name", ["artifacts/model_int8.tflite", "golden.npz", "MODEL_CARD.md"])
def test_one_changed_byte_in_any_file_is_refused(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with Bundle(folder) as bundle, pytest.raises(BloodedgeError, match="was changed after conversion"):
        bundle.verify()


def test_one_changed_byte_anywhere_in_the_zip_is_refused(zipped, tmp_path):
    data = zipped.read_bytes()
    with zipfile.ZipFile(zipped) as archive:
        model = next(entry for entry in archive.infolist() if entry.filename.startswith("artifacts/"))
    start = model.header_offset + 30 + len(model.filename)  # a local header has 30 bytes and the name
    refused = 0
    for offset in range(start, start + model.compress_size):
        broken = bytearray(data)
        broken[offset] ^= 4
        path = tmp_path / "broken.bundle"
        path.write_bytes(broken)
        with Bundle(path) as bundle:
            try:
                bundle.verify()
            except BloodedgeError as error:
                assert "cannot be read" in str(error) or "was changed" in str(error)  # noqa: PT017
                refused += 1
            else:  # the last byte of a compressed stream ends in bits that mean nothing
                assert bundle.read(model.filename) == b"a model's bytes"
    assert refused >= model.compress_size - 1


def test_a_truncated_zip_is_refused(zipped, tmp_path):
    whole = zipped.read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.bundle").write_bytes(whole[:keep])
        # Half of it may end after golden.npz, itself a zip, which is then what is found.
        with pytest.raises(BloodedgeError, match=r"copy or convert it again|is not a bundle"):
            Bundle(tmp_path / "cut.bundle")


def test_a_newer_schema_is_refused_with_the_cure(folder):
    change_manifest(folder, schema_version=2)
    with pytest.raises(BloodedgeError, match="schema version 2, which this bloodedge does not know; upgrade"):
        Bundle(folder)


def test_views_that_the_networks_do_not_take_are_refused(folder):
    change_manifest(folder, imaging={"size_px": 32, "views": ["physical", "canonical"]})
    with pytest.raises(BloodedgeError) as caught:
        Bundle(folder)
    told = str(caught.value)
    assert "the networks take 32x32 px, but imaging makes 2 views of 32x32 px; convert the run again" in told
    change_manifest(folder, input={"height": 32, "width": 32, "views": 2})
    with Bundle(folder) as bundle:
        assert bundle.manifest.input.shape == (2, 32, 32, 3)


def test_a_network_of_one_view_in_a_bundle_of_two_is_refused(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (pip install -e '.[device]')")
    with zipfile.ZipFile(Path(__file__).parents[2] / "models" / "simulated.bundle") as released:
        released.extractall(tmp_path)
    imaging = json.loads((tmp_path / "manifest.json").read_text())["imaging"]
    change_manifest(tmp_path, input={"height": 80, "width": 80, "views": 2})
    change_manifest(tmp_path, imaging={**imaging, "views": ["physical", "canonical"]})
    with Bundle(tmp_path) as bundle, pytest.raises(BloodedgeError) as caught:
        load_artifact(bundle, bundle.manifest.artifact("litert", "int8"), threads=1)
    assert "takes 80x80 px, but the manifest says 2 views of 80x80 px; convert the run again." in str(caught.value)


def test_an_unknown_key_in_the_manifest_is_refused(folder):
    change_manifest(folder, surprise=1)
    with pytest.raises(BloodedgeError, match="surprise"):
        Bundle(folder)


def test_a_manifest_that_is_no_json_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BloodedgeError, match="damaged"):
        Bundle(folder)


def test_a_missing_manifest_is_a_sentence(folder, tmp_path):
    (folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"not a bundle \(no manifest.json\)"):
        Bundle(folder)
    with zipfile.ZipFile(tmp_path / "empty.bundle", "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(UsageError, match=r"not a bundle \(no manifest.json\)"):
        Bundle(tmp_path / "empty.bundle")


def test_a_missing_bundle_and_a_missing_file_are_sentences(folder, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        Bundle(tmp_path / "nowhere.bundle")
    (folder / "golden.npz").unlink()
    with Bundle(folder) as bundle, pytest.raises(BloodedgeError, match=r"golden\.npz is missing"):
        bundle.verify()


def test_a_file_that_the_manifest_does_not_vouch_for_is_not_read(folder):
    (folder / "extra.txt").write_text("hello")
    with Bundle(folder) as bundle, pytest.raises(BloodedgeError, match="does not list"):
        bundle.read("extra.txt")


def test_a_path_out_of_the_bundle_is_not_read(folder):
    change_manifest(folder, files={"../outside.txt": "0"})
    (folder.parent / "outside.txt").write_text("secret")
    with pytest.raises(BloodedgeError, match="whose name points outside the bundle"):
        Bundle(folder)


def test_an_artifact_that_is_not_there_is_answered_with_those_that_are(folder):
    with Bundle(folder) as bundle, pytest.raises(UsageError, match="has no openvino int8 model; it has: litert int8"):
        bundle.manifest.artifact("openvino", "int8")


class Says:
    """An engine that gives fixed blast probabilities."""

    name, runtime = "litert", "none"

    def __init__(self, blast: np.ndarray) -> None:
        self.blast = blast

    def predict(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        return softmax(self.blast[: len(images)])


@pytest.mark.parametrize(
    ("moved", "flips", "passed"),
    [
        ([0, 0, 0, 0], 0, True),
        ([0.03, 0, 0, -0.03], 0, True),
        ([0, 0, 0.01, 0], 1, True),  # within rounding of the threshold
        ([0, 0.04 + ROUNDING, 0, 0], 1, False),
        ([0, 0, 0, -0.3], 0, False),
        ([0, 0, 0, -0.8], 1, False),
    ],
)
def test_the_self_test_allows_rounding_and_nothing_else(folder, moved, flips, passed):
    with Bundle(folder) as bundle:
        result = check_golden(bundle, bundle.manifest.artifacts[0], Says(GOLDEN_BLAST + np.float32(moved)))
    assert (result.inputs, result.flips, result.passed) == (4, flips, passed)


def test_a_self_test_without_bounds_is_a_sentence(folder):
    with Bundle(folder) as bundle:
        other = bundle.manifest.artifacts[0].model_copy(update={"engine": "onnx"})
        with pytest.raises(BloodedgeError, match="no self-test bounds for onnx/int8"):
            check_golden(bundle, other, Says(GOLDEN_BLAST))


def test_a_golden_file_changed_after_conversion_is_refused(folder):
    (folder / "golden.npz").write_bytes(pack_golden(np.zeros((4, 32, 32, 3), np.uint8), softmax(1 - GOLDEN_BLAST)))
    with Bundle(folder) as bundle, pytest.raises(BloodedgeError, match="was changed"):
        check_golden(bundle, bundle.manifest.artifacts[0], Says(GOLDEN_BLAST))


def test_the_self_test_names_a_network_that_gives_no_probabilities() -> None:
    class Faulty:
        name, runtime = "litert", "none"

        def predict(self, images):
            outputs = np.full((len(images), 2), 0.5, np.float32)
            outputs[1] = np.nan
            return outputs

    inputs, reference = np.zeros((3, 8, 8, 3), np.uint8), np.full((3, 2), 0.5, np.float32)
    with pytest.raises(BloodedgeError, match="the litert network gave no probabilities for 1 of 3 cells"):
        compare(Faulty(), inputs, reference, 1.0, 0.5)


FOREIGN = {
    "own.tflite": (b"\x1c\0\0\0TFL3" + bytes(100), "a LiteRT (TensorFlow Lite) model"),
    "own.bin": (b"\x1c\0\0\0TFL3" + bytes(100), "a LiteRT (TensorFlow Lite) model"),
    "own.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "own.onnx": (b"\x08\x07\x12\x07pytorch" + bytes(100), "an ONNX model"),
    "own.xml": (b'<?xml version="1.0"?>\n<net name="model" version="11">', "an OpenVINO model"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_programs_models_are_called_what_they_are(name, tmp_path):
    content, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        Bundle(tmp_path / name)
    told = str(caught.value)
    assert f"{name} is {kind}" in told
    assert "damaged" not in told
    assert "bloodedge convert RUN --int8" in told


@pytest.mark.parametrize("name", ["own.keras", "own.pt"])
def test_zips_of_other_programs_are_called_what_they_are(name, tmp_path):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UsageError, match=r"is a (Keras|PyTorch) model, not a bundle"):
        Bundle(tmp_path / name)


def test_a_file_of_any_other_kind_is_no_bundle(tmp_path):
    (tmp_path / "notes.txt").write_text("some notes")
    with pytest.raises(UsageError, match=r"notes\.txt is not a bundle: a bundle also holds"):
        Bundle(tmp_path / "notes.txt")


def test_a_saved_model_is_no_run(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(UsageError, match="is a TensorFlow SavedModel, not a finished run folder"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ((), {"serial": 2**63}),
        ((), {"labels": ["normal", "normal"]}),
        ((), {"labels": ["normal"]}),
        ((), {"labels": ["blast", "normal"]}),
        ((), {"temperature": float("inf")}),
        ((), {"name": "little\x1b[2J\nWarning: all is well"}),
        (("thresholds",), {"uncertain_high": float("nan")}),
        (("golden",), {"max_probability_difference": {"litert/int8": float("inf")}}),
        (("golden",), {"max_flips": {"litert/int8": 5}}),
        (("golden",), {"inputs": 0}),
        (("golden",), {"inputs": 3}),
        (("golden",), {"file": "MODEL_CARD.md"}),
        (("artifacts", 0), {"file": "artifacts/other.tflite"}),
    ],
)
def test_a_manifest_that_does_not_fit_itself_is_refused_whoever_signed_it(
    folder: Path, part: tuple[str | int, ...], changes: dict[str, object]
) -> None:
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    inner = whole
    for key in part:
        inner = inner[key]
    inner.update(changes)
    path.write_text(json.dumps(whole))
    with pytest.raises(BloodedgeError), Bundle(folder) as bundle:
        bundle.verify()


def test_a_size_that_is_not_the_network_s_is_refused_before_the_first_cell(folder: Path) -> None:
    change_manifest(folder, input={"height": 64, "width": 64}, imaging={"size_px": 64})
    with (
        Bundle(folder) as bundle,
        pytest.raises(BloodedgeError, match="4 inputs of 32x32 px, the manifest says 4 of 64"),
    ):
        bundle.verify()


def test_an_artifact_twice_is_refused(folder: Path) -> None:
    whole = json.loads((folder / "manifest.json").read_text())
    change_manifest(folder, artifacts=[*whole["artifacts"], *whole["artifacts"]])
    with pytest.raises(BloodedgeError, match="twice"):
        Bundle(folder)
