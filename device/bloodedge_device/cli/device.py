"""``bloodedge device``: run the daemon beside the microscope, and report on its slides."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bloodedge_device.cli.export import export_command
from bloodedge_device.cli.options import BOARD_HELP, config_option, state_option
from bloodedge_device.cli.provision import provision_command
from bloodedge_device.cli.service import (
    audit_command,
    backup_command,
    doctor_command,
    expire_command,
    slide,
    token_command,
)
from bloodedge_device.cli.slots import install_command, rollback_command, slots_command

if TYPE_CHECKING:
    from bloodedge_device.report.reading import DeviceReport


@click.group()
def device() -> None:
    """Run the daemon beside the microscope, and report on it.

    For Research Use Only. Not for use in diagnostic procedures.
    """


for command in (
    *(slide, doctor_command, backup_command, expire_command, audit_command, token_command, provision_command),
    *(install_command, rollback_command, slots_command, export_command),
):
    device.add_command(command)


@device.command("run")
@config_option
@click.option("--bundle", metavar="BUNDLE", type=click.Path(path_type=Path), help="The bundle to run.")
@click.option(
    "--camera",
    metavar="SOURCE",
    help='"simulated", "mixed" (the same with cells of every kind), "picamera", "v4l2", /dev/videoN, or a folder of'
    " frames, a video file or a stream's URL.",
)
@click.option("--watch", is_flag=True, help="Wait for new images in the folder, without end; take each once.")
@click.option("--frames", metavar="N", type=click.IntRange(min=1), help="Stop after N frames.")
@state_option
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), help="Port of the page; 0: any free one.")
@click.option("--open", "open_page", is_flag=True, help="Open the page in a browser.")
@click.option("--no-page", is_flag=True, help="Do not serve the page.")
def run_command(
    config: Path | None,
    bundle: Path | None,
    camera: str | None,
    watch: bool,
    frames: int | None,
    state: Path | None,
    port: int | None,
    open_page: bool,
    no_page: bool,
) -> None:
    """Find and classify white cells in the camera's frames.

    Stores the results. Ends with the camera or at Ctrl-C.
    """
    import sys

    from bloodedge.errors import BloodedgeError, UsageError
    from bloodedge_device.daemon.loop import run_device
    from bloodedge_device.settings import DeviceSettings, read_settings, with_options
    from bloodedge_device.settings.sections import WebSettings
    from bloodedge_device.system.logs import configure_logging
    from bloodedge_device.system.process import process_began_s
    from bloodedge_device.web.browser import open_in_browser

    if no_page and (open_page or port is not None):
        raise UsageError("--no-page cannot be combined with --open or --port; remove one of them.")

    def read() -> DeviceSettings:
        settings = with_options(read_settings(config, state), bundle=bundle, camera=camera, watch=watch, port=port)
        return settings.model_copy(update={"web": WebSettings(enabled=False)}) if no_page else settings

    configure_logging(sys.stderr)
    settings = read()
    if (open_page or port is not None) and not (no_page or settings.web.enabled):
        raise UsageError("The settings switch the page off ([web] enabled); change that, or remove --open and --port.")
    summary = run_device(settings, frames, process_began_s(), read, open_in_browser if open_page else None)
    click.echo("\n".join(summary.lines(settings.state)))
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.read_nothing:
        raise BloodedgeError(f"No frame could be read: {summary.problem}")


@device.command("config")
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path), help=f"Settings (TOML; default: {BOARD_HELP})."
)
@click.option("--check", is_flag=True, help="Only check the settings and the files that they name.")
@click.option("--reference", is_flag=True, help="Write every setting with its default and meaning.")
@click.option("--board", metavar="NAME", help="Write the settings for a board, such as raspberry-pi-5.")
def config_command(config: Path | None, check: bool, reference: bool, board: str | None) -> None:
    """Show the settings that a run would have.

    They come from the environment, the file, the camera profile and the defaults, in this order:
    BLOODEDGE_DEVICE__CAMERA__RATE=5 overrides [camera] rate. Users, passwords and parameters in addresses are hidden
    (***).
    """
    import tomli_w

    from bloodedge.console import emit_toml
    from bloodedge.errors import UsageError
    from bloodedge.redact import redacted_values
    from bloodedge_device.settings import missing_files, read_settings

    if reference:
        from bloodedge_device.settings.example_file import reference as example

        emit_toml(example())
        return
    if board is not None:
        from bloodedge_device.settings.board_profiles import settings_text

        emit_toml(settings_text(board))
        return
    settings = read_settings(config)
    if not check:
        emit_toml(tomli_w.dumps(redacted_values(settings.model_dump(mode="json", exclude_none=True))))
    elif missing := missing_files(settings):
        raise UsageError("\n  ".join(["The settings name files that cannot be used:", *missing]))
    else:
        click.echo("The settings are right.")


@device.command("report")
@state_option
@click.option("--slide", metavar="ID", type=click.IntRange(min=1), help="Which slide (default: the latest).")
@click.option("--json", "json_target", metavar="FILE|-", help="Write the report as JSON to a file, or to stdout for -.")
@click.option(
    "--html", "html_target", metavar="FILE", type=click.Path(path_type=Path), help="Write the report as one HTML file."
)
@click.option(
    "--hl7",
    "hl7_target",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the differential as an HL7 v2 message (ORU^R01).",
)
@click.option(
    "--fhir",
    "fhir_target",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the differential as a FHIR bundle (R4, R5).",
)
@click.option("--specimen", metavar="NUMBER", default="", help="The specimen's number, for --hl7 and --fhir.")
def report_command(
    state: Path | None,
    slide: int | None,
    json_target: str | None,
    html_target: Path | None,
    hl7_target: Path | None,
    fhir_target: Path | None,
    specimen: str,
) -> None:
    """Report a slide's figures, and how far to trust them."""
    from bloodedge.console import emit_json
    from bloodedge_device.report.reading import read_report
    from bloodedge_device.settings import default_state

    report = read_report(state or default_state(), slide)
    if json_target:
        emit_json(report.to_json(), json_target)
    if html_target:
        from bloodedge_device.report.page import write_page

        write_page(report, html_target)
    if hl7_target or fhir_target:
        _write_laboratory(report, specimen, hl7_target, fhir_target)
    if json_target != "-":
        from bloodedge_device.report.terminal import show

        show(report)


