"""Self-contained HTML documents: one file, nothing loaded from elsewhere, readable on a phone, in the dark and printed.

A stage keeps its own templates in ``templates/`` inside its package and extends ``page.html`` from here, whose macros
are in ``parts.html``; charts are inline SVG from ``bloodedge.report.charts``.
"""

import base64
from functools import cache
from typing import TYPE_CHECKING, Any

from bloodedge import RESEARCH_USE, __version__

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def environment(package: str) -> "Environment":
    """The templates of ``package`` (an import name) and those from here; every value is escaped unless it is Markup."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("bloodedge.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "count": count, "ms": milliseconds, "words": words}
    made.globals |= {"research_use": RESEARCH_USE, "version": __version__}
    return made


def render(package: str, template: str, **values: Any) -> str:
    """The HTML of a template of ``package``."""
    return environment(package).get_template(template).render(**values)


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a ``data:`` address that an ``img`` can show; kind is a media type such as "image/jpeg"."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 as "37.2 %" with a thin no-break space, or a dash."""
    return "\N{EN DASH}" if share is None else f"{share * 100:.{digits}f}\N{NARROW NO-BREAK SPACE}%"


def count(number: int) -> str:
    """A count with thin no-break spaces between thousands."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def milliseconds(value: float) -> str:
    """Milliseconds with three significant digits, without the unit."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def words(code: str) -> str:
    """A reason code such as ``out_of_focus`` as words."""
    return code.replace("_", " ")
