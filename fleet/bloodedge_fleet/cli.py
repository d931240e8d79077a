"""``bloodedge fleet``: a laboratory's boards, seen and kept up to date from one place."""

import math
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bloodedge.errors import UsageError
from bloodedge.files import read_text
from bloodedge.text import is_one_line

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from bloodedge_fleet.boards.broker import Broker

MAX_SPAN_S = 30 * 24 * 3600.0
MAX_DAYS = 36_500.0
"""A hundred years, to keep everything."""
MAX_FAILED = 1_000_000
"""More boards than any roll-out has: failures never halt it."""


class Number(click.FloatRange):
    """A number within limits; click's own type takes "nan"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; click's own error where it is outside the range."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


# Whoever opens the file says why it cannot be read.
FOLDER = click.Path(path_type=Path, file_okay=False, readable=False)
FILE = click.Path(path_type=Path, dir_okay=False, readable=False)

state_option = click.option(
    "--state",
    type=FOLDER,
    envvar="BLOODEDGE_FLEET_STATE",
    metavar="FOLDER",
    help="Where the server keeps its files; default: /var/lib/bloodedge-fleet where it runs as a service, else"
    " bloodedge-fleet below ~/.local/state.",
)
database_option = click.option(
    "--database",
    envvar="BLOODEDGE_FLEET_DATABASE",
    metavar="URL",
    help="postgresql://USER@HOST/NAME; default: SQLite in the state folder. Also from $BLOODEDGE_FLEET_DATABASE.",
)
silent_option = click.option(
    "--silent-s",
    type=Number(1, MAX_SPAN_S),
    default=180.0,
    show_default=True,
    help="A board without a report for this long is silent.",
)
json_option = click.option("--json", "json_out", metavar="FILE", help='Write them as JSON; "-": to stdout.')


@click.group()
def fleet() -> None:
    """Collect the boards' reports, show them, and roll bundles out to boards."""


@fleet.command("serve")
@database_option
@state_option
@click.option("--broker", required=True, metavar="HOST:PORT", help="The MQTT broker that the boards report to.")
@click.option("--topic", default="bloodedge", show_default=True, help="The boards' mqtt.topic.")
@click.option("--client", default="bloodedge-fleet", show_default=True, help="This server's name at the broker.")
@click.option("--ca", type=FILE, help="Speak TLS, and check the broker's certificate against this authority's (PEM).")
@click.option("--certificate", type=FILE, help="This server's own certificate for the broker (PEM).")
@click.option("--key", type=FILE, help="Its private key (PEM).")
@click.option("--user", help="User name at the broker.")
@click.option("--password-file", type=FILE, help="A file whose first line is the password.")
@click.option("--listen", default="127.0.0.1:8770", show_default=True, metavar="HOST:PORT", help="Address of the page.")
@click.option("--url", help="Where boards fetch bundles; default: the address of --listen.")
@click.option("--page-certificate", type=FILE, help="Serve the page over TLS (PEM).")
@click.option("--page-key", type=FILE, help="Its private key (PEM).")
@silent_option
@click.option("--keep-days", type=Number(1, MAX_DAYS), default=30.0, show_default=True, help="Keep reports so long.")
def serve_command(
    database: str | None,
    state: Path | None,
    listen: str,
    url: str | None,
    page_certificate: Path | None,
    page_key: Path | None,
    silent_s: float,
    keep_days: float,
    **broker: Any,
) -> None:
    """Collect the boards' reports and serve the page until stopped."""
    import logging

    from bloodedge.log_limits import LogLimits
    from bloodedge_fleet.addresses import host_and_port, require_url
    from bloodedge_fleet.server import Page, serve
    from bloodedge_fleet.state_dir import own_state_folder

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger().handlers[0].addFilter(LogLimits())
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if (page_certificate is None) != (page_key is None):
        raise UsageError("--page-certificate and --page-key belong together; give both, or neither.")
    state = own_state_folder(state)
    host, port = host_and_port(listen, "--listen", lowest=0)
    url = None if url is None else require_url(url)
    serve(
        _open(database, state),
        state,
        _broker(**broker),
        Page(host, port, url, page_certificate, page_key),
        silent=timedelta(seconds=silent_s),
        keep=timedelta(days=keep_days),
    )


