"""How often the kind network that is released with the package errs."""

from functools import cache
from importlib.resources import files

from bloodedge.bundle.json_records import parse_record
from bloodedge.decision.kind_shares import KindRates

RATES = "rates.json"
"""``{"data": "which cells", "kinds": [...], "confusion": [[...]]}``, see KindRates."""


@cache
def default_rates() -> KindRates | None:
    """Of the network that is released with the package; None where they were not measured."""
    file = files("bloodedge_device.kinds").joinpath(RATES)
    return parse_record(KindRates, file.read_text("utf-8"), RATES) if file.is_file() else None
