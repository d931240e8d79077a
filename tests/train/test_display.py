"""What training shows of itself."""

import pytest

from bloodedge_train.progress import epoch_line, watcher
from bloodedge_train.recipe import load_recipe

ROW = {"loss": 12.3456, "val_loss": 10.4321, "val_accuracy": 0.9876, "val_auc": 0.98765, "images_per_s": 12345.6}


def test_an_epoch_is_a_line_of_80_columns() -> None:
    line = epoch_line(998, ROW)
    assert len(line) <= 80
    for figure in ("999", "12.3456", "10.4321", "0.988", "0.9877"):
        assert figure in line


def test_without_a_terminal_the_epochs_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with watcher().fitting(load_recipe("demo"), 0) as (batch_done, epoch_done):
        for batch in range(1, 4):
            batch_done(0, batch, 3)
        epoch_done(0, ROW)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["Fitting", epoch_line(0, ROW)]


def test_words_of_the_world_are_said_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    watcher().say("left out all/[bold].png: it is empty")
    assert capsys.readouterr().err == "left out all/[bold].png: it is empty\n"
