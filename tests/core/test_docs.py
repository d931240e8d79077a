"""The documentation: figures from their records, commands that exist, links that lead to files, a short README."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bloodedge.cli import cli
from bloodedge_device.settings import DeviceSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "models/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "firmware_configs").rglob("README.md")),
]
FENCE = re.compile(r"^\s*```(?:sh|console|)\n(.*?)^\s*```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\s*(?:\$ )?(?:sudo )?(?:-u \S+ )?(bloodedge [a-z][^|&;]*)")


def commands() -> Iterator[str]:
    for page in PAGES:
        for block in FENCE.findall(page.read_text()):
            yield from (found[1] for line in block.splitlines() if (found := COMMAND.match(line)))
        yield from re.findall(r"`(bloodedge [a-z][^`]*)`", page.read_text().replace("\n", " "))


def test_every_figure_is_its_record_s() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "results.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_is_read_in_a_minute() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_that_is_shown_exists_with_its_options(line: str) -> None:
    words = shlex.split(line.replace("\\|", "|").replace("...", ""), comments=True)
    command: click.Command = cli
    while isinstance(command, click.Group) and len(words) > 1:
        below = command.get_command(click.Context(command), words[1])
        assert below is not None, f"{line}: there is no command {words[1]}"
        command, words = below, words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
    assert given <= options | {"--help", "-h", "--version"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_to_a_file(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing = [target for target in targets if ":" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "experiments.md"], ids=lambda page: page.name)
def test_a_file_that_is_named_exists(page: Path) -> None:
    top = r"bloodedge|train|convert|device|fleet|tests|benchmarks|docs|firmware_configs|models|\.ci"
    named = re.findall(rf"`((?:{top})/[\w./*-]+)`", page.read_text())
    examples = ("acme", "NAME")
    missing = [name for name in named if not any(word in name for word in examples) and not list(ROOT.glob(name))]
    assert missing == []


def test_the_tests_that_the_threat_model_names_exist() -> None:
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 10
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_every_picture_is_shown_small_and_taken_by_the_command() -> None:
    pictures = {path.stem: path for path in (ROOT / "docs").glob("*.png")}
    assert [name for name, path in pictures.items() if path.stat().st_size > 400_000] == []
    shown = {Path(name).stem for page in PAGES for name in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", page.read_text())}
    assert shown == set(pictures)
    taken = re.findall(r'^    "(\w+)": \w+,$', (ROOT / "docs" / "pictures.py").read_text(), re.MULTILINE)
    assert set(taken) == set(pictures)


def test_a_setting_that_is_named_exists() -> None:
    named = {found for page in PAGES for found in re.findall(r"`\[(\w+)\] (\w+)", page.read_text())}
    assert len(named) > 5
    tables = {
        name: getattr(field.annotation, "model_fields", {}) for name, field in DeviceSettings.model_fields.items()
    }
    assert [f"[{table}] {key}" for table, key in sorted(named) if key not in tables.get(table, {})] == []
