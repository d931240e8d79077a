"""Engines run what they are given, say what is wrong with it, and are timed fairly."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest

from bloodedge import engine as engine_module
from bloodedge.bench.latency import interleaved, measure_latency, percentiles
from bloodedge.bundle import Bundle
from bloodedge.engine import load_artifact, load_bytes, require
from bloodedge.engine.litert import load_interpreter
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.machine import hardware_name

STDERR = Path("/proc/self/fd/2")
"""Where stderr goes, on Linux."""

MODELS = Path(__file__).resolve().parents[2] / "models"
PACKAGE = {"litert": "ai_edge_litert", "openvino": "openvino", "onnx": "onnxruntime"}


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def onnx_of_channel_means() -> tuple[bytes, None]:
    """A network by hand: softmax over the means of the red and green channels, divided by 255."""
    need("onnx")
    from onnx import TensorProto, helper

    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    starts = helper.make_tensor("starts", TensorProto.INT64, [1], [0])
    ends = helper.make_tensor("ends", TensorProto.INT64, [1], [2])
    last = helper.make_tensor("last", TensorProto.INT64, [1], [1])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [255.0])
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["means"], keepdims=0),
        helper.make_node("Slice", ["means", "starts", "ends", "last"], ["two"]),
        helper.make_node("Div", ["two", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 2])],
        [axes, starts, ends, last, scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString(), None


def openvino_of_channel_means(folder: Path) -> tuple[bytes, bytes]:
    """The same network in OpenVINO's own format."""
    need("openvino")
    from bloodedge.engine.openvino import import_openvino

    openvino = import_openvino()
    source = folder / "means.onnx"
    source.write_bytes(onnx_of_channel_means()[0])
    openvino.save_model(openvino.convert_model(source), folder / "means.xml", compress_to_fp16=False)
    return (folder / "means.xml").read_bytes(), (folder / "means.bin").read_bytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (7, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_an_engine_gives_each_image_its_own_probabilities(name, images, tmp_path):
    need(PACKAGE[name])
    model, weights = onnx_of_channel_means() if name == "onnx" else openvino_of_channel_means(tmp_path)
    engine = load_bytes(name, model, weights, threads=1)
    means = images[..., :2].mean(axis=(1, 2)) / 255
    expected = np.exp(means) / np.exp(means).sum(axis=1, keepdims=True)
    probabilities = engine.predict(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(engine.predict(images[3:4]), probabilities[3:4])
    np.testing.assert_array_equal(engine.predict(images[::-1]), probabilities[::-1])
    assert engine.predict(images[:0]).shape == (0, 2)
    assert engine.name == name
    assert engine.runtime.split()[-1][0].isdigit()


class FailsOnce:
    """A runtime whose second run is an error, as of a layer that cannot get its memory; else the real one."""

    def __init__(self, real: object, run: str) -> None:
        self._real, self._run, self._runs = real, run, 0

    def __getattr__(self, name: str) -> object:
        if name != self._run:
            return getattr(self._real, name)
        self._runs += 1
        if self._runs == 2:
            raise RuntimeError("Node number 9 (FILL) failed to invoke.")
        return getattr(self._real, name)


@pytest.mark.parametrize(
    ("name", "runtime", "run"), [("litert", "_interpreter", "invoke"), ("openvino", "_request", "infer")]
)
def test_an_image_over_which_the_runtime_fails_has_no_probabilities_and_the_others_keep_theirs(
    name, runtime, run, images, tmp_path
):
    need(PACKAGE[name])
    if name == "litert":
        with Bundle(MODELS / "simulated.bundle") as bundle:
            artifact = next(one for one in bundle.manifest.artifacts if one.engine == name)
            engine, side = load_artifact(bundle, artifact, threads=1), bundle.manifest.input.height
        images = np.random.default_rng(5).integers(0, 256, (4, side, side, 3), np.uint8)
    else:
        engine = load_bytes(name, *openvino_of_channel_means(tmp_path), threads=1)
    sound = engine.predict(images)
    setattr(engine, runtime, FailsOnce(getattr(engine, runtime), run))
    given = engine.predict(images)
    assert np.isnan(given[1]).all()
    np.testing.assert_array_equal(np.delete(given, 1, axis=0), np.delete(sound, 1, axis=0))


@pytest.mark.parametrize("name", list(PACKAGE))
@pytest.mark.parametrize("data", [b"", b"not a model at all", b"\0" * 4096])
def test_damaged_bytes_are_a_sentence(name, data):
    need(PACKAGE[name])
    with pytest.raises(BloodedgeError, match="cannot read this model; convert the run again"):
        load_bytes(name, data, b"", threads=1)


def test_loading_litert_says_nothing_in_the_terminal(capfd):
    need("ai_edge_litert")
    with pytest.raises(BloodedgeError):
        load_bytes("litert", b"not a model at all", None, threads=1)
    assert capfd.readouterr() == ("", "")


def test_a_missing_runtime_is_answered_with_its_extra(monkeypatch):
    monkeypatch.setitem(engine_module.PACKAGES, "openvino", ("no_such_package",))
    with pytest.raises(UsageError, match=r"openvino engine is not installed here; install it with: .*'\.\[openvino\]'"):
        require("openvino")


def test_an_engine_that_no_bundle_holds_is_refused():
    need("keras")
    with pytest.raises(UsageError, match="choose litert, openvino or onnx"):
        load_bytes("keras", b"", None, threads=1)


def test_a_run_without_a_model_is_a_sentence_before_keras_is_loaded(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom bloodedge.engine.keras import KerasEngine\n"
        f"try:\n    KerasEngine(Path({str(tmp_path)!r}))\nexcept Exception as error:\n    print(error)\n"
        "assert 'keras' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no model.keras" in done.stdout


def test_openvino_reports_to_nobody():
    need("openvino")
    code = (
        "from bloodedge.engine.openvino import import_openvino\nimport sys\nimport_openvino()\n"
        "assert 'openvino_telemetry.main' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class Takes:
    """An engine that takes a known time."""

    runtime = "none"

    def __init__(self, name: str, ms: float, log: list[str]) -> None:
        self.name, self.ms, self.log = name, ms, log

    def predict(self, images: np.ndarray) -> np.ndarray:
        assert images.shape == (1, 8, 8, 3)
        self.log.append(self.name)
        sleep(self.ms / 1000)
        return np.zeros((1, 2), np.float32)


def test_latency_is_that_of_one_image(images):
    log: list[str] = []
    latency = measure_latency(Takes("slow", 2, log), images[0], repeats=20)
    assert 2 <= latency.p50 <= latency.p95 <= latency.p99
    assert len(log) > 20  # a warm-up came first


def test_engines_are_timed_in_turns(images):
    log: list[str] = []
    times = interleaved({"a": Takes("a", 0, log), "b": Takes("b", 1, log)}, images[0], rounds=10)
    assert {name: len(row) for name, row in times.items()} == {"a": 10, "b": 10}
    timed = log[-20:]
    assert all({timed[i], timed[i + 1]} == {"a", "b"} for i in range(0, 20, 2))
    assert min(times["b"]) >= 1


def test_percentiles_are_those_of_numpy():
    latency = percentiles([float(x) for x in range(1, 102)])
    assert (latency.p50, latency.p95, latency.p99) == (51, 96, 100)


def test_the_machine_has_a_name():
    assert hardware_name()


def test_a_device_that_openvino_does_not_find_is_answered_with_those_it_does(tmp_path: Path) -> None:
    model, weights = openvino_of_channel_means(tmp_path)
    there = {one.split(".")[0] for one in openvino_devices()}
    missing = next(iter({"CPU", "GPU", "NPU"} - there), None)
    if missing is None:
        pytest.skip("this machine has every device that OpenVINO knows")
    with pytest.raises(UsageError, match=f"finds no {missing} here; choose one of: .*CPU"):
        load_bytes("openvino", model, weights, 1, missing)


def openvino_devices() -> list[str]:
    from bloodedge.engine.openvino import import_openvino

    return list(import_openvino().Core().available_devices)


SIMULATED = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
NETWORKS_THAT_COME_AND_GO = """
import ctypes, gc, os, signal, sys
from pathlib import Path
from bloodedge.bundle import Bundle
from bloodedge.engine import load_artifact
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append("told"))
with Bundle(Path(sys.argv[1])) as bundle:
    networks = [load_artifact(bundle, bundle.manifest.artifact("openvino", "int8"), 1) for _ in range(2)]
while networks:
    networks.pop(0)
    gc.collect()
ctypes.CDLL(None).malloc_trim(0)
os.kill(os.getpid(), signal.SIGTERM)
print(*told)
"""


def test_a_signal_finds_its_stack_after_networks_took_over_from_each_other() -> None:
    need("openvino")
    bundle = SIMULATED
    command = [sys.executable, "-c", NETWORKS_THAT_COME_AND_GO, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr


@pytest.mark.skipif(not STDERR.exists(), reason="there is no /proc")
def test_stderr_is_back_after_two_loads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Thread] = []

    class SlowInterpreter:
        def __init__(self, model_content: bytes, num_threads: int) -> None:
            pass

        def allocate_tensors(self) -> None:
            if not loads:  # the second begins before the first has ended, and ends after it
                loads.append(Thread(target=load_interpreter, args=(b"", 1)))
                loads[0].start()
                sleep(0.2)
            else:
                sleep(0.4)

    need("ai_edge_litert")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=SlowInterpreter))
    before, kept = STDERR.readlink(), os.dup(2)
    try:
        load_interpreter(b"", 1)
        loads[0].join()
        after = STDERR.readlink()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert after == before


def test_loading_a_network_prints_nothing() -> None:
    pytest.importorskip("ai_edge_litert")
    code = (
        "from pathlib import Path\nfrom bloodedge.bundle import Bundle\nfrom bloodedge.engine import load_artifact\n"
        f"bundle = Bundle(Path({str(SIMULATED)!r}))\n"
        "load_artifact(bundle, bundle.manifest.artifact('litert', 'int8'), 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
