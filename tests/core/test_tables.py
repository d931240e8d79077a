"""Tables are read at any width: nothing is cut, no figure is broken over two lines."""

from collections import Counter

import pytest
from rich.cells import cell_len
from rich.console import Console

from bloodedge import tables
from bloodedge.tables import print_table

COLUMNS = ("artifact", "weighted F1", "95 % interval", "drop pp", "finding")
ROWS = [
    (
        "openvino float32",
        "0.871",
        "0.802 .. 0.923",
        "+0.00",
        "The file /var/lib/bloodedge/trust/a-key-with-a-very-long-name.pub is there to be read.",
    ),
    ("litert int8", "0.869", "0.801 .. 0.921", "-12.25", "None."),
]


def printed(width: int, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[str]:
    out = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    monkeypatch.setattr(tables, "console", lambda: out)
    print_table(COLUMNS, ROWS, title="Figures", sentences={"finding"}, **options)  # type: ignore[arg-type]
    return [line.rstrip() for line in out.export_text().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 110, 200])
def test_every_word_and_figure_is_whole_and_no_line_is_wider_than_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = printed(width, monkeypatch)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for row in ROWS:
        assert all(cell in text for cell in row[:4])
        assert all(word in text for word in row[4].split() if len(word) < 13)
    written = Counter("".join(cell for row in ROWS for cell in row if cell))
    assert all(Counter(text)[one] >= number for one, number in written.items() if one != " ")
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_row_is_a_line_where_there_is_room_and_a_column_where_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = (line for line in printed(200, monkeypatch) if "0.871" in line)
    assert line.split() == [*["openvino", "float32", "0.871", "0.802", "..", "0.923", "+0.00"], *ROWS[0][4].split()]
    (line,) = (line for line in printed(60, monkeypatch) if "0.871" in line)
    assert line.split() == ["weighted", "F1", "0.871", "0.869"]


def test_words_of_the_world_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    monkeypatch.setattr(tables, "console", lambda: out)
    print_table(("", "frames"), [("[bold]a[/]\x1b[2J", "1")])
    assert "[bold]a[/]\N{REPLACEMENT CHARACTER}[2J" in out.export_text()


def test_a_table_without_rows_is_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    monkeypatch.setattr(tables, "console", lambda: out)
    print_table(("check", "finding"), [])
    assert "check" in out.export_text()
