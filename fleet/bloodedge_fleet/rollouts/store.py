"""Roll-outs in the database, and the bundle files that they offer."""

import json
import secrets
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, select, union, update

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, UsageError, did_you_mean
from bloodedge.files import sha256, write_beside
from bloodedge.fleet_messages import Wanted
from bloodedge.signing.signature import verify_bundle
from bloodedge.signing.trust import TrustStore
from bloodedge_fleet.addresses import bundle_url
from bloodedge_fleet.boards.overview import read_last_report, read_unreachable
from bloodedge_fleet.database import Values, hold, insert_into, reading, writing
from bloodedge_fleet.database.tables import boards, bundles, forgotten, rollout_boards, rollouts
from bloodedge_fleet.rollouts.stages import LastReport, Rollout, Step, plan, require_boards
from bloodedge_fleet.state_dir import require_readable, unreadable

FOLDER = "bundles"
STEP = ("state", "since", "why", "boot", "uptime_s")
"""Columns of a step."""


def bundle_file(state: Path, digest: str) -> Path:
    """The file of an offered bundle."""
    return state / FOLDER / f"{digest}.bundle"


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle that was checked, and who signed it."""

    sha256: str
    """SHA-256 of the bundle's file."""
    name: str
    serial: int
    signer: str
    """Empty where no signature was asked for."""


def check_bundle(path: Path, trust: Path | None) -> CheckedBundle:
    """Check a bundle's file.

    trust: the folder of trusted keys; None: the signature is not checked. Raises UsageError or BloodedgeError when it
    is no bundle, or none of those keys signed it.
    """
    require_readable(path)
    with Bundle(path) as bundle:
        bundle.verify()
        signer = "" if trust is None else _signer(bundle, trust)
        return CheckedBundle(sha256(path), bundle.manifest.name, bundle.manifest.serial, signer)


def offer(engine: Engine, state: Path, path: Path, checked: CheckedBundle) -> str:
    """Offer a checked bundle to boards; returns its SHA-256."""
    target = bundle_file(state, checked.sha256)
    write_beside(target, lambda copy: shutil.copyfile(path, copy))
    if sha256(target) != checked.sha256:
        target.unlink()
        raise BloodedgeError(f"{path} changed while it was read; give it again.")
    row = {**asdict(checked), "size_bytes": target.stat().st_size, "added_at": datetime.now(UTC)}
    with writing(engine) as connection:
        connection.execute(insert_into(connection, bundles).values(row).on_conflict_do_nothing())
    return checked.sha256


def require_possible(engine: Engine, names: Sequence[str]) -> None:
    """UsageError when there is no board, or one is unknown or part of another running roll-out."""
    require_boards(len(names))
    with reading(engine) as connection:
        _require_free(connection, _ids_of(connection, names))


