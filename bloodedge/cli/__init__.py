"""The ``bloodedge`` command; a stage's commands are imported only when they are called."""

import importlib
import io
import os
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from bloodedge import RESEARCH_USE, __version__
from bloodedge.console import runtimes_aside
from bloodedge.errors import BloodedgeError, UsageError, as_owner, did_you_mean, system_sentence
from bloodedge.redact import redacted
from bloodedge.text import PLAIN_OUTPUT

COMMANDS = {
    "data": ("bloodedge.cli.data:data", "Check a data set before trusting figures from it."),
    "train": ("bloodedge_train.cli.train:train", "Fit a network to a folder of cells; writes a run folder."),
    "sweep": ("bloodedge_train.cli.sweep:sweep", "Train with many settings on Ray Tune and rank them by validation."),
    "convert": ("bloodedge_convert.cli:convert", "Turn a run into a bundle of int8 models that passed the gate."),
    "finetune": ("bloodedge_convert.finetune_cli:finetune", "Fit a bundle's head to a bench's reviewed cells."),
    "report": ("bloodedge.cli.report:report", "Open a bundle's conversion report in the browser."),
    "rates": ("bloodedge.cli.rates:rates", "Measure how often a bundle errs and refuses, on more people."),
    "keys": ("bloodedge.cli.keys:keys", "Make, trust and revoke the keys that sign bundles."),
    "sign": ("bloodedge.cli.keys:sign", "Sign a bundle."),
    "verify": ("bloodedge.cli.keys:verify", "Show who signed a bundle, or why it cannot be trusted."),
    "evaluate": ("bloodedge.cli.evaluate:evaluate", "Score a run or a bundle on held-out cells, with intervals."),
    "bench": ("bloodedge.cli.bench:bench", "Measure latency, memory and size of a bundle's artifacts on this machine."),
    "compare": (
        "bloodedge_train.cli.compare:compare",
        "Compare networks with each other and with the paper.",
    ),
    "explain": (
        "bloodedge_train.cli.explain:explain",
        "Show where in a cell the network finds its evidence (Grad-CAM).",
    ),
    "shortcuts": (
        "bloodedge_train.cli.explain:shortcuts",
        "Cues outside a cell's inside that predict its class.",
    ),
    "find": ("bloodedge_device.cli.find:find", "Find white cells in full-field frames."),
    "predict": ("bloodedge_device.cli.predict:predict", "Say of the cells in any pictures what they are."),
    "device": ("bloodedge_device.cli.device:device", "Run the daemon beside the microscope, and report on it."),
    "fleet": ("bloodedge_fleet.cli:fleet", "Serve many boards: their reports, a page, roll-outs of bundles."),
    "demo": (
        "bloodedge.cli.demo:demo",
        "Train, convert, run and report on simulated cells; offline, in minutes.",
    ),
}


LOGGING = {"device", "fleet", "demo"}
"""Commands whose stderr is a log, which keeps what runtimes print."""


class LazyGroup(click.Group):
    """Subcommands named in a table and imported when called, so that ``--help`` loads no runtime."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command itself; None when the name is unknown."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing:  # a shell is completing words: nothing may be printed
                return None
            raise UsageError(_not_installed(f'"bloodedge {name}"', name, error)) from error
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own, with a suggestion for a misspelt name."""
        if not ctx.resilient_parsing and args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise UsageError(f'There is no command "{args[0]}".{did_you_mean(args[0], COMMANDS)} See: bloodedge --help')
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What the shell offers: names from the table and this group's options; click's own imports every command."""
        names = [CompletionItem(name, help=text) for name, (_, text) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The table of commands, from the table above rather than from each command's module."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


EXTRAS = {"bloodedge_train": "train", "bloodedge_convert": "convert", "bloodedge_fleet": "fleet"}
"""By a command's package; the core's own commands need an engine, which the device extra has."""


def _not_installed(what: str, name: str, error: ModuleNotFoundError) -> str:
    from bloodedge.installation import install_hint

    package = (error.name or "").split(".")[0]
    stage = COMMANDS[name][0].partition(".")[0] if name in COMMANDS else ""
    extra = "sweep" if name == "sweep" else EXTRAS.get(stage, "device")
    return f"{what} needs {package}, which is not installed; {install_hint(extra)}"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Leukaemia-cell classifiers from GPU training to the board beside the microscope.\n\n{RESEARCH_USE}",
)
@click.version_option(__version__, prog_name="bloodedge")
def cli() -> None:
    """Root command."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _tolerate_encodings()
    try:
        logs = not LOGGING.isdisjoint((arguments or sys.argv[1:])[:1])
        with nullcontext() if logs else runtimes_aside():
            cli.main(args=arguments, prog_name="bloodedge", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the pipe has ended
        _drop_output()
        sys.exit(1)
    except BloodedgeError as error:
        click.echo(f"bloodedge: {redacted(str(error))}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("bloodedge"):
            raise
        name = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        click.echo(f"bloodedge: {_not_installed('this command', name, error)}", err=True)
        sys.exit(UsageError.exit_code)
    except OSError as error:
        sys.exit(_report_os_error(error))
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        click.echo(redacted(shown.getvalue()), err=True, nl=False)
        if cure := _permission_cure(error.message):
            click.echo(cure, err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("bloodedge: interrupted; what was finished is kept.", err=True)
        sys.exit(130)
    sys.exit(0)


def _report_os_error(error: OSError) -> int:
    """Print what the operating system refused and return the exit code; raise what is more likely a bug."""
    sentence = system_sentence(error)
    if sentence is None:
        raise error
    click.echo(f"bloodedge: {redacted(sentence)}", err=True)
    if error.filename is None:  # perhaps stdout itself, which would fail again at exit
        _drop_output()
    return BloodedgeError.exit_code


def _tolerate_encodings() -> None:
    """Spell in ASCII what the output's encoding lacks; Python would end with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN_OUTPUT)


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _permission_cure(message: str) -> str:
    """Who may use a path that click calls not readable or not writable; empty for any other message."""
    closed = re.search(r"""(['"])(?P<path>.*)\1 is not (read|writ)able\.$""", message)
    if closed is None:
        return ""
    cure = as_owner(Path(closed["path"]))
    return f"{cure[0].upper()}{cure[1:]}."
