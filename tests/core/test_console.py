"""Results on stdout, everything else on stderr."""

import json
from pathlib import Path

import pytest

from bloodedge.console import console, emit_json, progress
from bloodedge.errors import BloodedgeError


def test_json_goes_alone_to_stdout_or_whole_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emit_json({"µ": [1, None]}, "-")
    assert json.loads(capsys.readouterr().out) == {"µ": [1, None]}
    emit_json({"a": 1}, str(tmp_path / "new" / "a.json"))
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"a": 1}
    assert capsys.readouterr().out == ""


def test_a_folder_as_json_target_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError, match="choose another name"):
        emit_json({}, str(tmp_path))


def test_progress_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Reading") as update:
        for done in range(1, 4):
            update(done, 3)
    assert capsys.readouterr().out == ""


def test_tables_stay_wide_enough_where_the_output_is_no_terminal() -> None:
    assert console().width == 110
