"""Charts as inline SVG: across, positions are per cent of the width, so that text keeps its size on any screen.

Colours come from the page's style sheet through classes (``blast``, ``normal``, ``uncertain``, ``device``,
``baseline``), so that light, dark and printed pages each have their own. Every chart has a text for screen readers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from bloodedge.bundle.evaluation_record import LatencyMs


@dataclass(frozen=True)
class Axis:
    """A horizontal scale from ``low`` to ``high`` with labelled ticks."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value stands, 0..100 per cent of the width; values beyond the ends stand at the end."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return round(100 * min(1.0, (value - low) / (high - low)), 3)


def share_axis(low: float = 0.0, high: float = 1.0) -> Axis:
    """A scale of shares in per cent around ``low`` to ``high`` (0..1), ends rounded outwards to whole steps."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.25) if (high - low) / s <= 5 or s == 0.25)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple((i * step, f"{i * step * 100:.0f}\N{NARROW NO-BREAK SPACE}%") for i in range(first, last + 1))
    return Axis(ticks[0][0], ticks[-1][0], ticks)


def log_axis(values: Sequence[float], unit: str) -> Axis:
    """A logarithmic scale around positive values, with a tick at each power of ten."""
    first = math.floor(math.log10(min(values)))
    last = max(first + 1, math.ceil(math.log10(max(values))))
    ticks = tuple((10.0**i, f"{10.0**i:g} {unit}") for i in range(first, last + 1))
    return Axis(ticks[0][0], ticks[-1][0], ticks, log=True)


def axis_labels(axis: Axis) -> Markup:
    """The axis' tick labels, for below a column of strips."""
    return _svg(16, "", "".join(_tick_label(axis, value, label, 12) for value, label in axis.ticks))


def interval_strip(
    axis: Axis,
    value: float | None,
    interval: tuple[float, float] | None,
    kind: str,
    text: str,
    truth: float | None = None,
) -> Markup:
    """A figure as a dot with its interval as a bar; truth: where the figure truly lies, as a line across."""
    body = _grid(axis, 26)
    if interval is not None:
        low, high = axis.at(interval[0]), axis.at(interval[1])
        body += f'<line class="interval {escape(kind)}" x1="{low}%" x2="{high}%" y1="13" y2="13"/>'
    if truth is not None:
        x = axis.at(truth)
        body += f'<line class="mark" x1="{x}%" x2="{x}%" y1="1" y2="25"/>'
    return _svg(26, text, body if value is None else body + _dot(axis, value, 13, kind))


def zone_strip(axis: Axis, value: float, zone: tuple[float, float], kind: str, text: str) -> Markup:
    """A figure as a dot, with a grey bar over the zone in which it means nothing."""
    low, high = (axis.at(end) for end in zone)
    bar = f'<line class="interval uncertain" x1="{low}%" x2="{high}%" y1="13" y2="13"/>'
    return _svg(26, text, _grid(axis, 26) + bar + _dot(axis, value, 13, kind))


def latency_strip(axis: Axis, latency: LatencyMs, kind: str, text: str) -> Markup:
    """A latency: dot at p50, line to p95, thinner line to a tick at p99."""
    p50, p95, p99 = (axis.at(v) for v in (latency.p50, latency.p95, latency.p99))
    kind = escape(kind)
    body = (
        f'<line class="interval {kind}" x1="{p50}%" x2="{p95}%" y1="13" y2="13"/>'
        f'<line class="tail {kind}" x1="{p95}%" x2="{p99}%" y1="13" y2="13"/>'
        f'<line class="tail {kind}" x1="{p99}%" x2="{p99}%" y1="8" y2="18"/>'
    )
    return _svg(26, text, _grid(axis, 26) + body + _dot(axis, latency.p50, 13, kind))


def bar_strip(axis: Axis, value: float, kind: str, text: str) -> Markup:
    """A figure as a bar from the axis' low end."""
    rect = f'<rect class="{escape(kind)}" x="0" y="5" width="{axis.at(value)}%" height="10" rx="2"/>'
    return _svg(20, text, _grid(axis, 20) + rect)


@dataclass(frozen=True)
class Part:
    """One part of a whole."""

    label: str
    count: int
    kind: str


def share_bar(parts: Sequence[Part], height: int = 28) -> Markup:
    """Parts of a whole side by side in one bar, their counts inside where there is room."""
    total = sum(part.count for part in parts) or 1
    body, left = "", 0.0
    for part in parts:
        width = 100 * part.count / total
        title = f"{part.label}: {part.count} ({width:.1f} %)"
        body += (
            f'<rect class="{escape(part.kind)}" x="{left:.3f}%" width="{width:.3f}%" height="{height}">'
            f"<title>{escape(title)}</title></rect>"
        )
        if width > 8:
            middle = left + width / 2
            body += f'<text class="inside" x="{middle:.3f}%" y="{height / 2 + 4:g}">{part.count}</text>'
        left += width
    return _svg(height, ", ".join(f"{part.label} {part.count}" for part in parts), body, "bar")


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram, from ``low`` to ``high`` on the axis."""

    low: float
    high: float
    count: int
    kind: str


def histogram(axis: Axis, bins: Sequence[Bin], text: str, marks: Sequence[tuple[float, str]] = ()) -> Markup:
    """Bars over an axis; ``marks`` are (value, label) lines across it."""
    plot, top = 130, 22
    largest = max((b.count for b in bins), default=0) or 1
    body = f'<line class="grid" x1="0" x2="100%" y1="{top + plot}" y2="{top + plot}"/>'
    for value, label in marks:
        x = axis.at(value)
        body += f'<line class="mark" x1="{x}%" x2="{x}%" y1="{top - 6}" y2="{top + plot}"/>'
        body += f'<text class="{_anchor(x)}" x="{x}%" y="{top - 10}">{escape(label)}</text>'
    for b in bins:
        x, height = axis.at(b.low), plot * b.count / largest
        y, width = f"{top + plot - height:.1f}", f"{axis.at(b.high) - x:.3f}%"
        title = f"{b.low:.0%} to {b.high:.0%}: {b.count}"
        body += (
            f'<rect class="{escape(b.kind)} gap" x="{x}%" y="{y}" width="{width}"'
            f' height="{height:.1f}"><title>{escape(title)}</title></rect>'
        )
    body += "".join(_tick_label(axis, value, label, top + plot + 16) for value, label in axis.ticks)
    return _svg(top + plot + 22, text, body)


def _svg(height: int, text: str, body: str, kind: str = "chart") -> Markup:
    label = f'role="img" aria-label="{escape(text)}"' if text else 'aria-hidden="true"'
    return Markup(f'<svg class="{kind}" width="100%" height="{height}" {label}>{body}</svg>')  # noqa: S704  # escaped above


def _grid(axis: Axis, height: int) -> str:
    """Lines at the ticks, a little longer than the strip so that those of a column of strips meet."""
    return "".join(
        f'<line class="grid" x1="{axis.at(value)}%" x2="{axis.at(value)}%" y1="-12" y2="{height + 12}"/>'
        for value, _ in axis.ticks
    )


def _dot(axis: Axis, value: float, y: int, kind: str) -> str:
    return f'<circle class="{escape(kind)}" cx="{axis.at(value)}%" cy="{y}" r="5"/>'


def _tick_label(axis: Axis, value: float, label: str, y: int) -> str:
    x = axis.at(value)
    return f'<text class="{_anchor(x)}" x="{x}%" y="{y}">{escape(label)}</text>'


def _anchor(x: float) -> str:
    """Labels at the ends stay inside the picture."""
    return "first" if x < 4 else "last" if x > 96 else "middle"
