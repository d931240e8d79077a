"""Latency figures are those of one artifact alone, taken in turns, and held against the runtimes' own tools."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import bloodedge.bench.latency as module
from bloodedge import engine as engine_module
from bloodedge.bench import official_tools
from bloodedge.bench.latency import Bench, Row, Turn, in_turns, peak_rss_mb, run_turn
from bloodedge.bundle import Bundle, zip_folder
from bloodedge.cli import main
from bloodedge.engine import load_artifact
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.machine import cpu_flags, cpu_temperature_c, default_threads

RELEASED = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
"""LiteRT int8 and OpenVINO int8, 160 px."""


def need(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (pip install -e '.[device,openvino]')")


def ignore(_done: int, _total: int) -> None:
    pass


def row(**changes) -> Row:
    usual = {
        "bundle": "a.bundle",
        "engine": "litert",
        "precision": "int8",
        "runtime": "none 1",
        "threads": 1,
        "first_ms": 40.0,
        "p50_ms": 2.0,
        "p90_ms": 3.0,
        "p99_ms": 4.0,
        "rss_mb": 80.0,
        "size_bytes": 2**20,
        "cpu_flags": [],
        "temperature": None,
    }
    return Row(**{**usual, **changes})


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Who was measured when; nothing is really run. LiteRT takes 2 ms by us and 1 ms by its tool, OpenVINO 3 and 4."""
    entries: list[str] = []

    def ours(_bundle: Path, engine: str, _precision: str, threads: int) -> Turn:
        entries.append(f"our {engine} {threads}")
        times = [2.0, 2.0, 9.0] if engine == "litert" else [3.0]
        return Turn(runtime="none", first_ms=50.0 + len(entries), rss_mb=float(len(entries)), times_ms=times)

    def theirs(_bundle: Path, artifact, threads: int) -> float:
        entries.append(f"their {artifact.engine} {threads}")
        return 1.0 if artifact.engine == "litert" else 4.0

    monkeypatch.setattr(module, "run_turn", ours)
    monkeypatch.setattr(module, "official_p50_ms", theirs)
    monkeypatch.setattr(module, "require", lambda _engine: None)
    monkeypatch.setattr(module, "why_no_tool", lambda _engine: None)
    return entries


def test_turns_go_back_and_forth():
    assert list(in_turns("abc", 3)) == list("abccbaabc")


def test_artifacts_and_official_tools_take_turns(log):
    found = module.bench([RELEASED], [1], 2, ignore, against_official=True)
    there = ["our litert 1", "their litert 1", "our openvino 1", "their openvino 1"]
    assert log == [*there, *reversed(there)]
    litert, openvino = found.rows
    assert (litert.official.tool, litert.official.p50_ms, litert.official.ratio) == ("litert-benchmark", 1.0, 2.0)
    assert (openvino.official.tool, openvino.official.ratio) == ("benchmark_app", 0.75)


@pytest.mark.usefixtures("log")
def test_percentiles_are_over_the_calls_of_all_rounds_and_memory_is_the_largest():
    litert, _ = module.bench([RELEASED], [1], 2, ignore).rows
    assert (litert.p50_ms, litert.p99_ms) == (2.0, 9.0)
    assert litert.first_ms == median([51, 54])
    assert litert.rss_mb == 4
    with Bundle(RELEASED) as bundle:
        assert litert.size_bytes == bundle.manifest.artifact("litert", "int8").size_bytes
    assert litert.official is None


def test_each_number_of_threads_is_a_row_and_a_bundle_named_twice_is_one(log):
    found = module.bench([RELEASED, RELEASED], [1, 2, 1], 1, ignore)
    assert [(r.engine, r.threads) for r in found.rows] == [
        ("litert", 1),
        ("litert", 2),
        ("openvino", 1),
        ("openvino", 2),
    ]
    assert len(log) == 4


def test_int8_is_held_against_float32_of_the_same_bundle_engine_and_threads():
    fast, slow = row(p50_ms=2.0), row(precision="float32", p50_ms=5.0)
    others = [
        row(precision="float32", p50_ms=100.0, threads=2),
        row(precision="float32", p50_ms=100.0, engine="openvino"),
        row(precision="float32", p50_ms=100.0, bundle="b.bundle"),
    ]
    found = Bench(machine="m", rounds=1, rows=[*others, fast, slow])
    assert found.speed_up(fast) == 2.5
    assert found.speed_up(slow) is None
    assert Bench(machine="m", rounds=1, rows=[*others, fast]).speed_up(fast) is None


def test_an_artifact_without_its_runtime_is_left_out_with_the_extra_to_install(monkeypatch, log, capsys):
    monkeypatch.setattr(module, "require", engine_module.require)
    monkeypatch.setitem(engine_module.PACKAGES, "openvino", ("no_such_package",))
    need("ai_edge_litert")
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(RELEASED), "--rounds", "1"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "simulated.bundle/openvino/int8: The openvino engine is not installed here" in told
    assert "pip install -e '.[openvino]'" in told
    assert log == [f"our litert {default_threads()}"]