def _broker(broker: str, password_file: Path | None, **options: Any) -> "Broker":
    """The broker, from the options ``serve`` has for it."""
    from bloodedge_fleet.addresses import host_and_port
    from bloodedge_fleet.boards.broker import Broker

    topic, certificate = options["topic"], options["certificate"]
    if (certificate is None) != (options["key"] is None):
        raise UsageError("--certificate and --key belong together; give both, or neither.")
    if not topic or any(mark in topic for mark in "+#\0") or topic.startswith("$") or topic != topic.strip("/"):
        raise UsageError(f'"{topic}" cannot begin MQTT topics: leave out +, #, a leading $ and outer slashes.')
    for option in ("topic", "client", "user"):
        if not is_one_line(options[option] or ""):
            raise UsageError(
                f"--{option} holds control characters, or marks that turn the direction of writing; omit them."
            )
    host, port = host_and_port(broker, "--broker")
    tls = options["ca"] is not None or certificate is not None
    return Broker(host, port, tls=tls, password=_first_line(password_file), **options)


def _first_line(path: Path | None) -> str | None:
    if path is None:
        return None
    from bloodedge_fleet.state_dir import unreadable

    try:
        return read_text(path).partition("\n")[0].rstrip("\r")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text; give a file whose first line is the password.") from error


def _open(database: str | None, state: Path | None, *, current: bool = False) -> "Engine":
    from bloodedge_fleet.database import open_database, require_current
    from bloodedge_fleet.state_dir import own_state_folder, state_folder

    engine = open_database(database, state_folder(state) if database else own_state_folder(state))
    if current:
        require_current(engine)
    return engine


@fleet.command("token")
@state_option
def token_command(state: Path | None) -> None:
    """Make a new access token for the page.

    It is shown only once. Other machines need it to read the page.
    """
    from bloodedge.web_access import new_token
    from bloodedge_fleet.state_dir import own_state_folder

    click.echo(new_token(own_state_folder(state)))
    click.echo("Give it as the password in the browser. Restart a server that started without a token.", err=True)


@fleet.command("boards")
@database_option
@state_option
@silent_option
@json_option
def boards_command(database: str | None, state: Path | None, silent_s: float, json_out: str | None) -> None:
    """Every board, the worst first."""
    from bloodedge.console import emit_json
    from bloodedge_fleet.boards.overview import read_boards
    from bloodedge_fleet.database import reading
    from bloodedge_fleet.terminal import board_rows, print_boards

    with reading(_open(database, state, current=True)) as connection:
        boards = read_boards(connection, timedelta(seconds=silent_s))
    if json_out is not None:
        emit_json(board_rows(boards), json_out)
    else:
        print_boards(boards)


@fleet.command("export")
@click.argument("target", metavar="CELLS", type=click.Path(path_type=Path))
@click.argument("exports", metavar="EXPORT...", nargs=-1, required=True, type=click.Path(path_type=Path))
def export_command(target: Path, exports: tuple[Path, ...]) -> None:
    """Put the cells of many boards into one data set that train reads.

    EXPORT is a folder of bloodedge device export, or a board's /api/v1/cells.zip. CELLS is a new folder.
    """
    from bloodedge_fleet.cells import merge

    click.echo(merge(target, exports))


@fleet.command("forget")
@click.argument("board")
@database_option
@state_option
def forget_command(board: str, database: str | None, state: Path | None) -> None:
    """Remove BOARD and everything stored about it."""
    from bloodedge_fleet.boards.archive import board_names, forget
    from bloodedge_fleet.rollouts.store import unknown_board

    engine = _open(database, state, current=True)
    if not forget(engine, board):
        raise unknown_board(board, board_names(engine))
    click.echo(f"{board} is forgotten. If it reports again, it is a new board.")


