"""Tables in the terminal that are read at any width: nothing is cut, and no figure is broken over two lines."""

from collections.abc import Collection, Iterator, Sequence
from textwrap import wrap as fold
from typing import TYPE_CHECKING, TypeAlias

from rich.text import Text

from bloodedge.console import console
from bloodedge.text import shown

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

Cell: TypeAlias = str | Text
"""A string is shown as it is, without markup; lines within a cell stay lines."""

GAP = 2
"""Columns between columns."""

WIDE, NARROW = 24, 13
"""Widths of a column of sentences: preferred, and least before the table is transposed."""


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: Cell = "",
    left: Collection[str] | None = None,
    sentences: Collection[str] = (),
    spaced: bool = False,
) -> None:
    """Print a table on stdout. A table that is too wide is transposed.

    left: columns that are set to the left, which are words and not figures; default: the first. sentences: columns
    whose cells may go over several lines. spaced: rows are set apart.
    """
    out = console()
    if title:
        out.print(Text("\n").append_text(_text(title, "italic")))
    cells = [[_text(cell) for cell in row] for row in rows]
    full = [_width([row[number] for row in cells]) for number in range(len(columns))]
    for head_width, narrowest in ((len, WIDE), (_longest_word, WIDE), (_longest_word, NARROW)):
        widths = [
            max(min(width, narrowest) if name in sentences else width, head_width(name))
            for name, width in zip(columns, full, strict=True)
        ]
        if sum(widths) + GAP * (len(columns) - 1) <= out.width:
            out.print(_upright(columns, widths, cells, columns[:1] if left is None else left, sentences, spaced=spaced))
            return
    transposed = _transposed(
        [Text(name, "bold") for name in columns], cells, {columns.index(name) for name in sentences}, out.width
    )
    for number, part in enumerate(transposed):
        out.print(*[""] * bool(number), part, sep="\n")


def figure_cells(value: float | None, limits: tuple[float, float] | None = None, digits: int = 3) -> tuple[str, str]:
    """A figure and its interval as a table shows them; a dash for what is not known."""
    interval = " .. ".join(f"{limit:.{digits}f}" for limit in limits or ())
    return "-" if value is None else f"{value:.{digits}f}", interval or "-"


def _upright(
    columns: Sequence[str],
    widths: Sequence[int],
    cells: Sequence[Sequence[Text]],
    left: Collection[str],
    sentences: Collection[str],
    *,
    spaced: bool,
) -> "Table":
    """The table as it was given; heads go over several lines where they are wider than their columns."""
    table = _empty(spaced=spaced)
    for name, width in zip(columns, widths, strict=True):
        head = Text("\n".join(fold(name, max(1, width))), "bold")
        side: JustifyMethod = "left" if name in left else "right"
        table.add_column(head, justify=side, min_width=width, no_wrap=name not in sentences, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table


def _empty(*, spaced: bool) -> "Table":
    from rich.box import SIMPLE_HEAD, Box
    from rich.table import Table

    rule = Box(str(SIMPLE_HEAD), ascii=True)  # one line below the heads, which any output can show
    return Table(box=rule, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False, leading=int(spaced))


def _transposed(
    heads: Sequence[Text], rows: Sequence[Sequence[Text]], sentences: Collection[int], width: int
) -> "Iterator[Table]":
    """Transposed tables, each with as many rows side by side as fit."""
    names = _width(heads)
    for part in _side_by_side(rows, sentences, width - names):
        table = _empty(spaced=False)
        table.add_column(heads[0], min_width=names, no_wrap=True)
        for row in part:
            table.add_column(
                row[0].copy(), min_width=min(_needed(row, sentences), width - names - GAP), overflow="fold"
            )
        for number, head in enumerate(heads[1:], 1):
            table.add_row(head, *(row[number] for row in part))
        yield table


def _side_by_side(
    rows: Sequence[Sequence[Text]], sentences: Collection[int], room: int
) -> Iterator[list[Sequence[Text]]]:
    part: list[Sequence[Text]] = []
    taken = 0
    for row in rows:
        needed = _needed(row, sentences) + GAP
        if part and taken + needed > room:
            yield part
            part, taken = [], 0
        part.append(row)
        taken += needed
    yield part


def _needed(row: Sequence[Text], sentences: Collection[int]) -> int:
    figures = [cell for number, cell in enumerate(row) if number not in sentences]
    return max(_width(figures), min(_width([row[number] for number in sentences]), WIDE))


def _text(cell: Cell, style: str = "") -> Text:
    return Text("\n".join(map(shown, cell.split("\n"))), style) if isinstance(cell, str) else cell


def _width(cells: Sequence[Text]) -> int:
    """Columns that the longest line of any cell takes."""
    return max((line.cell_len for cell in cells for line in cell.split("\n")), default=0)


def _longest_word(name: str) -> int:
    return max(map(len, name.split()), default=0)
