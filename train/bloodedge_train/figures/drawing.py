"""How every figure looks, and writing one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bloodedge.files import write_beside

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 120,
}

BLAST, NORMAL, GREY, BLACK, PALE = "#b5457e", "#2f7fb8", "#808080", "#1a1a1a", "#cccccc"
"""Distinguishable with any kind of colour vision (checked by lightness: 45 and 50 against hue)."""
RIGHT, WRONG = "#009e73", "#d55e00"
"""Bluish green and vermilion of Okabe and Ito's palette ("Color universal design", 2008), for any colour vision too."""
PART_COLOURS = {"validation": GREY, "inner": GREY, "folds": BLACK, "test": BLACK, "shift": "#e08214"}
PART_LINES = {"validation": "--", "inner": "--", "folds": "-", "test": "-", "shift": "-"}


def draw(path: Path, inches: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Write one figure (width, height in inches), painted by ``paint(figure)``, as PNG, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        paint(figure)

        def write(temporary: Path) -> None:
            figure.savefig(temporary)

        write_beside(path, write)


def with_interval(value: float, limits: tuple[float, float] | None) -> str:
    """A figure with its 95 % interval, e.g. "0.912 [0.871, 0.943]"."""
    return f"{value:.3f}" + (f" [{limits[0]:.3f}, {limits[1]:.3f}]" if limits else "")
