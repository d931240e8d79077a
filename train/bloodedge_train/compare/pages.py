"""The comparison as Markdown and as one HTML file, with its charts and its data."""

from pathlib import Path

from bloodedge import RESEARCH_USE
from bloodedge.bundle.json_records import write_record
from bloodedge.files import require_free, write_bytes, write_text
from bloodedge.report import data_uri, percent, render
from bloodedge_train.compare.charts import all_charts
from bloodedge_train.compare.comparison import Comparison
from bloodedge_train.compare.rows import Row
from bloodedge_train.compare.tables import ENGINES, against, all_tables, markdown
from bloodedge_train.compare.theme import DARK, LIGHT, Chart


def write(comparison: Comparison, folder: Path) -> None:
    """Write compare.md, compare.html, compare.json and the charts as PNG into ``folder``.

    Files of an earlier comparison, recognised by compare.json, are replaced; UsageError if others have the names.
    """
    charts = all_charts(comparison.rows)
    pictures = {chart.file: (chart.png(LIGHT), chart.png(DARK)) for chart in charts}
    if not (folder / "compare.json").is_file():
        require_free(folder, ["compare.md", "compare.html", *pictures])
    for file, (light, _) in pictures.items():
        write_bytes(folder / file, light)
    write_text(folder / "compare.md", markdown_page(comparison, charts))
    write_text(folder / "compare.html", html_page(comparison, charts, pictures))
    write_record(folder / "compare.json", comparison)


def markdown_page(comparison: Comparison, charts: list[Chart]) -> str:
    """Markdown that links to the PNG files beside it."""
    parts = [f"# Networks compared on the {comparison.part} part", f"**{RESEARCH_USE}**"]
    parts += [f"> **Note.** {warning}" for warning in comparison.warnings]
    for table in all_tables(comparison.rows):
        parts += [f"## {table.title}", table.note, markdown(table)]
    parts += [f"## {chart.title}\n\n![{chart.text}]({chart.file})" for chart in charts]
    parts += ["## The paper", comparison.paper_note]
    return "\n\n".join(parts) + "\n"


def html_page(comparison: Comparison, charts: list[Chart], pictures: dict[str, tuple[bytes, bytes]]) -> str:
    """One self-contained HTML file; its pictures follow the reader's light or dark theme.

    pictures: each chart's PNG for light and for dark pages, by its file.
    """
    shown = {}
    for chart in charts:
        light, dark = (data_uri(png, "image/png") for png in pictures[chart.file])
        width = round(chart.inches[0] * 103)  # px: the widest fill the page
        shown[Path(chart.file).stem] = {"title": chart.title, "text": chart.text, "width": width} | {
            "light": light,
            "dark": dark,
        }
    rows = comparison.rows
    return render(
        "bloodedge_train.compare",
        "compare.html",
        comparison=comparison,
        tables=all_tables(rows),
        pictures=shown,
        tiles=_tiles(rows),
        leaky=any(row.leaky for row in rows),
    )


def _tiles(rows: list[Row]) -> list[tuple[str, str, str]]:
    """The best of each split and the fastest int8 net: (what, value, note).

    None is called the best of networks that were scored on different cells, nor the fastest of those timed on several
    machines.
    """
    tiles = []
    for split, figure, name in (("image", "accuracy", "accuracy"), ("group", "weighted_f1", "weighted F1")):
        scored = [
            (value, row) for row in rows if row.split == split and (value := row.figures[figure].value) is not None
        ]
        if len({row.scored_on for _, row in scored}) == 1:
            value, row = max(scored, key=lambda pair: pair[0])
            versus = row.paper.get(figure)
            note = ", ".join([row.name, row.split_label, *([against(versus)] if versus else [])])
            tiles.append((f"Best {name} by {split}", percent(value), note))
    timed = [
        (c.latency_ms.p50, row.name, ENGINES[c.engine], c.machine)
        for row in rows
        for c in row.converted
        if c.precision == "int8" and c.latency_ms
    ]
    if len({machine for *_, machine in timed}) == 1:
        milliseconds, *where = min(timed)
        tiles.append(("Fastest int8 network", f"{milliseconds:.2f} ms", ", ".join(where)))
    return tiles