def test_no_runtime_at_all_is_a_sentence(monkeypatch):
    for name in ("litert", "openvino"):
        monkeypatch.setitem(engine_module.PACKAGES, name, ("no_such_package",))
    with pytest.raises(UsageError, match=r"'\.\[device\]'.*'\.\[openvino\]'"):
        module.bench([RELEASED], [1], 1, ignore)


def test_a_missing_tool_is_a_sentence_and_ours_still_runs(monkeypatch, log, tmp_path):
    monkeypatch.setattr(module, "why_no_tool", official_tools.why_no_tool)
    monkeypatch.setattr(official_tools.sysconfig, "get_path", lambda _name: str(tmp_path))
    found = module.bench([RELEASED], [1], 1, ignore, against_official=True)
    assert found.no_tool["litert"].startswith("litert-benchmark is not installed; install it with: cd ")
    assert "benchmark_app is not installed" in found.no_tool["openvino"]
    assert log == ["our litert 1", "our openvino 1"]
    assert official_tools.why_no_tool("onnx")


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_a_turn_runs_the_artifact_in_a_process_of_its_own(engine):
    need({"litert": "ai_edge_litert", "openvino": "openvino"}[engine])
    turn = run_turn(RELEASED, engine, "int8", 1)
    assert len(turn.times_ms) == module.CALLS
    assert 0 < min(turn.times_ms) <= median(turn.times_ms) < turn.first_ms  # loading is more than running
    assert turn.runtime.split()[-1][0].isdigit()
    assert turn.rss_mb is None or 20 < turn.rss_mb < 1000


def test_peak_memory_is_this_process_own():
    if peak_rss_mb() is None:
        pytest.skip("the system does not tell a process's peak memory")
    code = "from bloodedge.bench.latency import peak_rss_mb\nprint(peak_rss_mb())\n"
    code += "x = bytearray(b'1') * (200 * 2**20)\n"
    code += "del x\nprint(peak_rss_mb())\n"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    before, after = map(float, told)
    assert 195 < after - before < 260  # 200 MiB, though they were given back


def test_a_damaged_network_is_a_sentence(tmp_path):
    need("ai_edge_litert")
    with Bundle(RELEASED) as opened:
        files = {name: opened.read(name) for name in opened.manifest.files}
        manifest = opened.manifest
    folder = tmp_path / "little"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data[:-1] + b"x" if name.endswith(".tflite") else data)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    zip_folder(folder, tmp_path / "little.bundle")
    with pytest.raises(BloodedgeError, match=r"model_int8\.tflite was changed after conversion") as told:
        run_turn(tmp_path / "little.bundle", "litert", "int8", 1)
    assert "\n" not in str(told.value)


def test_a_process_that_dies_is_a_sentence(monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(BloodedgeError, match="the process of litert int8 ended with exit code 1"):
        run_turn(RELEASED, "litert", "int8", 1)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Warmup (avg):          2.20 ms (5 runs)\nInference (median):    1.15 ms\n", 1.15),
        ("[ INFO ] Latency:\n[ INFO ]    Median:        806.34 us\n[ INFO ]    Average:  719.15 us\n", 0.80634),
        ("[ INFO ]    Median:        12.50 ms\n[ INFO ]    Average:       13.00 ms\n", 12.5),
    ],
)
def test_the_median_is_read_from_what_the_tools_print(told, expected, monkeypatch):
    monkeypatch.setattr(
        official_tools.subprocess, "run", lambda *_args, **_kw: subprocess.CompletedProcess([], 0, told, "")
    )
    with Bundle(RELEASED) as opened:
        artifact = opened.manifest.artifact("openvino", "int8")
    assert official_tools.official_p50_ms(RELEASED, artifact, 1) == pytest.approx(expected)


