"""Reading data for a model: laid out as asked, or as the data were that it was fitted to."""

from collections.abc import Sequence
from pathlib import Path

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.console import Progress
from bloodedge.data.dataset import CNMC_LAYOUT, Dataset, read_dataset
from bloodedge.errors import UsageError
from bloodedge.evaluation.classifier import Classifier


def read_for(
    members: Sequence[Classifier], data: Path, layout: DataLayout = CNMC_LAYOUT, progress: Progress | None = None
) -> Dataset:
    """``data`` laid out as ``layout`` says; where that says nothing, a run's own data are read as they were for it.

    Raises UsageError as ``read_dataset``; the sentence gives the options by which a member's own data were read.
    """
    own = [one.layout for one in members if one.data is not None and one.data.resolve() == data.resolve()]
    if layout == CNMC_LAYOUT and own:
        layout = own[0]
    try:
        return read_dataset(data, progress, layout)
    except UsageError as error:
        options = next((one.layout.options() for one in members if one.layout not in (CNMC_LAYOUT, layout)), "")
        hint = f" The model was fitted to data that were read with: {options}"
        raise UsageError(f"{error}{hint if options else ''}") from error