def _write_laboratory(report: "DeviceReport", specimen: str, hl7_target: Path | None, fhir_target: Path | None) -> None:
    from bloodedge.files import write_bytes
    from bloodedge_device.outputs.laboratory.fhir import fhir_bundle
    from bloodedge_device.outputs.laboratory.hl7 import hl7_message
    from bloodedge_device.outputs.laboratory.results import results_of

    results = results_of(report, specimen)
    if hl7_target:
        write_bytes(hl7_target, hl7_message(results))
    if fhir_target:
        write_bytes(fhir_target, fhir_bundle(results))


@device.command("calibrate")
@click.argument("source", metavar="SOURCE")
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the camera profile (TOML).",
)
@click.option(
    "--frames", metavar="N", type=click.IntRange(min=1), default=30, show_default=True, help="Measure at most N frames."
)
@click.option("--um-per-px", metavar="X", type=click.FloatRange(0.03, 0.5), help="The scale, if known.")
@click.option(
    "--micrometer",
    metavar="UM",
    type=click.FloatRange(min=0, min_open=True),
    help="The frames show a stage micrometer whose divisions are UM micrometres apart.",
)
@click.option(
    "--focus-sweep",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Frames taken while focusing through, in the order of their names.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def calibrate_command(
    source: str,
    out: Path,
    frames: int,
    um_per_px: float | None,
    micrometer: float | None,
    focus_sweep: Path | None,
    force: bool,
) -> None:
    """Measure a camera's scale, focus and light.

    Writes a camera profile. SOURCE is a camera as for run's --camera, over a smear in focus. The scale comes from the
    red cells, unless it is given or the frames show a stage micrometer. Name the profile in the settings: [camera]
    profile = "FILE".
    """
    from bloodedge.console import progress
    from bloodedge.errors import UsageError
    from bloodedge_device.calibration.measure import calibrate
    from bloodedge_device.calibration.table import show
    from bloodedge_device.camera.open import open_camera
    from bloodedge_device.settings import read_settings, with_options
    from bloodedge_device.settings.camera_profile import write_profile

    if um_per_px is not None and micrometer is not None:
        raise UsageError("--um-per-px gives the scale and --micrometer measures it; remove one of them.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another --out, or --force to replace it.")
    settings = read_settings(None, profile=False)  # which this command makes
    camera = open_camera(with_options(settings, camera=source).camera)
    with progress("Calibrating") as update:
        calibration = calibrate(camera, frames, um_per_px, micrometer, focus_sweep, update)
    write_profile(calibration.profile, out)
    show(calibration)
    click.echo(f'Camera profile: {out}. Name it in the settings: [camera] profile = "{out.name}"')
