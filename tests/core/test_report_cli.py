"""``bloodedge report``: the page inside a bundle."""

import shutil
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from bloodedge.cli import main, report

MODEL = Path(__file__).resolve().parents[2] / "models" / "cells.bundle"
PAGE = zipfile.ZipFile(MODEL).read("report.html")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_the_report_is_written_to_a_file(tmp_path: Path) -> None:
    assert run(MODEL, "--out", tmp_path / "cells.html") == 0
    assert (tmp_path / "cells.html").read_bytes() == PAGE


def test_the_report_is_opened_in_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []

    def browser(url: str) -> bool:
        opened.append(Path(unquote(urlsplit(url).path)))
        return True

    monkeypatch.setattr(report.webbrowser, "open", browser)
    assert run(MODEL) == 0
    assert [path.read_bytes() for path in opened] == [PAGE]
    assert opened[0].name == "cells.html"
    shutil.rmtree(opened[0].parent)


def test_where_there_is_no_browser_the_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report.webbrowser, "open", lambda _: False)
    monkeypatch.setattr(report.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    assert run(MODEL) == 1
    assert f"the report is {tmp_path / 'cells.html'}" in capsys.readouterr().err


def test_a_report_that_was_changed_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "changed"
    with zipfile.ZipFile(MODEL) as archive:
        archive.extractall(folder)
    (folder / "report.html").write_bytes(PAGE.replace(b"int8", b"int9"))
    assert run(folder, "--out", tmp_path / "out.html") == 1
    assert "its SHA-256 is not the manifest's" in capsys.readouterr().err
    assert not (tmp_path / "out.html").exists()


def test_a_boards_results_have_another_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "device.sqlite").touch()
    assert run(tmp_path) == 2
    assert "bloodedge device report --state" in capsys.readouterr().err
