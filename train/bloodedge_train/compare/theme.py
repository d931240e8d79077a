"""How charts look: each is drawn for light and for dark pages."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Paint = Callable[[Any, "Theme"], None]


@dataclass(frozen=True)
class Theme:
    """Colours of a page; those of bloodedge.report's style sheet."""

    paper: str
    ink: str
    soft: str
    grid: str
    splits: dict[str, str]
    networks: tuple[str, ...]
    """The first ones can be distinguished with any colour vision (Okabe and Ito, 2008)."""

    @property
    def settings(self) -> dict[str, Any]:
        """Matplotlib's settings for this theme."""
        inks = ("text.color", "axes.labelcolor", "axes.titlecolor")
        softs = ("xtick.color", "ytick.color", "axes.edgecolor")
        return {
            **dict.fromkeys(inks, self.ink),
            **dict.fromkeys(softs, self.soft),
            "figure.facecolor": self.paper,
            "axes.facecolor": self.paper,
            "savefig.facecolor": self.paper,
            "legend.labelcolor": self.ink,
            "legend.frameon": False,
            "grid.color": self.grid,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10.5,
            "font.size": 9.5,
            "figure.dpi": 144,
        }


LIGHT = Theme(
    paper="#fcfcfa",
    ink="#1c2126",
    soft="#59636e",
    grid="#e6e8e6",
    splits={"image": "#d9822b", "group": "#0a6cae"},
    networks=(
        *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7b5bb5", "#56b4e9"),
        *("#a07800", "#777777", "#8c1d40", "#1c2126", "#5b8c1d", "#b0570a"),
    ),
)
DARK = Theme(
    paper="#14171a",
    ink="#e8eaec",
    soft="#a0a9b2",
    grid="#2a2f35",
    splits={"image": "#eba15a", "group": "#62b0ec"},
    networks=(
        *("#62b0ec", "#ef8b4e", "#3fc79a", "#e0a3c6", "#b39ce0", "#bfe6fa"),
        *("#e0c341", "#a6adb5", "#f2718f", "#ffffff", "#a5d65e", "#c98a55"),
    ),
)


@dataclass(frozen=True)
class Chart:
    """A chart to draw in either theme."""

    file: str
    title: str
    text: str
    """Alternative text."""
    inches: tuple[float, float]
    paint: Paint

    def png(self, theme: Theme) -> bytes:
        """The chart as PNG."""
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        with mpl.rc_context(theme.settings):
            figure = Figure(figsize=self.inches, layout="constrained")
            FigureCanvasAgg(figure)
            self.paint(figure, theme)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()
