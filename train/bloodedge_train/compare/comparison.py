"""The comparison of networks, as ``compare.json`` stores it."""

from collections.abc import Sequence
from pathlib import Path

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge_train.compare.cautions import cautions
from bloodedge_train.compare.collect import PartName, collect
from bloodedge_train.compare.latency import Measured, measure
from bloodedge_train.compare.make_rows import gather, labelled, make_row
from bloodedge_train.compare.paper import Paper, read_paper
from bloodedge_train.compare.rows import Row


class Comparison(Strict):
    """``compare.json``."""

    part: PartName
    rows: list[Row]
    paper: Paper
    warnings: list[str]

    @property
    def paper_note(self) -> str:
        """What is known of the paper, and which of its networks have no run here."""
        networks = self.paper.networks
        given = {row.network for row in self.rows}
        known = [n.name for n in networks.values() if n.known]
        unknown = [n.name for n in networks.values() if not n.known]
        absent = [n.name for key, n in networks.items() if key not in given]
        sentences = [f'The paper: "{self.paper.title}" ({self.paper.data}; {self.paper.recipe}).']
        sentences.append(f"Its figures here: {', '.join(known) or 'none'}; source: {self.paper.source}.")
        if unknown:
            sentences.append(f"Not available here, so not compared: {', '.join(unknown)}.")
        if absent:
            sentences.append(f"Of its networks, without a run in this comparison: {', '.join(absent)}.")
        return " ".join(sentences)


def compare(paths: Sequence[Path], *, part: PartName = "test", paper: Path | None = None) -> Comparison:
    """The networks in run folders and bundles, in the paper's order and then as given; a split by image comes first.

    ``paper``: a completed copy of ``paper.toml``. Raises UsageError when a path is neither a finished run nor a bundle,
    or when no path has the part.
    """
    figures = read_paper(paper)
    entries, warnings = collect(paths, part)
    measured, failed = _measure([e.bundle for e in entries if e.bundle])
    groups = gather(entries)
    rows = labelled([make_row(group, figures, measured) for group in groups], [group[0].path for group in groups])
    warnings += [*failed, *cautions(entries, groups, rows, part)]
    order = list(figures.networks)
    given = list(dict.fromkeys(row.network for row in rows))
    place = {
        network: (network not in order, (order if network in order else given).index(network)) for network in given
    }
    rows.sort(key=lambda row: (place[row.network], row.split != "image"))
    return Comparison(part=part, rows=rows, paper=figures, warnings=warnings)


def _measure(bundles: Sequence[Path]) -> tuple[dict[str, Measured], list[str]]:
    try:
        return measure(bundles), []
    except BloodedgeError as error:
        return {}, [f"Latencies are those stored at conversion: {error}"]
