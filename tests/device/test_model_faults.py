"""A network that gives no probabilities: its cells are uncertain, the health says so, and its bundle gives way."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.engine import Engine
from bloodedge_device.bundles import loading
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.probation import MOST_FAULTS, Figures, figures_of, why_failed
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.daemon.loop import Daemon, run_device
from bloodedge_device.daemon.model_faults import MOST_IN_A_ROW, ModelFaults
from bloodedge_device.daemon.state import DaemonState
from bloodedge_device.health import Level
from bloodedge_device.pipeline import Pipeline
from bloodedge_device.report.reading import read_report, warnings_of
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.settings.sections import UpdateSettings
from bloodedge_device.store import DATABASE
from bloodedge_device.web.phrases import verdict
from support import fakes
from support.slot_bundles import HURRIED, Laboratory, proven, tried

FAULTS = {"nan": [np.nan, np.nan], "infinite": [np.inf, -np.inf], "out of range": [-1, 2], "sum": [0.4, 0.4]}


class Faulty:
    """Every ``every``-th cell's output is no probabilities; the others are a sound network's, if there is one."""

    name = runtime = "faulty"

    def __init__(self, output: list[float], every: int = 1, sound: Engine | None = None) -> None:
        self._output, self._every, self._sound, self._cells = output, every, sound, count(1)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = np.tile(np.float32([0.9, 0.1]), (len(images), 1))
        if self._sound is not None:
            outputs = self._sound.predict(images)
        for output in outputs:
            if next(self._cells) % self._every == 0:
                output[:] = self._output
        return outputs


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


@pytest.fixture
def daemons(monkeypatch: pytest.MonkeyPatch) -> list[DaemonState]:
    """What was in force in those that ran."""
    ran: list[DaemonState] = []
    run = Daemon.run

    def kept(self: Daemon, *values: Any) -> None:
        ran.append(self.state)
        run(self, *values)

    monkeypatch.setattr(Daemon, "run", kept)
    return ran


def break_network(monkeypatch: pytest.MonkeyPatch, serial: int, every: int = 1) -> None:
    """Have the network of this serial give NaN for every ``every``-th cell, once it has passed its self-test."""
    load_file = loading.load_file

    def broken(settings: DeviceSettings, path: Path) -> Loaded:
        loaded = load_file(settings, path)
        engine = Faulty(FAULTS["nan"], every, loaded.engine)
        return replace(loaded, engine=engine) if loaded.manifest.serial == serial else loaded

    monkeypatch.setattr(loading, "load_file", broken)


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


OF_BUNDLE = (
    "SELECT DISTINCT cells.label, cells.reason, blast_probability IS NULL FROM cells"
    " JOIN frames ON frames.id = cells.frame JOIN slides ON slides.id = frames.slide JOIN runs ON runs.id = slides.run"
    " WHERE bundle_serial = {} AND cells.reason IS NOT 'cut_by_border'"
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cell_without_a_probability_is_uncertain_and_called_a_model_fault(fault: str) -> None:
    pipeline = Pipeline(Faulty(FAULTS[fault]), fakes.make_manifest(), fakes.check, fakes.find_cells)
    whole, cut = pipeline.process(fakes.frame()).cells
    assert (whole.label, whole.reason, whole.blast_probability) == ("uncertain", Reason.MODEL_FAULT, None)
    assert cut.reason is Reason.CUT_BY_BORDER


def test_a_model_fault_is_called_so_on_a_slide_of_another_kind_too() -> None:

    pipeline = Pipeline(
        Faulty(FAULTS["nan"]), fakes.outside_of_all(fakes.make_manifest()), fakes.check, fakes.find_cells
    )
    assert {pipeline.process(fakes.frame(n)).cells[0].reason for n in range(20)} == {Reason.MODEL_FAULT}


def test_faults_in_a_row_are_counted_over_frames_and_cells_that_were_not_asked_about() -> None:
    sound, faulty = (
        Pipeline(engine, fakes.make_manifest(), fakes.check, fakes.find_cells)
        for engine in (fakes.FakeEngine(), Faulty(FAULTS["nan"]))
    )
    faults = ModelFaults()
    faults.add(sound.process(fakes.frame()))
    assert (faults.condition()[0], faults.at_fault) == (Level.OK, False)
    for number in range(MOST_IN_A_ROW):
        assert not faults.at_fault
        faults.add(faulty.process(fakes.frame(number)))
        faults.add(faulty.process(fakes.frame(level=15)))  # no cell in it
    assert faults.at_fault
    level, sentence = faults.condition()
    assert level is Level.FAILED
    assert f"no probability for {MOST_IN_A_ROW} of {MOST_IN_A_ROW + 1} cells" in sentence
    faults.add(sound.process(fakes.frame()))
    assert (faults.at_fault, faults.condition()[0]) == (False, Level.WARNING)


@pytest.mark.slow
@pytest.mark.parametrize("state_of", ["on probation", "good"])
def test_a_bundle_whose_network_gives_no_probabilities_is_rolled_back(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, state_of: str, daemons: list[DaemonState]
) -> None:
    proven(lab, 1)
    if state_of == "good":
        proven(lab, 2)
    else:
        install(lab.settings(), lab.bundle(2), trial=tried)
    break_network(monkeypatch, 2)
    run_device(lab.settings(camera={"rate": 20}), frames=60, timings=HURRIED)
    record = read_record(lab.state)
    assert (record.active, record.slots["b"].state) == ("a", "failed")
    assert "its network gave no probability for" in record.slots["b"].why
    assert rows(lab.state, OF_BUNDLE.format(2)) == [("uncertain", "model_fault", 1)]
    assert "normal" in {row[0] for row in rows(lab.state, OF_BUNDLE.format(1))}
    assert [row[0] for row in rows(lab.state, "SELECT bundle_serial FROM runs ORDER BY id")] == [2, 1]
    (last,) = rows(lab.state, "SELECT action FROM audit WHERE actor = 'slots' ORDER BY id DESC LIMIT 1")
    assert last == ("bundle went back",)
    (daemon,) = daemons
    assert daemon.faults.faults == 0  # those of the network in force
    assert daemon.health.conditions()["model"].level is Level.OK


@pytest.mark.slow
def test_without_another_good_bundle_it_goes_on_and_the_health_says_so(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, daemons: list[DaemonState], caplog: pytest.LogCaptureFixture
) -> None:
    proven(lab, 2)
    break_network(monkeypatch, 2)
    run_device(lab.settings(camera={"rate": 20}), frames=60, timings=HURRIED)
    record = read_record(lab.state)
    assert (record.active, record.slots["a"].state) == ("a", "good")
    kept = [event for event in record.history if event.action == "kept"]
    assert len(kept) == 1
    assert "no probability" in kept[0].why
    (daemon,) = daemons
    assert daemon.health.conditions()["model"].level is Level.FAILED
    assert "The network gave no probability" in caplog.text
    report = read_report(lab.state)
    assert report.statistics.blast_share is None
    assert any("gave no probability" in warning for warning in report.warnings)
    assert sum(report.probabilities) == 0


@pytest.mark.slow
def test_faults_now_and_then_end_a_probation_too(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, daemons: list[DaemonState]
) -> None:
    proven(lab, 1)
    install(lab.settings(), lab.bundle(2), trial=tried)
    break_network(monkeypatch, 2, every=4)
    run_device(lab.settings(camera={"rate": 20}), frames=100, timings=HURRIED)
    assert daemons[0].faults.in_a_row < MOST_IN_A_ROW
    record = read_record(lab.state)
    assert (record.active, record.slots["b"].state) == ("a", "failed")
    assert "its network gave no probability for" in record.slots["b"].why


def test_a_single_fault_is_no_verdict_on_a_bundle(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = install(lab.settings(), lab.bundle(2), trial=tried).what
    break_network(monkeypatch, 2, every=10)
    run_device(lab.settings(), frames=20)
    now, _ = figures_of(lab.state, installed)
    assert 0 < now.faults < MOST_FAULTS
    assert now.cells > now.faults
    assert read_record(lab.state).active == "a"
    told = partial(why_failed, UpdateSettings(), before=Figures())
    assert told(Figures(cells=10, faults=MOST_FAULTS - 1)) == ""
    assert told(Figures(cells=10, faults=MOST_FAULTS)) == (
        f"its network gave no probability for {MOST_FAULTS} of {10 + MOST_FAULTS} cells"
    )


def test_a_network_that_gives_no_probabilities_does_not_pass_its_self_test(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bloodedge.errors import BloodedgeError

    monkeypatch.setattr(loading, "load_artifact", lambda *_: Faulty(FAULTS["nan"]))
    with pytest.raises(BloodedgeError, match="self-test's cells the faulty network gave no probabilities for 32 of 32"):
        loading.load_file(lab.settings(), lab.bundle(3))


def test_the_page_says_so_of_a_frame_and_the_report_of_a_slide() -> None:
    from bloodedge_device.slide.tally import Tally, Totals
    from bloodedge_device.web.status import CellStatus, FrameStatus

    pipeline = Pipeline(Faulty(FAULTS["nan"]), fakes.make_manifest(), fakes.check, fakes.find_cells)
    result, tally, totals = pipeline.process(fakes.frame()), Tally(), Totals()
    tally.add(result)
    totals.add(result)
    assert tally.statistics().uncertain["model_fault"] == totals.uncertain["model_fault"] == 1
    # what Prometheus and the fleet are told
    assert totals.cells == {"normal": 0, "blast": 0, "uncertain": 2, "other": 0}
    (said,) = [one for one in warnings_of(fakes.make_manifest(rendered=True), tally.statistics()) if "fault" in one]
    assert "no probability for 1 of 2 cells" in said
    cells = [CellStatus.model_validate(cell) for cell in result.cells]
    frame = FrameStatus.model_construct(reason=None, detail=None, cells=cells)
    assert verdict(frame) == (
        False,
        "The network gave no probability for 1 of 2 white cells: install another bundle.",
    )


def test_a_bundle_s_caveats_stand_above_the_figures_of_its_slides() -> None:
    manifest = fakes.make_manifest().model_copy(update={"caveats": ["The gate was set wider than usual."]})
    assert warnings_of(manifest, None)[0] == "The gate was set wider than usual."
