"""``bloodedge bench``: latency, memory and size of every artifact of some bundles on the machine at hand."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.cli.options import PATH, json_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from bloodedge.bench.latency import Bench, Row


@click.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=PATH)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    multiple=True,
    metavar="N",
    help="Threads of each engine; repeat it to compare (default: all cores).",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Turns of each artifact, 60 timed calls in a fresh process each.",
)
@json_option("rows")
@click.option(
    "--against-official",
    is_flag=True,
    help="Run litert-benchmark and benchmark_app on the same files in the same rounds, and print ours over theirs.",
)
def bench(
    bundles: tuple[Path, ...], threads: tuple[int, ...], rounds: int, json_target: str | None, against_official: bool
) -> None:
    """Time every artifact of each BUNDLE, one network input at a time.

    Each turn is a fresh process, and the artifacts take turns, so that a slow spell of the machine hits them all.
    "first" is from the opened bundle to the first answer, loading included; RSS is the most memory that the process
    held by then.
    """
    from bloodedge.bench.latency import bench as run_bench
    from bloodedge.console import emit, progress
    from bloodedge.machine import default_threads

    with progress("Timing") as update:
        found = run_bench(bundles, threads or (default_threads(),), rounds, update, against_official=against_official)
    emit(found.model_dump(), json_target, lambda: _show(found))


def _show(found: "Bench") -> None:
    from rich.markup import escape

    from bloodedge.console import console
    from bloodedge.tables import print_table

    out = console()
    flags = " ".join(found.rows[0].cpu_flags)
    hottest = max((row.temperature for row in found.rows if row.temperature is not None), default=None)
    heat = "" if hottest is None else f", {hottest:.0f} °C"
    out.print(escape(f"{found.machine}{heat} ({flags}): {found.rounds} rounds of {found.calls} calls; ms, MiB"))
    columns = _columns(found)
    rows = [[show(row) for show in columns.values()] for row in found.rows]
    print_table(list(columns), rows, left={"bundle", "artifact"})
    for name, reason in found.left_out.items():
        out.print(f"[bold]Left out:[/] {escape(f'{name}: {reason}')}", soft_wrap=True)
    for reason in found.no_tool.values():
        out.print(escape(reason), soft_wrap=True)


def _columns(found: "Bench") -> "dict[str, Callable[[Row], str]]":
    """How each column shows a row; those that would be empty are left away."""
    columns: dict[str, Callable[[Row], str]] = {"bundle": lambda row: Path(row.bundle).name}
    if len({row.bundle for row in found.rows}) == 1:
        columns.clear()
    columns |= {
        "artifact": lambda row: f"{row.engine} {row.precision}",
        "threads": lambda row: str(row.threads),
        "first": lambda row: f"{row.first_ms:.0f}",
        "p50": lambda row: f"{row.p50_ms:.2f}",
        "p90": lambda row: f"{row.p90_ms:.2f}",
        "p99": lambda row: f"{row.p99_ms:.2f}",
        "RSS": lambda row: "" if row.rss_mb is None else f"{row.rss_mb:.0f}",
        "size": lambda row: f"{row.size_bytes / 2**20:.1f}",
    }
    if any(found.speed_up(row) for row in found.rows):
        columns["over float32"] = lambda row: f"{ratio:.2f}x" if (ratio := found.speed_up(row)) else ""
    if any(row.official for row in found.rows):
        columns["official p50"] = lambda row: f"{row.official.p50_ms:.2f}" if row.official else ""
        columns["ours / official"] = lambda row: f"{row.official.ratio:.3f}" if row.official else ""
    return columns
