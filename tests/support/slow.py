"""The tests marked slow, and how long each took in the last ./run test --all.

python tests/support/slow.py           shows the table
python tests/support/slow.py --write   puts it into tests/README.md
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

TESTS = Path(__file__).resolve().parents[1]
README = TESTS / "README.md"
RESULTS = TESTS.parent / ".pytest_cache" / "rooms"
LONG_S = 4.0
"""A test, with all its parameters, that takes longer is worth a look."""
BEGIN, END = "<!-- slow tests: begin -->\n", "<!-- slow tests: end -->"


class Test(NamedTuple):
    """A test function, with all its parameters."""

    room: str
    file: str
    name: str

    @property
    def shown(self) -> str:
        """As the table has it."""
        return f"`{self.file}::{self.name}`"


def slow_tests() -> list[Test]:
    """Every test function of which some or all is marked slow."""
    return [test for path in sorted(TESTS.glob("*/test_*.py")) for test in _slow_in(path)]


def _slow_in(path: Path) -> Iterator[Test]:
    statements = ast.parse(path.read_text()).body
    whole_file = any(
        isinstance(statement, ast.Assign) and "pytestmark" in ast.unparse(statement) and is_slow(statement.value)
        for statement in statements
    )
    tests = (one for one in statements if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"))
    for test in tests:
        if whole_file or any(map(is_slow, test.decorator_list)):
            yield Test(path.parent.name, path.name, test.name)


def is_slow(expression: ast.expr) -> bool:
    """Whether a mark, or one within it, is ``pytest.mark.slow``."""
    return "pytest.mark.slow" in ast.unparse(expression)


def measured() -> defaultdict[Test, float]:
    """Seconds of each test function, from the rooms' last results."""
    seconds: defaultdict[Test, float] = defaultdict(float)
    for path in RESULTS.glob("*.xml"):
        for case in ET.parse(path).iter("testcase"):  # written by pytest
            *_, room, module = case.get("classname", "").split(".")
            test = Test(room, f"{module}.py", case.get("name", "").split("[")[0])
            seconds[test] += float(case.get("time", 0))
    return seconds


def table() -> str:
    """Markdown: a row for each slow test, the longest of a room first."""
    seconds = measured()
    rows = ["| room | test | seconds |", "|---|---|--:|"]
    for test in sorted(slow_tests(), key=lambda test: (test.room, -seconds.get(test, 0), test)):
        took = f"{seconds[test]:.0f}" if test in seconds else "?"
        rows.append(f"| {test.room} | {test.shown} | {took} |")
    return "\n".join([*rows, ""])


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(before + BEGIN + table() + END + rest.split(END)[1])
    else:
        print(table())
        seconds = measured()
        for test in sorted(set(seconds) - set(slow_tests()), key=lambda test: -seconds[test]):
            if seconds[test] > LONG_S:
                print(f"not marked: {seconds[test]:4.0f} s  {test.room}/{test.file}::{test.name}")


if __name__ == "__main__":
    main()
