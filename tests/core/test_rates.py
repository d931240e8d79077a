"""A bundle's rates are measured anew on people whom it has not seen, and nothing else of it changes."""

from pathlib import Path

import pytest

from bloodedge.bundle import Bundle
from bloodedge.cli import main
from bloodedge.engine import load_artifact
from bloodedge.engine.golden import check_golden
from bloodedge.errors import UsageError
from bloodedge.evaluation.rates import HEADING, measure_rates, rates_lines, with_section
from bloodedge.simulation import write_dataset

SIMULATED = Path(__file__).resolve().parents[2] / "models" / "simulated.bundle"
SUBJECTS, CELLS = 8, 6


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of four patients and four healthy people whose names no bundle knows."""
    folder = tmp_path_factory.mktemp("strangers") / "cells"
    write_dataset(folder, subjects=SUBJECTS, cells_per_subject=CELLS, seed=77)
    for path in sorted(folder.rglob("UID_*.png")):
        _, subject, rest = path.name.split("_", 2)
        path.rename(path.with_name(f"UID_{subject.rstrip('0123456789')}9{subject.lstrip('H')}_{rest}"))
    return folder


@pytest.fixture(scope="module")
def measured(strangers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "own.bundle"
    measure_rates(SIMULATED, strangers, out, 1, leave_out={"H94"})
    return out


def test_every_person_but_the_one_left_out_is_counted_with_each_cell_once(measured: Path) -> None:
    with Bundle(measured) as bundle:
        artifacts = bundle.manifest.artifacts
    assert {f"{one.engine} {one.precision}" for one in artifacts} == {"litert int8", "openvino int8"}
    for artifact in artifacts:
        assert artifact.rates is not None
        assert artifact.rates.blast.keys() == {"91", "92", "93", "94"}
        assert artifact.rates.normal.keys() == {"H91", "H92", "H93"}
        people = [*artifact.rates.blast.values(), *artifact.rates.normal.values()]
        assert {one.called + one.refused for one in people} == {CELLS}


def test_the_networks_stay_and_the_card_tells_the_people(measured: Path) -> None:
    with Bundle(SIMULATED) as before, Bundle(measured) as after:
        after.verify()
        for artifact in before.manifest.artifacts:
            assert after.read(artifact.file) == before.read(artifact.file)
        assert after.manifest.serial > before.manifest.serial
        card = after.read("MODEL_CARD.md").decode()
    assert card.count(HEADING) == 1
    assert "| H93 | normal | 6 |" in card


def test_a_card_keeps_what_stands_after_an_earlier_table(measured: Path) -> None:
    with Bundle(measured) as bundle:
        artifact = bundle.manifest.artifacts[0]
    card = with_section(f"# A model\n\n{HEADING}\n\nold\n\n## Licence\n\nfree\n", rates_lines(artifact))
    assert "old" not in card
    assert card.index("## Licence") < card.index(HEADING)


def test_thresholds_are_chosen_anew_for_a_sensitivity(
    strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sensitive.bundle"
    with pytest.raises(SystemExit) as ended:
        main(["rates", str(SIMULATED), str(strangers), "-o", str(out), "--sensitivity", "0.99", "--threads", "1"])
    assert ended.value.code == 0
    assert "chosen for a sensitivity of 0.99" in capsys.readouterr().out
    with Bundle(SIMULATED) as before, Bundle(out) as after:
        after.verify()
        manifest = after.manifest
        assert manifest.thresholds.blast < before.manifest.thresholds.blast
        assert manifest.operating_point is not None
        assert (manifest.operating_point.goal, manifest.operating_point.target) == ("sensitivity", 0.99)
        assert after.read("MODEL_CARD.md").decode().count("## Thresholds") == 1
        for artifact in manifest.artifacts:
            engine = load_artifact(after, artifact, 1)
            assert check_golden(after, artifact, engine).passed


def test_two_goals_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rates", "x", "y", "-o", str(tmp_path / "z"), "--sensitivity", "0.9", "--specificity", "0.9"])
    assert ended.value.code == 2
    assert "not both" in capsys.readouterr().err


def test_too_few_people_are_a_sentence(strangers: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 or more with blasts"):
        measure_rates(SIMULATED, strangers, tmp_path / "x.bundle", 1, leave_out={"H91", "H92", "H93"})
    assert not (tmp_path / "x.bundle").exists()


def test_the_command_refuses_to_replace_a_bundle_and_a_subject_that_is_not_there(
    strangers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.bundle"
    there.write_bytes(b"mine")
    with pytest.raises(SystemExit) as ended:
        main(["rates", str(SIMULATED), str(strangers), "-o", str(there)])
    assert (ended.value.code, there.read_bytes()) == (2, b"mine")
    assert "replace it with --force" in capsys.readouterr().err
    with pytest.raises(UsageError, match="has no subject H77"):
        measure_rates(SIMULATED, strangers, tmp_path / "x.bundle", 1, leave_out={"H77"})
