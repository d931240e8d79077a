"""Networks, signed by a trusted key, that answer the self-test well and fail in native code over later cells."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import Program, bloodedge, free_port, status_of, wait_until

from bloodedge.engine.golden import pack_golden, unpack_golden
from bloodedge.engine.litert import LiteRTEngine
from bloodedge_device.bundles.slot_record import read_record
from support.slot_bundles import Change, Files, Laboratory, proven

pytestmark = pytest.mark.slow

ONE_IN = 7
"""Of so many cells the network fails over one: that whose levels' sum is a multiple."""


def network(fault: str) -> bytes:
    """A LiteRT network from uint8 (1, 80, 80, 3) to probabilities; fault: "hangs" or "fails"."""
    tf: Any = pytest.importorskip("tensorflow")

    @tf.function(input_signature=[tf.TensorSpec((1, 80, 80, 3), tf.uint8)])  # type: ignore[untyped-decorator]
    def call(image: Any) -> Any:
        total = tf.reduce_sum(tf.cast(image, tf.int32))
        bad = tf.equal(tf.math.floormod(total, ONE_IN), 0)
        blast = tf.cast(total, tf.float32) / (80 * 80 * 3 * 255.0)
        if fault == "hangs":
            turns = tf.while_loop(lambda n: tf.logical_or(bad, n < 1), lambda n: ((n + 1) % 2,), [tf.constant(0)])
            blast += tf.cast(turns[0], tf.float32) * 1e-6
        else:
            sides = tf.where(bad, [2**30, 2**10], [1, 1])
            blast = tf.reduce_min(tf.fill(sides, blast))
        return tf.reshape(tf.stack([1 - blast, blast]), (1, 2))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()])
    return bytes(converter.convert())


def with_network(model: bytes) -> Change:
    """The bundle's LiteRT artifact is this network, whose golden cells are none of those that it fails over."""

    def change(manifest: dict[str, Any], files: Files) -> None:
        (artifact,) = manifest["artifacts"] = [one for one in manifest["artifacts"] if one["engine"] == "litert"]
        artifact.update(sha256=hashlib.sha256(model).hexdigest(), size_bytes=len(model))
        inputs = unpack_golden(files["golden.npz"])[0].copy()
        for image in inputs:
            image[0, 0, 0] = next(n for n in range(8) if (int(image.sum(dtype=int)) - int(image[0, 0, 0]) + n) % ONE_IN)
        for name in [name for name in files if name.endswith((".xml", ".bin"))]:
            del files[name]
        files[artifact["file"]] = model
        files["golden.npz"] = pack_golden(inputs, LiteRTEngine(model, 1).predict(inputs))
        for bounds in ("max_flips", "max_probability_difference"):
            manifest["golden"][bounds] = {"litert/int8": manifest["golden"][bounds]["litert/int8"]}

    return change


class Board:
    """A board with a good bundle, on which a second one is installed."""

    def __init__(self, folder: Path, fault: str) -> None:
        self.lab = Laboratory(folder, folder / "state")
        self.port, self.config, self.log = free_port(), folder / "device.toml", folder / "daemon.log"
        self.config.write_text(
            f'state = "{self.lab.state}"\nengine = "litert"\n[camera]\nrate = 10\n[web]\nport = {self.port}\n'
            "[watch]\nalive_s = 5\n"
        )
        proven(self.lab, 1)
        bundle = self.lab.bundle(2, with_network(network(fault)))
        with Program(bloodedge("device", "install", bundle, "--config", self.config), folder / "install.log") as done:
            wait_until(lambda: not done.running, 60, "the install does not end")
            assert "32 of 32 golden cells keep" in done.output, done.output

    def daemon(self) -> Program:
        return Program(bloodedge("device", "run", "--config", self.config), self.log)

    @property
    def readiness(self) -> int:
        """The status that /readyz answers with."""
        return status_of(self.port, "/readyz")


@pytest.fixture
def board(tmp_path: Path) -> Callable[[str], Board]:
    (tmp_path / "state").mkdir()
    return lambda fault: Board(tmp_path, fault)


def test_a_network_that_hangs_is_taken_back_and_the_daemon_can_be_ended(board: Callable[[str], Board]) -> None:
    with (hung := board("hangs")).daemon() as daemon:
        wait_until(lambda: read_record(hung.lab.state).active == "a", 60, "the network is not taken back")
        assert hung.readiness == 503
        daemon.process.terminate()
        wait_until(lambda: not daemon.running, 15, "the daemon does not end")
        assert "hangs in a frame" in daemon.output
    assert read_record(hung.lab.state).slots["b"].why == "no frame was classified although the camera works"
    with hung.daemon() as daemon:
        wait_until(lambda: hung.readiness == 200, 60, "the daemon is not ready with the network before")
        assert "lymph (serial 1)" in daemon.output


def test_over_a_cell_on_which_the_network_fails_the_daemon_goes_on(board: Callable[[str], Board]) -> None:
    with (failing := board("fails")).daemon() as daemon:
        wait_until(lambda: "gave no probability for" in daemon.output, 60, "no cell was failed over")
        assert failing.readiness == 200
        assert daemon.running
        assert "Traceback" not in daemon.output