@fleet.command("rollout")
@click.argument("bundle", type=FILE)
@click.option(
    "--trust", type=FOLDER, metavar="FOLDER", help="Keys that the boards trust, one of which must have signed."
)
@click.option("--unsigned", is_flag=True, help="Check no signature; boards may refuse the bundle.")
@click.option("--boards", metavar="NAMES", help="Names with commas, asked in this order; default: all, by name.")
@click.option("--canary", type=click.IntRange(0), default=1, show_default=True, help="Boards asked first.")
@click.option(
    "--percent", default="10,50,100", show_default=True, help="Shares of the boards asked by each later stage."
)
@click.option(
    "--soak-s",
    type=Number(0, MAX_SPAN_S),
    default=3600.0,
    show_default=True,
    help="Each stage must run it well so long.",
)
@click.option(
    "--halt-on",
    type=click.IntRange(1, MAX_FAILED),
    default=1,
    show_default=True,
    help="This many failed boards halt it.",
)
@database_option
@state_option
def rollout_command(
    bundle: Path,
    trust: Path | None,
    unsigned: bool,
    boards: str | None,
    canary: int,
    percent: str,
    soak_s: float,
    halt_on: int,
    database: str | None,
    state: Path | None,
) -> None:
    """Roll BUNDLE out in stages, by the running server."""
    from bloodedge_fleet.boards.archive import board_names
    from bloodedge_fleet.rollouts.stages import require_ascending
    from bloodedge_fleet.rollouts.store import begin, check_bundle, offer, require_possible
    from bloodedge_fleet.state_dir import command, own_state_folder

    if (trust is None) != unsigned:
        raise UsageError("Give --trust with the folder of the keys that your boards trust (or --unsigned).")
    percents = _percents(percent)
    require_ascending(percents)
    state = own_state_folder(state)
    engine = _open(database, state, current=True)
    checked = check_bundle(bundle, trust)
    names = board_names(engine) if boards is None else [name.strip() for name in boards.split(",") if name.strip()]
    names = list(dict.fromkeys(names))
    require_possible(engine, names)
    digest = offer(engine, state, bundle, checked)
    rollout = begin(engine, digest, names, canary=canary, percents=percents, soak_s=soak_s, halt_on=halt_on)
    stages = ", ".join(str(count) for count in rollout.stages)
    click.echo(f"Roll-out {rollout.name}: {len(rollout.steps)} boards, asked in stages of {stages}.")
    watch, halt = command("rollouts", state), command(f"halt {rollout.name}", state)
    click.echo(f"Watch it with: {watch}; halt it with: {halt}")


def _percents(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UsageError(f'--percent takes ascending shares such as 10,50,100, and not "{text}".') from error


@fleet.command("rollouts")
@database_option
@state_option
@silent_option
@json_option
def rollouts_command(database: str | None, state: Path | None, silent_s: float, json_out: str | None) -> None:
    """Every roll-out with its boards' progress, the newest first."""
    from bloodedge.console import emit_json
    from bloodedge_fleet.database import reading
    from bloodedge_fleet.rollouts.overview import read_rollout_views
    from bloodedge_fleet.terminal import print_rollouts, rollout_rows

    with reading(_open(database, state, current=True)) as connection:
        found = read_rollout_views(connection, timedelta(seconds=silent_s))
    if json_out is not None:
        emit_json(rollout_rows(found), json_out)
    else:
        print_rollouts(found)


@fleet.command("halt")
@click.argument("rollout")
@database_option
@state_option
def halt_command(rollout: str, database: str | None, state: Path | None) -> None:
    """Halt ROLLOUT; boards that run its bundle keep it."""
    from bloodedge_fleet.rollouts.store import halt

    halt(_open(database, state, current=True), rollout, "Halted by a person.")
    click.echo(f"Roll-out {rollout} is halted. Boards that run its bundle keep it; on each: bloodedge device rollback")
