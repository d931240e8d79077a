"""``bloodedge device install``, ``rollback`` and ``slots``: which bundle the board runs, and its history."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge_device.cli.options import config_option, state_option

if TYPE_CHECKING:
    from bloodedge_device.bundles.slot_record import Record
    from bloodedge_device.settings import DeviceSettings

LIVE_WITHIN_S = 60.0


@click.command("install")
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path))
@config_option
@state_option
@click.option("--allow-older", is_flag=True, help="Install it even if a newer one of that name was good here.")
def install_command(bundle: Path, config: Path | None, state: Path | None, allow_older: bool) -> None:
    """Try BUNDLE out on this board, and switch to it.

    It goes into the idle slot. A running daemon switches between two frames, else at its next start. The bundle is then
    on probation: when it crashes, or does worse than the previous one, the daemon goes back to that one.
    """
    from bloodedge.console import progress
    from bloodedge_device.bundles.install import install
    from bloodedge_device.settings import read_settings

    settings = read_settings(config, state)
    with progress("Trying the bundle on this board"):
        done = install(settings, bundle, allow_older=allow_older)
    if done.trial is None:
        click.echo(f"{done.what.title} is already active, in slot {done.slot}.")
    else:
        memory = "" if done.trial.memory_mb is None else f", {done.trial.memory_mb:.0f} MB"
        click.echo(f"Trial on this board ({done.trial.engine} {done.trial.precision}): {done.trial.golden};")
        click.echo(f"{done.trial.latency_ms:.1f} ms per cell{memory}.")
        minutes = settings.update.probation_minutes
        probation = f"on probation for {minutes:g} minutes of good health"
        click.echo(f"{done.what.title} is in slot {done.slot}, {'good' if done.what.state == 'good' else probation}.")
    click.echo(_what_runs(settings, done.what.sha256))


@click.command("rollback")
@config_option
@state_option
def rollback_command(config: Path | None, state: Path | None) -> None:
    """Go back to the bundle in the other slot.

    Without one there, go back to the bundle that came with the installation.
    """
    from bloodedge_device.bundles.switch import roll_back
    from bloodedge_device.settings import read_settings

    settings = read_settings(config, state)
    record = roll_back(settings)
    click.echo(f"Rolled back to {record.history[-1].bundle}.")
    click.echo(_what_runs(settings, "" if record.running is None else record.running.sha256))


@click.command("slots")
@config_option
@state_option
@click.option("--json", "target", metavar="FILE|-", help="Write the record as JSON to a file, or to stdout for -.")
def slots_command(config: Path | None, state: Path | None, target: str | None) -> None:
    """Show the two slots, which one runs, and their history."""
    from bloodedge.console import emit_json
    from bloodedge_device.bundles.slot_record import read_record
    from bloodedge_device.settings import read_settings

    settings = read_settings(config, state)
    record = read_record(settings.state)
    if target:
        emit_json(record.model_dump(mode="json"), target)
    if target != "-":
        _show(record)
        if settings.bundle is not None:
            click.echo(_named(settings))


def _named(settings: "DeviceSettings") -> str:
    return (
        f"The settings name {settings.bundle}, which runs instead of a slot's; remove bundle from them to change that."
    )


def _what_runs(settings: "DeviceSettings", sha256: str) -> str:
    """Whether the daemon runs a slot's bundle, in a sentence; waits for the switch."""
    from time import monotonic, sleep

    from bloodedge.errors import BloodedgeError
    from bloodedge_device.bundles.slot_record import read_record
    from bloodedge_device.store.lock import is_running

    state = settings.state
    if settings.bundle is not None:
        return _named(settings)
    end_s = monotonic() + LIVE_WITHIN_S
    while monotonic() < end_s:
        if not is_running(state):
            return "No daemon is running; it will run at the next start."
        record = read_record(state)
        now = "" if record.running is None else record.running.sha256
        if now != sha256:
            latest = record.history[-1]
            raise BloodedgeError(f"The daemon went back to {latest.bundle}: {latest.why.rstrip('.')}.")
        if _is_switched(state, record):
            return "The daemon runs it."
        sleep(0.2)
    return "The daemon has not switched to it yet; see: bloodedge device slots, and the daemon's log."


def _is_switched(state: Path, record: "Record") -> bool:
    """Whether the daemon runs what the record says; False while it does not answer."""
    from bloodedge.errors import BloodedgeError
    from bloodedge_device.web.client import ask

    try:
        bundle = ask(state, "GET", "/api/v1/status")["bundle"]
    except BloodedgeError:
        return False
    serial = None if record.running is None else record.running.serial
    return bundle["slot"] == record.active and serial in {None, bundle["serial"]}


def _show(record: "Record") -> None:
    from bloodedge.tables import print_table
    from bloodedge_device.bundles.slot_record import SHIPPED, SLOTS

    columns, rows = ("slot", "bundle", "state", "installed", "signed by"), []
    for name in SLOTS:
        slot = record.slots.get(name)
        if slot is None:
            rows.append((name, "empty", "", "", ""))
            continue
        runs = "runs, " if name == record.active else ""
        why = f": {slot.why}" if slot.why else ""
        installed = f"{slot.installed_at:%Y-%m-%d %H:%M}"
        rows.append((name, slot.title, f"{runs}{slot.state}{why}", installed, slot.signer))
    print_table(columns, rows, left=columns, sentences={"bundle", "state", "signed by"})
    if record.active is None:
        click.echo(f"{SHIPPED[0].upper()}{SHIPPED[1:]} runs.")
    for event in reversed(record.history):
        where = f" (slot {event.slot})" if event.slot else ""
        click.echo(
            f"{event.at:%Y-%m-%d %H:%M:%S} {event.action}: {event.bundle}{where}{f', {event.why}' if event.why else ''}"
        )
