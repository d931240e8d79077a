"""The bundle's model card: the run's own card, followed by the conversion."""

from collections.abc import Sequence

from bloodedge import RESEARCH_USE
from bloodedge.bundle.manifest import Agreement, Artifact, Manifest
from bloodedge.decision.domain import ACCEPTANCE, Domain
from bloodedge.decision.slide_verdict import scores_lines
from bloodedge_convert.judge.gate import DROPS, Limits

FIGURES = ("artifact", "weighted F1 [95 %]", "AUC [95 %]")
GATE = ("lost", "F1 pp", "AUC pp", "bal. pp", "flips", "mean diff", "max diff")
SPEED = ("artifact", "MB", "p50 ms", "p95 ms", "speed-up")


def figure_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """One row of FIGURES for the float model and for each artifact."""
    evaluation = manifest.baseline.evaluation
    named = [("keras float32", evaluation), *((_name(one), one.evaluation) for one in manifest.artifacts)]
    return [(name, one.text("weighted_f1"), one.text("auc")) for name, one in named]


def gate_rows(manifest: Manifest, limits: Limits) -> list[tuple[str, ...]]:
    """One row of GATE for each artifact with its losses against the float model; the last row holds the limits."""
    limited = tuple(f"{limit:g}" for limit in limits.drops.values())
    last = ("limit", *limited, f"{limits.max_flips:g} %", f"{limits.max_probability_error:g}", "")
    return [*(_gate_row(artifact) for artifact in manifest.artifacts), last]


def _gate_row(artifact: Artifact) -> tuple[str, ...]:
    agreement = artifact.agreement
    mean = agreement.mean_probability_difference
    return (
        _name(artifact),
        *(lost(agreement, name) for name in DROPS),
        f"{agreement.flips} ({100 * agreement.flip_rate:.2f} %)",
        "-" if mean is None else f"{mean:.2g}",
        f"{agreement.max_probability_difference:.1g}",
    )


def lost(agreement: Agreement, name: str) -> str:
    """Points of a figure that an artifact lost, with sign; a dash where there is no such figure."""
    return f"{agreement.drop[name]:+.2f}" if name in agreement.drop else "-"


def _name(artifact: Artifact) -> str:
    return f"{artifact.engine} {artifact.precision}"


def speed_rows(manifest: Manifest) -> list[tuple[str, ...]]:
    """One row of SPEED for each artifact; speed-up over float32 of the same engine where the bundle has it (p50)."""
    rows: list[tuple[str, ...]] = []
    float32 = {a.engine: a.evaluation.latency_ms for a in manifest.artifacts if a.precision == "float32"}
    for artifact in manifest.artifacts:
        latency, reference = artifact.evaluation.latency_ms, float32.get(artifact.engine)
        assert latency is not None
        rows.append(
            (
                _name(artifact),
                f"{artifact.size_bytes / 1e6:.2f}",
                f"{latency.p50:.2f}",
                f"{latency.p95:.2f}",
                f"{reference.p50 / latency.p50:.2f}x" if reference else "-",
            )
        )
    return rows


def markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines."""
    return ["| " + " | ".join(row) + " |" for row in (headers, ["---"] * len(headers), *rows)]


def card(run_card: str, manifest: Manifest, limits: Limits, notes: Sequence[str]) -> str:
    """Markdown: ``run_card`` followed by the conversion; ``notes`` are sentences to print above the tables."""
    source = manifest.provenance
    left_out = [f"- {kind.replace('/', ' ')}: {reason}" for kind, reason in manifest.left_out.items()]
    held_out = manifest.artifacts[0].agreement.cells
    latency = manifest.baseline.latency_ms
    what = (
        f"Converted {source.converted} from run `{source.run}`. Figures are over the {held_out} held-out (test) cells "
        "of that run; points lost, flips (cells whose class changes) and the mean and largest difference of the "
        "calibrated probability are against the float model on the same cells. Latency is of one cell on "
        f"{source.hardware}; the float model took {latency.p50:.2f} ms (p50) in Keras on {manifest.baseline.hardware}, "
        "which trained it."
    )
    calibration = (
        f"int8 ranges were calibrated on {source.calibration_cells} cells of training groups only (digest "
        f"`{source.calibration_digest[:16]}`). int8 LiteRT takes uint8 and gives uint8 probabilities in steps of "
        "1/256; OpenVINO takes uint8 and gives float32."
    )
    lines = [
        "## Conversion",
        "",
        *(line for note in notes for line in (f"**{note}**", "")),
        what,
        "",
        *markdown(FIGURES, figure_rows(manifest)),
        "",
        *markdown(GATE, gate_rows(manifest, limits)),
        "",
        *markdown(SPEED, speed_rows(manifest)),
        "",
        *(["Left out:", "", *left_out, ""] if left_out else []),
        calibration,
        "",
        _domain(manifest.domain),
        "",
        *([*scores_lines(manifest.people_scores), ""] if manifest.people_scores else []),
        RESEARCH_USE,
        "",
    ]
    head = run_card.rstrip() or f"# {manifest.name}"
    return head + "\n\n" + "\n".join(lines)


def _domain(domain: Domain | None) -> str:
    if domain is None:
        return "There were too few training cells to describe their domain: the device classifies every cell."
    accepted = "" if domain.accepted is None else f" and {100 * domain.accepted:.1f} % of the held-out cells"
    return (
        f"A cell unlike the training cells (distance over {domain.limit:.2f}) is called uncertain, out of domain; "
        f"{100 * ACCEPTANCE:.0f} % of the validation cells{accepted} are inside."
    )
