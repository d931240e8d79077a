"""``bloodedge data``: check a data set before trusting figures from it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge.cli.options import PATH, data_options, json_option

if TYPE_CHECKING:
    from bloodedge.bundle.data_layout import DataLayout
    from bloodedge.data.audit import Audit


NAMED = 3
"""Scales, and pairs of pictures, that are listed."""


@click.group()
def data() -> None:
    """Check a data set before trusting figures from it."""


@data.command("audit")
@click.argument("folder", metavar="DATA", type=PATH)
@click.option("--known-people/--no-known-people", default=True, help="Group subjects of C-NMC who are one person.")
@data_options
@json_option("audit")
def audit_command(folder: Path, layout: "DataLayout", json_target: str | None, *, known_people: bool) -> None:
    """Count cells, classes, people and folds; find faults.

    Faults are unreadable images, cells that occur twice, and shortcuts to the class. DATA is laid
    out as C-NMC 2019: fold_*/{all,hem}/UID_<subject>_<image>_<cell>_<label>, or plain {all,hem}/ folders, or as
    the options say. Crops that show a cell with its surroundings are cut by the cell finder.
    """
    from bloodedge.console import emit, progress
    from bloodedge.data.audit import audit
    from bloodedge.data.dataset import read_dataset

    with progress("Reading cells") as update:
        dataset = read_dataset(folder, update, layout)
    result = audit(dataset if known_people else dataset.by_pictures_alone())
    emit(asdict(result), json_target, lambda: _show(result))


def _show(result: "Audit") -> None:
    from bloodedge.console import console
    from bloodedge.tables import print_table

    console().print(
        f"[bold]{result.cells}[/] cells ({result.unique_cells} unique) of [bold]{len(result.subjects)}[/] subjects in "
        f"[bold]{len(result.groups)}[/] groups" + ("; drawn by the simulated microscope" if result.rendered else "")
    )
    _show_reading(result)
    counts = {"every fold": result.classes, **result.folds}
    rows = [(name, str(classes["all"]), str(classes["hem"])) for name, classes in counts.items()]
    print_table(("", "all (blast)", "hem (normal)"), rows, title="Cells by class")
    people = [
        (
            row.subject,
            row.group if row.group != row.subject else "",
            ", ".join(row.folds),
            str(row.all or ""),
            str(row.hem or ""),
            f"{row.median_area_px:.0f}",
        )
        for row in result.subjects
    ]
    columns = ("subject", "group", "folds", "all", "hem", "median area px")
    print_table(columns, people, title="Subjects", left=columns[:3])
    _show_faults(result)


def _show_reading(result: "Audit") -> None:
    """How the data were read, and what was passed over."""
    from bloodedge.console import console, plain

    out = console()
    if result.read_with:
        out.print(plain(f"Read with: {result.read_with}"), soft_wrap=True)
    scales = ", ".join(f"{scale} µm per pixel: {count} cells" for scale, count in list(result.scales.items())[:NAMED])
    more = len(result.scales) - NAMED
    out.print(plain(f"Scale: {scales}" + (f", and {more} more scales" if more > 0 else "")))
    out.print(f"Median cell: {result.median_diameter_um:.1f} µm across")
    if result.cut_by_finder:
        out.print(f"Cut out of their surroundings by the cell finder: {result.cut_by_finder} cells")
    for where, count in sorted(result.passed_over.items(), key=lambda row: -row[1]):
        out.print(plain(f"Passed over {count} {where}"), soft_wrap=True)
    for caution in result.cautions:
        out.print(plain(f"Mind: {caution}"), style="bold yellow", soft_wrap=True)


def _show_groups(result: "Audit") -> None:
    """Which subjects count as one, why, and who else may."""
    from bloodedge.console import console, plain

    out = console()
    known = {subject for names in result.same_person for subject in names}
    if known:
        names = "; ".join(" + ".join(names) for names in result.same_person)
        out.print(plain(f"One person each in C-NMC, and one group (--no-known-people shows it without): {names}"))
    merged = [" + ".join(names) for names in result.groups.values() if len(names) > 1 and not known >= set(names)]
    if merged:
        out.print(plain(f"Subjects that share pictures and count as one group: {'; '.join(merged)}"))
    doubtful = [near for near in result.near_duplicates if not near.by_chance]
    for near in doubtful:
        first, second = near.groups
        out.print(plain(f"{first} and {second} may be one person: {len(near.files)} pairs of pictures of one cell"))
        for pair in near.files[:NAMED]:
            out.print(plain(f"  {pair[0]}  {pair[1]}"), soft_wrap=True)
    if doubtful:
        out.print("If they are, give their files one subject name.")
    if few := sum(len(near.files) for near in result.near_duplicates if near.by_chance):
        out.print(f"{few} more pairs of pictures of two groups look alike, as few as chance gives.")


def _show_faults(result: "Audit") -> None:
    from bloodedge.console import console, plain
    from bloodedge.data.label_table import some

    out = console()
    out.print(
        f"\n[bold]{len(result.duplicates)}[/] pictures occur more than once: {result.across_subjects} under more than "
        f"one subject, {result.across_folds} in more than one fold, {result.across_classes} under both classes."
    )
    for same in result.duplicates:
        kind = "the same bytes" if same.bytes_identical else "the same pixels"
        whose = ", ".join(filter(None, same.subjects)) or "subject not known"
        out.print(plain(", ".join(filter(None, [whose, *same.folds, kind]))), style="bold")
        for name in same.files:
            out.print(plain(f"  {name}"), soft_wrap=True)
    _show_groups(result)
    by_reason: dict[str, list[str]] = {}
    for name, reason in result.unreadable.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        out.print(plain(f"unreadable {some(names)}: {reason}"), soft_wrap=True)
    out.print("Unreadable images: " + (str(len(result.unreadable)) if result.unreadable else "none"))
    if result.without_subject:
        out.print(f"{result.without_subject} cells have no subject in their name (expected UID_<subject>_...).")
    for what, value in (("cell area", result.area_auc), ("mean brightness", result.brightness_auc)):
        if value is not None:
            out.print(f"AUC of {what} alone (0.5 = no signal): [bold]{value:.3f}[/]")
