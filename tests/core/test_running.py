"""How the tests themselves are run: ./run test, and the list of slow ones."""

from pathlib import Path

import pytest

from support import ROOT, rooms, slow


def test_every_slow_test_is_listed() -> None:
    listed = (ROOT / "tests" / "README.md").read_text().split(slow.BEGIN)[1].split(slow.END)[0].splitlines()[2:]
    rows = [tuple(part.strip() for part in line.strip("|").split("|")) for line in listed]
    cure = "run: ./run test --all && .venv/bin/python tests/support/slow.py --write"
    assert {(room, test) for room, test, _ in rows} == {(test.room, test.shown) for test in slow.slow_tests()}, cure


def test_every_folder_with_tests_is_a_room_but_for_those_on_hardware() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders == {*rooms.ROOMS, "hardware"}


TESTS = {
    "good": """
import pytest
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_two(n): pass
""",
    "bad": """
import pytest
def test_wrong(): assert 1 == 2
def test_right(): pass
@pytest.mark.skip(reason="there is no moon [bold]")
@pytest.mark.parametrize("n", [1, 2, 3])
def test_moon(n): pass
""",
    "crash": "import os\ndef test_crash(): os._exit(7)\n",
    "only_slow": "import pytest\n@pytest.mark.slow\ndef test_slow(): pass\n",
}


def test_a_room_that_fails_or_crashes_keeps_no_other_from_its_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for room, text in TESTS.items():
        folder = tmp_path / "tests" / room
        folder.mkdir(parents=True)
        (folder / f"test_{room}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = --import-mode=importlib\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # quicker to start
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    monkeypatch.setattr(rooms, "RESULTS", tmp_path / ".pytest_cache" / "rooms")
    monkeypatch.setattr(rooms, "ROOMS", tuple(TESTS))
    assert rooms.main([]) == 1
    lines = capsys.readouterr().out.splitlines()
    ended = {line.split()[0]: line.split()[1:] for line in lines if " passed " in line and " failed " in line}
    assert ended["good"][:6] == ["2", "passed", "0", "failed", "0", "skipped"]
    assert ended["bad"][:6] == ["1", "passed", "1", "failed", "3", "skipped"]
    assert ended["only_slow"][:6] == ["0", "passed", "0", "failed", "0", "skipped"]
    assert ended["crash"][-4:] == ["pytest", "ended", "with", "7"]
    assert "    3  there is no moon [bold]" in lines
    assert any("assert 1 == 2" in line for line in lines)
    assert any(line.startswith("Left out: 2 tests marked slow") for line in lines)
    failed = next(line for line in lines if line.startswith("FAILED: "))
    assert set(failed.removeprefix("FAILED: ").split(";")[0].split(", ")) == {"bad", "crash"}


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        (["core", "-k", "x"], ["tests/core", "-k", "x", "-m", "not slow"]),
        (["core", "--all"], ["tests/core"]),
        (["tests/core/test_cli.py::test_a"], ["tests/core/test_cli.py::test_a"]),
        (["-q", "-m", "real_data"], ["-q", "-m", "real_data"]),
    ],
)
def test_a_room_and_arguments_go_to_pytest(
    words: list[str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    class Done:
        returncode = 3

    monkeypatch.setattr(rooms.subprocess, "run", lambda command, **_: ran.append(command) or Done)
    assert rooms.main(words) == 3
    assert [command[3:] for command in ran] == [arguments]
