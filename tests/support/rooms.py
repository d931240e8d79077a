"""Runs the tests: each room in a process of its own, as many at a time as there are cores.

    ./run test               every room, but for the tests marked slow
    ./run test --all         every test
    ./run test core          one room, by pytest in the open
    ./run test core -k x     arguments go to pytest

Tests marked slow also run where -m is given or a test is named (tests/core/test_x.py::test_y).
"""

import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("end_to_end", "convert", "device", "train", "core", "fleet")
"""The longest first, so that none is left to run alone at the end."""
RESULTS = ROOT / ".pytest_cache" / "rooms"
"""What pytest says of each room, and its figures as JUnit's XML."""
QUICK = ("-m", "not slow")
COLLECTED = re.compile(r"collected (\d+) items?(?: / (\d+) deselected)?")
ENDED = re.compile(r" (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b.*\[ *\d+%\]")
NO_TESTS = 5
"""pytest's exit code where every test of a room is left out."""


@dataclass
class Outcome:
    """How a room's tests ended."""

    room: str
    code: int
    seconds: float
    left_out: int
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """How many tests by the reason."""

    @property
    def good(self) -> bool:
        return self.code in {0, NO_TESTS}

    def line(self) -> str:
        """The room's line."""
        minutes, seconds = divmod(round(self.seconds), 60)
        counts = f"{self.passed:5} passed {self.failed:3} failed {self.skipped.total():3} skipped"
        crashed = "" if self.good or self.failed else f"  pytest ended with {self.code}"
        return f"{self.room:10} {counts} {minutes:3}:{seconds:02}{crashed}"

    def complaints(self) -> str:
        """What pytest says of the failures, or at the end where it crashed."""
        said = (RESULTS / f"{self.room}.log").read_text(errors="replace")
        found = re.search(r"^=+ (ERRORS|FAILURES) =+$", said, re.MULTILINE)
        return said[found.start() :] if found else "\n".join(said.splitlines()[-40:])


def run_room(room: str, chosen: tuple[str, ...], progress: Progress, task: TaskID) -> Outcome:
    """Run a room's tests and move its bar."""
    results = RESULTS / f"{room}.xml"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", f"tests/{room}", "-v", f"--junitxml={results}", *chosen]
    begun_s, left_out = monotonic(), 0
    progress.start_task(task)
    with (
        (RESULTS / f"{room}.log").open("w", buffering=1, errors="replace") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"COLUMNS": "160"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pytest,
    ):
        assert pytest.stdout is not None
        for line in pytest.stdout:
            log.write(line)
            if collected := COLLECTED.search(line):
                left_out = int(collected[2] or 0)
                progress.update(task, total=int(collected[1]) - left_out)
            elif ENDED.search(line):
                progress.advance(task)
    outcome = Outcome(room, pytest.returncode, monotonic() - begun_s, left_out)
    if results.exists():
        for case in ET.parse(results).iter("testcase"):  # written by pytest just now
            if (skipped := case.find("skipped")) is not None:
                outcome.skipped[skipped.get("message", "")] += 1
            elif case.find("failure") is not None or case.find("error") is not None:
                outcome.failed += 1
            else:
                outcome.passed += 1
    return outcome


def run_rooms(chosen: tuple[str, ...]) -> int:
    """Run every room's tests, tell how each ended, and what was skipped; 0 when none failed."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    console, begun_s = Console(highlight=False), monotonic()
    columns = (TextColumn("{task.description:10}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes = []
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        tasks = {room: progress.add_task(room, start=False, total=None) for room in ROOMS}
        for ended in as_completed(pool.submit(run_room, room, chosen, progress, tasks[room]) for room in ROOMS):
            outcome = ended.result()
            outcomes.append(outcome)
            progress.remove_task(tasks[outcome.room])
            if not outcome.good:
                console.print(outcome.complaints(), markup=False, soft_wrap=True)
            console.print(outcome.line(), markup=False, soft_wrap=True)
    skipped = sum((one.skipped for one in outcomes), Counter[str]())
    if skipped:
        console.print("Skipped:")
    for reason, tests in skipped.most_common():
        console.print(f"{tests:5}  {reason}", markup=False, soft_wrap=True)
    if left_out := sum(one.left_out for one in outcomes):
        console.print(f"Left out: {left_out} tests marked slow (tests/README.md); ./run test --all has all.")
    failed = [one.room for one in outcomes if not one.good]
    if failed:
        console.print(f"FAILED: {', '.join(failed)}; the whole output is in {RESULTS.relative_to(ROOT)}.")
    console.print(together(outcomes, monotonic() - begun_s), markup=False, soft_wrap=True)
    return int(bool(failed))


def together(outcomes: list[Outcome], seconds: float) -> str:
    """The last line, in pytest's own form, which tools that watch a run know."""
    failed, passed = sum(one.failed for one in outcomes), sum(one.passed for one in outcomes)
    skipped, left_out = sum(one.skipped.total() for one in outcomes), sum(one.left_out for one in outcomes)
    counts = {"failed": failed, "passed": passed, "skipped": skipped, "deselected": left_out}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no tests ran"
    return f"===== {told} in {seconds:.2f}s ({timedelta(seconds=round(seconds))}) ====="


def main(words: list[str]) -> int:
    """0 when all is well, else pytest's exit code or 1."""
    everything = "--all" in words
    words = [f"tests/{word}" if word in ROOMS else word for word in words if word != "--all"]
    named = any(word.startswith("-m") or "::" in word for word in words)
    chosen = () if everything or named else QUICK
    if not words:
        return run_rooms(chosen)
    return subprocess.run([sys.executable, "-m", "pytest", *words, *chosen], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