def test_a_tool_that_fails_is_a_sentence(monkeypatch, tmp_path):
    program = tmp_path / "litert-benchmark"
    program.write_text("#!/bin/sh\necho No module named ml_dtypes >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(official_tools.sysconfig, "get_path", lambda _name: str(tmp_path))
    with Bundle(RELEASED) as opened:
        artifact = opened.manifest.artifact("litert", "int8")
    with pytest.raises(BloodedgeError, match=r"litert-benchmark failed on .*\(No module named ml_dtypes\); leave out"):
        official_tools.official_p50_ms(RELEASED, artifact, 1)


@pytest.mark.parametrize("engine", ["litert", "openvino"])
def test_the_official_tools_take_the_released_network(engine):
    need({"litert": "ai_edge_litert", "openvino": "openvino"}[engine])
    if reason := official_tools.why_no_tool(engine):
        pytest.skip(reason)
    with Bundle(RELEASED) as opened:
        artifact = opened.manifest.artifact(engine, "int8")
    assert 0.05 < official_tools.official_p50_ms(RELEASED, artifact, 1) < 1000


@pytest.mark.usefixtures("log")
def test_rows_for_programs_have_every_column(tmp_path):
    target = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(RELEASED), "--threads", "1", "--rounds", "1", "--json", str(target)])
    assert ended.value.code == 0
    wanted = {"bundle", "engine", "precision", "threads", "first_ms", "p50_ms", "p90_ms", "p99_ms", "rss_mb"}
    wanted |= {"size_bytes", "cpu_flags", "temperature"}
    rows = json.loads(target.read_text())["rows"]
    assert len(rows) == 2
    assert all(wanted <= set(row) for row in rows)


def test_the_table_says_how_many_times_as_fast_int8_is(monkeypatch, capsys):
    found = Bench(machine="A board", rounds=1, rows=[row(), row(precision="float32", p50_ms=5.0)])
    monkeypatch.setattr(module, "bench", lambda *_args, **_kw: found)
    with pytest.raises(SystemExit):
        main(["bench", "a.bundle"])
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if "litert int8" in line)
    assert "2.50x" in line
    assert "official" not in told


def test_quantised_probabilities_are_scale_times_number_less_zero_point():
    """As the TensorFlow Lite quantisation specification has it: real = (number - zero_point) * scale."""
    need("ai_edge_litert")
    with Bundle(RELEASED) as opened:
        engine = load_artifact(opened, opened.manifest.artifact("litert", "int8"), 1)
    images = np.random.default_rng(3).integers(0, 256, (4, *opened.manifest.imaging.input_shape), np.uint8)
    said = engine.predict(images)
    (result,) = engine._interpreter.get_output_details()
    scale, zero = result["quantization"]
    for image, probabilities in zip(images, said, strict=True):
        engine._interpreter.set_tensor(engine._input, image[np.newaxis])
        engine._interpreter.invoke()
        numbers = engine._interpreter.get_tensor(engine._output)[0].astype(np.float64)
        np.testing.assert_allclose(probabilities, (numbers - zero) * scale, rtol=1e-6)
    assert said.dtype == np.float32
    assert engine.predict(images[:0]).shape == (0, 2)


def test_a_signed_output_is_read_as_such():
    from bloodedge.engine.litert import _values

    values = _values(np.dtype(np.int8), 1 / 256, -128)
    numbers = np.array([[-128, 0], [127, -1]], np.int8)
    np.testing.assert_array_equal(values.take(numbers.view(np.uint8)), np.float32([[0, 0.5], [255 / 256, 127 / 256]]))


def test_processors_tell_what_int8_kernels_need(tmp_path):
    x86, arm = tmp_path / "x86", tmp_path / "arm"
    x86.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512_vnni amx_int8 avx_vnni\n")
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm aes asimddp i8mm\nCPU part\t: 0xd0b\n")
    assert cpu_flags(x86) == ["avx2", "avx512_vnni", "avx_vnni", "amx_int8"]
    assert cpu_flags(arm) == ["asimd", "asimddp", "i8mm"]
    assert cpu_flags(tmp_path / "none") == []


def test_the_processor_s_temperature_is_its_own(tmp_path):
    assert cpu_temperature_c(tmp_path) is None
    for place, name, file, value in [
        ("thermal/thermal_zone0", "type", "temp", ("gpu-thermal", "90000")),
        ("thermal/thermal_zone1", "type", "temp", ("cpu-thermal", "51234")),
        ("thermal/thermal_zone2", "type", "temp", ("cpu-thermal", "")),
        ("hwmon/hwmon0", "name", "temp1_input", ("nvme", "70000")),
    ]:
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / name).write_text(value[0] + "\n")
        (folder / file).write_text(value[1] + "\n")
    assert cpu_temperature_c(tmp_path) == pytest.approx(51.234)
    (tmp_path / "hwmon/hwmon1").mkdir()
    (tmp_path / "hwmon/hwmon1/name").write_text("k10temp\n")
    (tmp_path / "hwmon/hwmon1/temp1_input").write_text("62500\n")
    assert cpu_temperature_c(tmp_path) == 62.5


def test_a_network_that_gives_no_probabilities_is_not_timed(monkeypatch):
    class Faulty:
        runtime = "none"

        def predict(self, images):
            return np.full((len(images), 2), np.nan, np.float32)

    monkeypatch.setattr(module, "load_artifact", lambda *_: Faulty())
    with pytest.raises(BloodedgeError, match=r"litert int8.* gave no probabilities for 1 of 1 cells"):
        module.take_turn(RELEASED, "litert", "int8", 1)
