"""``bloodedge device``'s other commands: the current slide, the doctor, backup, expiry, audit log, access token."""

from pathlib import Path
from typing import Any

import click

from bloodedge_device.cli.options import config_option, state_option


@click.group()
def slide() -> None:
    """Tell the running daemon which slide is under the microscope."""


@slide.command("start")
@click.argument("label", default="")
@state_option
def start_command(label: str, state: Path | None) -> None:
    """End the current slide and begin one called LABEL."""
    answer = _ask(state, "POST", "/api/v1/slides", {"label": label})
    click.echo(f"Slide {answer['slide']} has begun.")


@slide.command("end")
@state_option
def end_command(state: Path | None) -> None:
    """End the current slide.

    The page then shows frames that are not stored. Images of a watched folder wait for the next slide.
    """
    answer = _ask(state, "POST", "/api/v1/slides/current/end")
    click.echo("There was no current slide." if answer.get("slide") is None else f"Slide {answer['slide']} has ended.")


@slide.command("label")
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
@click.argument("label")
@state_option
def label_command(number: int, label: str, state: Path | None) -> None:
    """Call slide ID by another LABEL."""
    _ask(state, "PATCH", f"/api/v1/slides/{number}", {"label": label})
    click.echo(f'Slide {number} is called "{label}".')


@slide.command("show")
@state_option
def show_command(state: Path | None) -> None:
    """Show the current slide's figures so far."""
    status = _ask(state, "GET", "/api/v1/status")
    now = status["slide"]
    if now is None:
        click.echo("There is no current slide; begin one with: bloodedge device slide start LABEL")
        return
    name = now["label"] or f"Slide {now['id']}"
    called = now["blasts"] + now["normals"]
    click.echo(f"{name}: {now['cells_total']} cells, {called} called, {now['uncertain']} uncertain.")
    if (counted := now["differential"]) is not None:
        from bloodedge.report import percent

        rows = [row for row in counted["rows"] if row["cells"]]
        shares = ", ".join(f"{row['kind'].replace('_', ' ')} {percent(row['share'])}" for row in rows)
        click.echo(f"Differential: {shares or 'no leucocyte yet'}. {counted['sentences'][0]}")
    headline = now["share_headline"]
    click.echo(" ".join([f"Blasts: {headline}." if "%" in headline else "", *now["share_sentences"]]).strip())
    if now["enough"]:
        click.echo("Enough cells.")
    elif now["cells_needed"] is not None:
        click.echo(f"About {now['cells_needed']} more called cells are needed.")


def _ask(state: Path | None, method: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    from bloodedge_device.web.client import ask

    return ask(_folder(state, "slide ..."), method, path, content)


def _folder(state: Path | None, command: str) -> Path:
    """The state folder; UsageError for a user who may not read it."""
    from bloodedge_device.settings import default_state, readable

    return readable(state or default_state(), command)


@click.command("doctor")
@config_option
@state_option
@click.option("--json", "target", metavar="FILE|-", help="Write the findings as JSON to a file, or to stdout for -.")
def doctor_command(config: Path | None, state: Path | None, target: str | None) -> None:
    """Check the board, and say what to do.

    Checks camera, bundle, disk, clock, heat, permissions and more; exit code 1 when a check fails.
    """
    from bloodedge.console import emit_json, progress
    from bloodedge_device.cli.doctor.checks import examine, show, to_json
    from bloodedge_device.settings import read_settings

    settings = read_settings(config, state)
    with progress("Checking this board"):
        findings = examine(settings)
    report = to_json(findings)
    if target:
        emit_json(report, target)
    if target != "-":
        show(findings)
    if not report["healthy"]:
        raise SystemExit(1)


@click.command("backup")
@click.argument("target", metavar="FILE.zip", type=click.Path(path_type=Path, dir_okay=False))
@state_option
@click.option("--no-crops", is_flag=True, help="Leave the cells' images out.")
def backup_command(target: Path, state: Path | None, no_crops: bool) -> None:
    """Copy all results to FILE.zip.

    The daemon may run meanwhile. Unpacked, the copy is a state folder.
    """
    from bloodedge.console import progress
    from bloodedge_device.store.backup import back_up

    folder = _folder(state, "backup ...")
    with progress("Copying images") as update:
        images = back_up(folder, target, not no_crops, update)
    click.echo(f"Backup: {target} (database and {images} images).")


@click.command("expire")
@config_option
@state_option
def expire_command(config: Path | None, state: Path | None) -> None:
    """Remove images older than [store] keep_days.

    The running daemon does so by itself. Results are kept.
    """
    from bloodedge.errors import UsageError
    from bloodedge.files import require_own
    from bloodedge_device.settings import read_settings, readable
    from bloodedge_device.store import DATABASE, StateInUseError, Store
    from bloodedge_device.system.clock import clock_synchronised

    settings = read_settings(config, state, profile=False)
    folder = readable(settings.state, "expire")
    if settings.store.keep_days is None:
        click.echo("Images are kept for ever: [store] keep_days is not set.")
        return
    if not (folder / DATABASE).is_file():
        raise UsageError(f"{folder} holds no results yet; check its name.")
    require_own(folder)
    try:
        store = Store(folder, settings.store)
    except StateInUseError:
        click.echo("The daemon is running and removes them by itself.")
        return
    try:
        removed = 0
        while more := store.expire(clock_held=clock_synchronised()):
            removed += more
        if removed:
            store.note("daemon", "images expired", {"images": removed})
    finally:
        store.close()
    click.echo(f"{removed} images older than {settings.store.keep_days} days were removed; results are kept.")


@click.command("audit")
@state_option
@click.option(
    "--count", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="Show the latest N."
)
def audit_command(state: Path | None, count: int) -> None:
    """Show who did what, and whether the log was changed.

    The newest comes first; exit code 1 when somebody changed the log.
    """
    from bloodedge.errors import BloodedgeError
    from bloodedge_device.store import audit_log, open_for_reading

    with open_for_reading(_folder(state, "audit ...")) as database:
        entries, broken = audit_log.read(database, count), audit_log.first_broken(database)
        digest = audit_log.last_digest(database)
    for entry in entries:
        detail = ", ".join(
            f"{key} {value}" for key, value in entry.detail.items() if value and not isinstance(value, dict)
        )
        click.echo(f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.actor}: {entry.action}{f' ({detail})' if detail else ''}")
    if broken is not None:
        raise BloodedgeError(f"Entry {broken} of the audit log was changed, or an entry before it was removed.")
    click.echo(f"The log is unchanged; its last digest is {digest[:16]}.")


@click.command("token")
@state_option
def token_command(state: Path | None) -> None:
    """Make an access token for the page.

    It is shown only this once and replaces an earlier one.
    """
    from bloodedge.errors import UsageError
    from bloodedge.files import require_own
    from bloodedge.web_access import new_token
    from bloodedge_device.settings import home_state

    folder = _folder(state, "token ...")
    require_own(folder)
    if not folder.is_dir() and folder != home_state():
        raise UsageError(f"{folder} does not exist; check its name, or make it first as the daemon's user.")
    token = new_token(folder)
    click.echo(token)
    click.echo(
        "Keep it: only its digest is stored. Sign in to the page with it; programs send it as a Bearer token.",
        err=True,
    )
