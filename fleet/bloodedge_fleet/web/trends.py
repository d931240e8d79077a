"""Charts of a board's last hours, as inline SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from bloodedge_fleet.boards.overview import Hour

WIDTH, HEIGHT = 1000, 100
"""Size of the lines, which are stretched to the page's width; words beside them keep their size."""


@dataclass(frozen=True)
class Trend:
    """One figure by the hour."""

    title: str
    note: str
    chart: Markup


def trends(hours: Sequence[Hour], baseline_ms: float | None) -> list[Trend]:
    """Latency and uncertain cells; none for fewer than two hours with such a figure. baseline_ms: drawn as a line."""
    made = []
    timed = [(hour.hour, hour.inference_ms) for hour in hours if hour.inference_ms is not None]
    if len(timed) > 1:
        note = "Median of one cell on this board, by the hour. The dashed line is the float model where it was trained."
        made.append(Trend("Inference, ms", note, _chart(timed, baseline_ms, "{:.3g}")))
    shares = [(hour.hour, 100 * hour.uncertain_share) for hour in hours if hour.uncertain_share is not None]
    if len(shares) > 1:
        made.append(Trend("Uncertain cells, %", "Of all cells of the hour.", _chart(shares, None, "{:.3g}")))
    return made


def _chart(points: Sequence[tuple[datetime, float]], mark: float | None, form: str) -> Markup:
    first, last = points[0][0], points[-1][0]
    span_s = max((last - first).total_seconds(), 1.0)
    top = max([value for _, value in points] + ([] if mark is None else [mark])) * 1.1 or 1.0

    def x_of(moment: datetime) -> float:
        return (moment - first).total_seconds() / span_s * WIDTH

    def y_of(value: float) -> float:
        return (1 - value / top) * HEIGHT

    dots = " ".join(f"{x_of(moment):.1f},{y_of(value):.1f}" for moment, value in points)
    text = f"From {form.format(min(v for _, v in points))} to {form.format(max(v for _, v in points))}"
    scale = "".join(f"<span>{form.format(value)}</span>" for value in (top, top / 2, 0.0))
    parts = [
        f'<div class="trend" role="img" aria-label="{text}"><p class="scale">{scale}</p>',
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">',
        *(_across(y_of(value), "grid") for value in (0.0, top / 2, top)),
        *([] if mark is None else [_across(y_of(mark), "mark")]),
        f'<polyline class="device" points="{dots}"/></svg>',
        f'<p class="ends"><span>{first:%d %b, %H:%M}</span><span>{last:%d %b, %H:%M}</span></p></div>',
    ]
    return Markup("".join(parts))  # noqa: S704  # numbers and dates only


def _across(y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="0" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