def _signer(bundle: Bundle, trust: Path) -> str:
    try:
        next(trust.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{trust} does not exist; give the folder of the keys that your boards trust.") from error
    except OSError as error:
        raise unreadable(trust, error) from error
    signer = verify_bundle(bundle, TrustStore.read(trust))
    return f"{signer.name} ({signer.key_id})"


def begin(
    engine: Engine,
    digest: str,
    names: Sequence[str],
    *,
    canary: int,
    percents: Sequence[float],
    soak_s: float,
    halt_on: int,
) -> Rollout:
    """Begin a roll-out of an offered bundle to boards, in the order of their names here.

    Raises UsageError when a board is unknown or part of another running roll-out.
    """
    stages = plan(len(names), canary, percents)
    now = datetime.now(UTC)
    name = f"{now:%Y%m%d}-{secrets.token_hex(3)}"
    steps = tuple(Step(board, "waiting", now) for board in names)
    rollout = Rollout(name, digest, stages, soak_s, halt_on, steps)
    with writing(engine) as connection:
        hold(connection, rollouts)  # or two could begin at once with the same board
        ids = _ids_of(connection, names)
        _require_free(connection, ids)
        connection.execute(rollouts.insert(), {"name": name, "sha256": digest, "began": now, **_figures(rollout)})
        connection.execute(
            rollout_boards.insert(),
            [
                {"rollout": name, "board": ids[step.board], "place": place, **_step_values(step)}
                for place, step in enumerate(steps)
            ],
        )
    return rollout


def unknown_board(name: str, known: Iterable[str]) -> UsageError:
    """The error for a board's name that is not known."""
    return UsageError(f'No board "{name}" has reported.{did_you_mean(name, known)} See: bloodedge fleet boards')


def _ids_of(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    known = dict(connection.execute(select(boards.c.name, boards.c.id)).tuples().all())
    for name in names:
        if name not in known:
            raise unknown_board(name, known)
    return {name: known[name] for name in names}


def _require_free(connection: Connection, ids: dict[str, int]) -> None:
    query = (
        select(rollout_boards.c.board, rollouts.c.name)
        .join(rollouts, rollouts.c.name == rollout_boards.c.rollout)
        .where(rollouts.c.state == "running")
    )
    busy = dict(connection.execute(query).tuples().all())
    for name, number in ids.items():
        if number in busy:
            raise UsageError(
                f"{name} is part of the running roll-out {busy[number]}; wait for its end, or halt it with:"
                f" bloodedge fleet halt {busy[number]}"
            )


def halt(engine: Engine, name: str, why: str) -> None:
    """Halt a running roll-out: no further board is asked. UsageError when there is no such roll-out."""
    with writing(engine) as connection:
        running = connection.execute(select(rollouts.c.state).where(rollouts.c.name == name)).scalar_one_or_none()
        if running is None:
            raise UsageError(f'There is no roll-out "{name}"; see: bloodedge fleet rollouts')
        if running != "running":
            raise UsageError(f"Roll-out {name} is {running}; there is nothing to halt.")
        values = {"state": "halted", "why": why, "ended": datetime.now(UTC)}
        connection.execute(update(rollouts).where(rollouts.c.name == name).values(values))


def store(engine: Engine, before: Rollout, after: Rollout) -> bool:
    """Store a roll-out's progress; False, and nothing is stored, when somebody has halted it meanwhile."""
    with writing(engine) as connection:
        values: Values = _figures(after) | ({} if after.state == "running" else {"ended": datetime.now(UTC)})
        still = (rollouts.c.name == after.name, rollouts.c.state == "running")
        if connection.execute(update(rollouts).where(*still).values(values)).rowcount == 0:
            return False
        ids = _ids_of(connection, [step.board for step in after.steps])
        for old, new in zip(before.steps, after.steps, strict=True):
            if old != new:
                where = (rollout_boards.c.rollout == after.name, rollout_boards.c.board == ids[new.board])
                connection.execute(update(rollout_boards).where(*where).values(_step_values(new)))
    return True


def _figures(rollout: Rollout) -> Values:
    same = {name: getattr(rollout, name) for name in ("soak_s", "halt_on", "state", "stage", "why")}
    return {"stages": json.dumps(rollout.stages), **same}


def _step_values(step: Step) -> Values:
    return {name: getattr(step, name) for name in STEP}


def read_rollouts(
    connection: Connection, *, running: bool = False, among: Sequence[str] | None = None
) -> list[tuple[Rollout, Row[Any]]]:
    """(roll-out, its row with began, ended and its bundle), the newest first; among: names, default of all."""
    of_bundle = (bundles.c.name.label("bundle"), bundles.c.serial, bundles.c.size_bytes, bundles.c.signer)
    query: Select[Any] = (
        select(*rollouts.c, *of_bundle)
        .join(bundles, bundles.c.sha256 == rollouts.c.sha256)
        .order_by(rollouts.c.began.desc())
    )
    of_step = (rollout_boards.c[name] for name in STEP)
    of_boards = (
        select(rollout_boards.c.rollout, boards.c.name, *of_step)
        .join(boards, boards.c.id == rollout_boards.c.board)
        .join(rollouts, rollouts.c.name == rollout_boards.c.rollout)
        .order_by(rollout_boards.c.place)
    )
    if running:
        query, of_boards = (one.where(rollouts.c.state == "running") for one in (query, of_boards))
    if among is not None:
        query, of_boards = (one.where(rollouts.c.name.in_(among)) for one in (query, of_boards))
    steps: dict[str, list[Step]] = {}
    for rollout, *values in connection.execute(of_boards):
        steps.setdefault(rollout, []).append(Step(*values))
    found: list[tuple[Rollout, Row[Any]]] = []
    for row in connection.execute(query):
        own = tuple(steps.get(row.name, ()))
        stages = tuple(min(count, len(own)) for count in json.loads(row.stages))  # some boards may be forgotten
        stage = min(row.stage, len(stages) - 1)
        figures = (row.soak_s, row.halt_on, own, row.state, stage, row.why)
        found.append((Rollout(row.name, row.sha256, stages, *figures), row))
    return found


def last_reports(connection: Connection, silent: timedelta, now: datetime) -> dict[str, LastReport]:
    """The last report, where it can be read, of every board that a running roll-out has asked, by name.

    Others' reports are no answers, and there may be ten thousand of them. silent: as for read_boards.
    """
    unreachable = read_unreachable(connection, silent, now)
    asked = select(rollout_boards.c.board).join(rollouts, rollouts.c.name == rollout_boards.c.rollout)
    asked = asked.where(rollouts.c.state == "running", rollout_boards.c.state != "waiting")
    columns = select(boards.c.name, boards.c.report, boards.c.last_report)
    query = columns.where(boards.c.report.is_not(None), boards.c.id.in_(asked))
    read = ((name, read_last_report(text), at) for name, text, at in connection.execute(query).tuples())
    return {name: LastReport(report, at, name in unreachable) for name, report, at in read if report is not None}


def pending_requests(engine: Engine, url: str) -> dict[str, bytes]:
    """The retained message of every board: the requested bundle while a roll-out asks for it, else nothing.

    Forgotten boards get one too, or the broker would keep the last request for them.
    """
    with reading(engine) as connection:
        names = union(select(boards.c.name), select(forgotten.c.name))
        requests = dict.fromkeys(connection.execute(names).scalars(), b"")
        for rollout, row in read_rollouts(connection, running=True):
            offered = {"serial": row.serial, "size_bytes": row.size_bytes, "url": bundle_url(url, rollout.sha256)}
            wanted = Wanted(rollout=rollout.name, name=row.bundle, sha256=rollout.sha256, **offered)
            payload = wanted.model_dump_json().encode()
            for step in rollout.in_stage:
                if step.state != "failed":
                    requests[step.board] = payload
    return requests
