"""Roll-outs over a real broker, with files that boards can fetch."""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from time import sleep
from typing import Any

import pytest
from click.testing import CliRunner
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import Engine, update

from bloodedge.bundle import Bundle
from bloodedge.cli import cli
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import sha256
from bloodedge.fleet_messages import Wanted, read_message
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle
from bloodedge.signing.trust import trust
from bloodedge.web_socket import listen
from bloodedge_fleet import database
from bloodedge_fleet.boards.archive import Archive, Received, forget
from bloodedge_fleet.boards.broker import Broker
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.database import DATABASE, DatabaseError, migrate, open_database, reading, writing
from bloodedge_fleet.database.tables import boards
from bloodedge_fleet.rollouts.controller import EVERY_S, RolloutController
from bloodedge_fleet.rollouts.overview import read_rollout_views
from bloodedge_fleet.rollouts.stages import Rollout
from bloodedge_fleet.rollouts.store import begin, bundle_file, halt, last_reports, pending_requests, read_rollouts
from bloodedge_fleet.server import Page, _log_address, _own_url
from support.fleet_fakes import AT_ONCE, RELEASED, offered, report, sent
from support.mqtt import Broker as Mosquitto
from support.nobody import NOBODY, Nobody
from support.waiting import until

URL = "http://127.0.0.1:8770"
SILENT = timedelta(minutes=3)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with lab.key, and the trust store beside it."""
    _, _, key = new_key("lab", tmp_path / "keys")
    trust(tmp_path / "trust", key)
    return tmp_path / "keys"


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    """A bundle that a trusted key signed."""
    path = tmp_path / "signed.bundle"
    path.write_bytes(RELEASED.read_bytes())
    sign_bundle(path, read_private_key(keys / "lab.key"))
    return path


def the_rollout(engine: Engine) -> Rollout:
    with reading(engine) as connection:
        ((rollout, _),) = read_rollouts(connection)
    return rollout


def controller(
    engine: Engine, told: list[tuple[str, bytes]], is_current: Callable[[], bool] = lambda: True
) -> RolloutController:
    def publish(board: str, topic: str, payload: bytes) -> bool:
        assert topic == "wanted"
        told.append((board, payload))
        return True

    return RolloutController(engine, publish, is_current, URL, SILENT)


@contextmanager
def locked(url: str | None, state: Path) -> Iterator[None]:
    """Another program holds the roll-outs."""
    if url is None:
        with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            yield
    else:
        import psycopg

        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE rollouts, rollout_boards IN ACCESS EXCLUSIVE MODE")
            yield


def test_a_rollout_waits_for_a_locked_database_and_is_halted_once_that_is_free(
    url: str | None, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ANSWER_WITHIN_S", 1)
    engine = open_database(url, state)
    try:
        migrate(engine)
        Archive(engine).store(sent("a", report(1)))
        begun = begin(engine, offered(engine, state, RELEASED), ["a"], **AT_ONCE)
        told: list[tuple[str, bytes]] = []
        with locked(url, state):
            with pytest.raises(DatabaseError, match="another program keeps it locked: end that program, or try again"):
                halt(engine, begun.name, "by hand")
            with pytest.raises(DatabaseError, match="keeps it locked"):
                controller(engine, told).check(datetime.now(UTC))
        assert told == []
        assert the_rollout(engine).state == "running"
        controller(engine, told).check(datetime.now(UTC))
        assert [board for board, _ in told] == ["a"]
        halt(engine, begun.name, "by hand")
        assert the_rollout(engine).state == "halted"
    finally:
        engine.dispose()


def test_a_signed_bundle_is_offered_whole_and_an_unsigned_one_is_not(
    engine: Engine, state: Path, signed: Path, tmp_path: Path
) -> None:
    digest = offered(engine, state, signed, tmp_path / "trust")
    assert digest == sha256(signed)
    with Bundle(bundle_file(state, digest)) as bundle:
        bundle.verify()
    with pytest.raises(BloodedgeError, match="not signed"):
        offered(engine, state, RELEASED, tmp_path / "trust")
    with pytest.raises(UsageError, match="does not exist"):
        offered(engine, state, signed, tmp_path / "mistyped")
    with pytest.raises(UsageError, match="is a folder"):
        offered(engine, state, tmp_path, tmp_path / "trust")
    changed = tmp_path / "changed.bundle"
    changed.write_bytes(signed.read_bytes()[:-40])
    with pytest.raises(BloodedgeError):
        offered(engine, state, changed, tmp_path / "trust")
    assert [path.name for path in (state / "bundles").iterdir()] == [f"{digest}.bundle"]


def test_a_rollout_goes_from_the_canary_to_all_as_boards_report(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    for name in ("a", "b", "c"):
        archive.store(sent(name, report(1)))
    digest = offered(engine, state, RELEASED)
    begun = begin(engine, digest, ["b", "a", "c"], **AT_ONCE)
    assert begun.stages == (1, 3)
    told: list[tuple[str, bytes]] = []
    thread = controller(engine, told)
    thread.check(datetime.now(UTC))
    asked = {board: payload for board, payload in told if payload}
    assert list(asked) == ["b"]
    wanted = read_message(Wanted, asked["b"])
    assert (wanted.sha256, wanted.rollout) == (digest, begun.name)
    assert wanted.url == f"{URL}/bundles/{digest}"
    assert wanted.size_bytes == RELEASED.stat().st_size
    archive.store(sent("b", report(2, bundle_sha256=digest)))
    told.clear()
    thread.check(datetime.now(UTC))  # b is good, and so for long enough
    assert {board for board, payload in told if payload} == {"a", "c"}
    for name in ("a", "c"):
        archive.store(sent(name, report(2, bundle_sha256=digest)))
    thread.check(datetime.now(UTC))
    assert the_rollout(engine).state == "done"
    told.clear()
    thread.check(datetime.now(UTC))
    assert told == []
    assert set(pending_requests(engine, URL).values()) == {b""}


def test_only_reports_of_boards_that_were_asked_are_read(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    for name in ("a", "b", "c"):
        archive.store(sent(name, report(1)))

    def read() -> set[str]:
        with reading(engine) as connection:
            return set(last_reports(connection, SILENT, datetime.now(UTC)))

    begin(engine, offered(engine, state, RELEASED), ["b", "a", "c"], **AT_ONCE)
    assert read() == set()
    controller(engine, []).check(datetime.now(UTC))
    assert read() == {"b"}
    halt(engine, the_rollout(engine).name, "enough")
    assert read() == set()


def test_a_failure_halts_it_and_withdraws_what_was_asked(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    for name in ("a", "b", "c", "d"):
        archive.store(sent(name, report(1)))
    digest = offered(engine, state, RELEASED)
    begun = begin(engine, digest, ["a", "b", "c", "d"], **AT_ONCE | {"canary": 2})
    told: list[tuple[str, bytes]] = []
    thread = controller(engine, told)
    thread.check(datetime.now(UTC))
    assert {board for board, payload in told if payload} == {"a", "b"}
    no = {"rollout": begun.name, "state": "refused", "sentence": "The key is revoked; get it signed with another."}
    archive.store(sent("b", report(2, wanted=no)))
    told.clear()
    thread.check(datetime.now(UTC))
    halted = the_rollout(engine)
    assert halted.state == "halted"
    assert halted.why == "b: The key is revoked; get it signed with another."
    assert sorted(told) == [("a", b""), ("b", b"")]


def test_a_person_s_halt_is_not_overtaken(engine: Engine, state: Path) -> None:
    Archive(engine).store(sent("a", report(1)))
    begun = begin(engine, offered(engine, state, RELEASED), ["a"], **AT_ONCE)
    halt(engine, begun.name, "Halted by a person.")
    with pytest.raises(UsageError, match="is halted; there is nothing to halt"):
        halt(engine, begun.name, "Again.")
    with pytest.raises(UsageError, match="There is no roll-out"):
        halt(engine, "other", "")
    controller(engine, []).check(datetime.now(UTC))
    assert the_rollout(engine).state == "halted"


def test_a_board_takes_part_in_one_rollout_at_a_time(engine: Engine, state: Path) -> None:
    Archive(engine).store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    first = begin(engine, digest, ["a"], **AT_ONCE)
    with pytest.raises(UsageError, match=f"a is part of the running roll-out {first.name}"):
        begin(engine, digest, ["b", "a"], **AT_ONCE)
    with pytest.raises(UsageError, match=r'No board "bb" has reported\. Did you mean "b"\?'):
        begin(engine, digest, ["bb"], **AT_ONCE)
    begin(engine, digest, ["b"], **AT_ONCE)


def test_a_board_forgotten_in_the_middle_does_not_hold_it_up(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    archive.store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    begin(engine, digest, ["a", "b"], **AT_ONCE)
    thread = controller(engine, [])
    thread.check(datetime.now(UTC))
    archive.store(sent("a", report(2, bundle_sha256=digest)))
    forget(engine, "b")
    thread.check(datetime.now(UTC))
    assert the_rollout(engine).state == "done"


def test_two_rollouts_that_begin_at_once_do_not_share_a_board(engine: Engine, state: Path) -> None:
    Archive(engine).store(sent("a", report(1)))
    digest = offered(engine, state, RELEASED)

    def attempt(start: Barrier) -> str:
        start.wait()
        try:
            return begin(engine, digest, ["a"], **AT_ONCE).name
        except UsageError:
            return ""

    for _ in range(8):
        start = Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            begun = [name for name in threads.map(attempt, [start, start]) if name]
        assert len(begun) == 1
        halt(engine, begun[0], "Halted by a person.")


def soaking(engine: Engine, state: Path) -> str:
    """A canary has reported at once that it runs the bundle well, for an hour of soak; the bundle's digest."""
    archive = Archive(engine)
    for name in ("a", "b", "c"):
        archive.store(sent(name, report(1)))
    digest = offered(engine, state, RELEASED)
    begin(engine, digest, ["a", "b", "c"], **AT_ONCE | {"soak_s": 3600.0})
    thread = controller(engine, [])
    thread.check(datetime.now(UTC))
    archive.store(sent("a", report(2, bundle_sha256=digest)))
    thread.check(datetime.now(UTC))
    assert the_rollout(engine).number("good") == 1
    return digest


@pytest.mark.parametrize("word", [b"online", b"offline", None])
def test_a_canary_that_is_not_heard_of_again_holds_its_rollout(engine: Engine, state: Path, word: bytes | None) -> None:
    soaking(engine, state)
    if word is not None:
        Archive(engine).store([Received("a", "availability", word)])
    told: list[tuple[str, bytes]] = []
    for hours in (1, 24, 720):
        controller(engine, told).check(datetime.now(UTC) + timedelta(hours=hours))
    assert the_rollout(engine).stage == 0
    assert {board for board, payload in told if payload} == {"a"}


def test_a_canary_that_reports_well_for_an_hour_moves_it_on_also_over_a_restart(engine: Engine, state: Path) -> None:
    digest, began = soaking(engine, state), datetime.now(UTC)
    for number in range(3, 63):
        at = began + timedelta(minutes=number - 2)
        assert the_rollout(engine).stage == 0
        Archive(engine, lambda now=at: now).store(sent("a", report(number, bundle_sha256=digest)))
        controller(engine, []).check(at)
    assert the_rollout(engine).stage == 1


def test_a_report_that_cannot_be_read_holds_up_its_own_rollout_alone(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    archive.store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    for name in ("a", "b"):
        begin(engine, digest, [name], **AT_ONCE)
    thread = controller(engine, [])
    thread.check(datetime.now(UTC))
    archive.store([*sent("a", report(2, bundle_sha256=digest)), *sent("b", report(2, bundle_sha256=digest))])
    with writing(engine) as connection:
        connection.execute(update(boards).where(boards.c.name == "a").values(report="{}"))
    thread.check(datetime.now(UTC))
    with reading(engine) as connection:
        states = {rollout.steps[0].board: rollout.state for rollout, _ in read_rollouts(connection)}
    assert states == {"a": "running", "b": "done"}


def test_nothing_moves_on_before_what_boards_have_said_is_stored(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    archive.store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    begun = begin(engine, digest, ["a", "b"], **AT_ONCE)
    told: list[tuple[str, bytes]] = []
    controller(engine, told).check(datetime.now(UTC))
    archive.store(sent("a", report(2, bundle_sha256=digest)))
    told.clear()
    with pytest.raises(BloodedgeError, match="the broker may still hold boards' reports"):
        controller(engine, told, lambda: False).check(datetime.now(UTC))
    assert the_rollout(engine).stage == 0
    assert {board for board, payload in told if payload} == {"a"}  # what was decided before is told
    no = {"rollout": begun.name, "state": "went back", "sentence": "It crashed."}
    archive.store(sent("a", report(3, wanted=no)))
    controller(engine, told).check(datetime.now(UTC))
    assert the_rollout(engine).why == "a: It crashed."


class Board:
    """A board's client that hears what is wanted of it, also what was wanted before it came."""

    def __init__(self, broker: Mosquitto, name: str) -> None:
        self.heard: list[bytes] = []
        self.client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = lambda _, __, message: self.heard.append(bytes(message.payload))
        self.client.on_connect = lambda client, *_: client.subscribe(f"bloodedge/{name}/wanted", 1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker: Mosquitto, engine: Engine) -> Iterator[Listener]:
    made = Listener(Broker("127.0.0.1", broker.port), Archive(engine))
    yield made
    made.stop()


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_boards_hear_of_it_over_the_broker_also_later(
    engine: Engine, state: Path, broker: Mosquitto, listener: Listener
) -> None:
    Archive(engine).store(sent("pi", report(1)))
    thread = RolloutController(engine, listener.publish, listener.is_current, URL, SILENT)
    listener.start(lambda _: None, thread.send_again)
    assert until(lambda: listener.broker.connected)
    thread.start()
    try:
        begun = begin(engine, offered(engine, state, RELEASED), ["pi"], **AT_ONCE)
        early = Board(broker, "pi")
        assert until(lambda: any(early.heard))
        early.stop()
        late = Board(broker, "pi")
        assert until(lambda: any(late.heard))
        assert json.loads(late.heard[-1])["rollout"] == begun.name
        halt(engine, begun.name, "Halted by a person.")
        assert until(lambda: late.heard[-1] == b"")
        late.stop()
    finally:
        thread.stop()


@pytest.mark.slow
@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_what_waited_at_the_broker_is_heard_before_anything_is_decided(
    engine: Engine, state: Path, broker: Mosquitto
) -> None:
    at_broker = Broker("127.0.0.1", broker.port)
    first = Listener(at_broker, Archive(engine))
    first.start(lambda _: None)
    assert until(first.is_current)
    Archive(engine).store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    begun = begin(engine, digest, ["a", "b"], **AT_ONCE)
    controller(engine, []).check(datetime.now(UTC))
    Archive(engine).store(sent("a", report(2, bundle_sha256=digest)))
    first.stop()  # before it has looked at that
    no = {"rollout": begun.name, "state": "went back", "sentence": "It crashed."}
    board = Board(broker, "a")
    board.client.publish("bloodedge/a/report", report(3, wanted=no).model_dump_json(), qos=1).wait_for_publish(10)
    broker.stop()
    second = Listener(at_broker, Archive(engine))
    thread = RolloutController(engine, second.publish, second.is_current, URL, SILENT)
    second.start(lambda _: None, thread.send_again)
    thread.start()
    try:
        assert until(lambda: "No connection" in second.broker.state)
        sleep(2 * EVERY_S)
        assert (the_rollout(engine).state, the_rollout(engine).stage) == ("running", 0)
        broker.start()
        assert until(lambda: the_rollout(engine).state == "halted")
        assert (the_rollout(engine).why, the_rollout(engine).stage) == ("a: It crashed.", 0)
    finally:
        thread.stop()
        second.stop()
        board.stop()


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
@pytest.mark.parametrize("when", ["while the server runs", "before its next start"])
def test_what_a_forgotten_board_was_asked_is_withdrawn(
    engine: Engine, state: Path, broker: Mosquitto, listener: Listener, when: str
) -> None:
    Archive(engine).store(sent("pi", report(1)))
    listener.start(lambda _: None)
    assert until(lambda: listener.broker.connected)
    thread = RolloutController(engine, listener.publish, lambda: True, URL, SILENT)
    begun = begin(engine, offered(engine, state, RELEASED), ["pi"], **AT_ONCE)
    thread.check(datetime.now(UTC))
    asked = Board(broker, "pi")
    assert until(lambda: any(asked.heard))
    asked.stop()
    forget(engine, "pi")
    halt(engine, begun.name, "Halted by a person.")
    if when == "before its next start":
        thread = RolloutController(engine, listener.publish, lambda: True, URL, SILENT)
    thread.check(datetime.now(UTC))
    assert until(listener.is_current)  # the broker has had all that was sent to it
    back = Board(broker, "pi")
    sleep(0.5)
    assert back.heard == []
    back.stop()


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["fleet", *words])


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_the_command_line_begins_shows_and_halts(engine: Engine, state: Path, signed: Path, tmp_path: Path) -> None:
    Archive(engine).store(sent("pi", report(1)))
    at = ("--state", str(state))
    done = run("rollout", str(signed), "--trust", str(tmp_path / "trust"), *at)
    assert done.exit_code == 0, done.output
    name = the_rollout(engine).name
    assert f"Roll-out {name}: 1 boards" in done.output
    shown = run("rollouts", *at)
    assert f"{name}  cells" in shown.output
    assert "1 waiting" in shown.output
    told = json.loads(run("rollouts", "--json", "-", *at).output)
    assert [board["name"] for board in told[0]["boards"]] == ["pi"]
    assert run("halt", name, *at).exit_code == 0
    assert the_rollout(engine).state == "halted"
    assert "pi" in run("boards", *at).output
    (listed,) = json.loads(run("boards", "--json", "-", *at).output)
    assert (listed["name"], listed["report"]["sequence"]) == ("pi", 1)


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("rollout", "BUNDLE"), "Give --trust with the folder"),
        (("rollout", "BUNDLE", "--unsigned", "--percent", "a"), "ascending shares"),
        (("rollout", "BUNDLE", "--unsigned"), "There is no board to roll out to"),
        (("rollout", "nowhere.bundle", "--unsigned"), "does not exist"),
        (("halt", "other"), 'no roll-out "other"'),
        (("forget", "other"), 'No board "other"'),
        (("serve", "--broker", "here"), "--broker takes HOST:PORT"),
        (("serve", "--broker", "h:0"), "--broker takes HOST:PORT"),
        (("serve", "--broker", "h:99999"), "--broker takes HOST:PORT"),
        (("serve", "--broker", "h:²"), "--broker takes HOST:PORT"),
        (("serve", "--broker", "a..b:1"), "--broker takes HOST:PORT"),
        (("serve", "--broker", "h:1", "--listen", "x"), "--listen takes HOST:PORT"),
        (("serve", "--broker", "h:1", "--listen", "a..b:0"), "--listen takes HOST:PORT"),
        (("serve", "--broker", "h:1", "--url", "fleet.example:8770"), "--url takes where boards reach this server"),
        (("serve", "--broker", "h:1", "--url", "https://"), "--url takes"),
        (("serve", "--broker", "h:1", "--url", "https://h:x"), "--url takes"),
        (("serve", "--broker", "h:1", "--url", "https://h/?page"), "--url takes"),
        (("serve", "--broker", "h:1", "--url", "http://0.0.0.0:8770"), "--url takes"),
        (
            ("serve", "--broker", "h:1", "--client", "\x1b[2J"),
            "--client holds control characters",
        ),
        (("boards", "--database", "postgresql://u@h:abc/x"), "cannot be read; give one such as postgresql://"),
        (("boards", "--database", "postgresql://u@a..b/x"), "must be PostgreSQL"),
        (("boards", "--database", "sqlite:////tmp/x.sqlite?foo=1"), "must be PostgreSQL"),
        (("serve", "--broker", "h:1", "--topic", "a/#"), "cannot begin MQTT topics"),
        (("serve", "--broker", "h:1", "--key", "k"), "belong together"),
        (("serve", "--broker", "h:1", "--page-key", "k"), "belong together"),
        (("rollout", "BUNDLE", "--unsigned", "--percent", "50,10"), "ascending shares"),
        (("rollout", "BUNDLE", "--unsigned", "--boards", "pi"), 'No board "pi"'),
        (("serve", "--broker", "h:1", "--listen", "0.0.0.0:0"), "bloodedge fleet token --state STATE"),
        (("serve", "--broker", "h:1", "--listen", "nowhere.invalid:8770"), "nowhere.invalid is not an address"),
        (("serve", "--broker", "h:1", "--page-certificate", "no", "--page-key", "no"), "no does not exist"),
        (
            ("serve", "--broker", "h:1", "--page-certificate", "BUNDLE", "--page-key", "BUNDLE"),
            "give a PEM certificate",
        ),
        (("serve", "--broker", "h:1", "--ca", "gone.pem"), "gone.pem does not exist"),
        (("serve", "--broker", "h:1", "--database", "mysql://x"), "must be PostgreSQL"),
    ],
)
def test_wrong_usage_is_one_sentence(engine: Engine, state: Path, words: tuple[str, ...], sentence: str) -> None:
    assert engine is not None
    done = run(*(str(RELEASED) if word == "BUNDLE" else word for word in words), "--state", str(state))
    assert isinstance(done.exception, UsageError), done.output
    assert sentence.replace("STATE", str(state)) in str(done.exception)
    assert not (state / "bundles").exists()


@pytest.mark.parametrize(
    "words",
    [
        "serve --broker h:1 --keep-days 1000000",
        "serve --broker h:1 --silent-s inf",
        "boards --silent-s 1e15",
        "boards --silent-s nan",
        "rollouts --silent-s nan",
        "rollout x --unsigned --soak-s inf",
        "rollout x --unsigned --soak-s 1e15",
        "rollout x --unsigned --soak-s nan",
        "rollout x --unsigned --halt-on 99999999999",
    ],
)
def test_numbers_have_limits(words: str, state: Path) -> None:
    done = run(*words.split(), "--state", str(state))
    assert done.exit_code == 2
    assert re.search("Invalid value for .* is not in the range", done.output), done.output


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_a_server_that_listens_everywhere_wants_to_know_where_boards_find_it(engine: Engine, state: Path) -> None:
    assert engine is not None
    assert run("token", "--state", str(state)).exit_code == 0
    done = run("serve", "--broker", "h:1", "--listen", "0.0.0.0:0", "--state", str(state))
    assert isinstance(done.exception, UsageError), done.output
    assert "Boards cannot reach 0.0.0.0; give --url" in str(done.exception)


def test_a_server_for_this_machine_alone_says_that_others_find_no_bundles(caplog: pytest.LogCaptureFixture) -> None:
    page = Page("127.0.0.1", 0)
    with listen(page.host, page.port, ("--listen", "--listen")) as listening:
        assert _own_url(page, listening) == f"http://127.0.0.1:{listening.getsockname()[1]}/"
        _log_address(page, listening)
    assert "Boards on other machines cannot fetch bundles there" in caplog.text


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_words_of_boards_are_shown_as_they_are_and_do_nothing_to_the_terminal(engine: Engine, state: Path) -> None:
    wrong = {"camera": {"level": "failed", "sentence": "Gone. \x1b]0;owned\x07\x1b[2J :smile: \u202eabc"}}
    archive = Archive(engine)
    archive.store(sent("a", report(1, bundle_name="cells [/x]", health=wrong)))
    archive.store(sent("b" * 60, report(1, bundle_name="cells [lab 2]")))
    at = ("--state", str(state))
    begin(engine, offered(engine, state, RELEASED), ["a"], **AT_ONCE)
    halt(engine, the_rollout(engine).name, "Stop \x1b[2J")
    for words, shown in (("boards", ["cells [/x]", "cells [lab 2]", "Gone. ", ":smile:"]), ("rollouts", ["Stop "])):
        done = run(words, *at)
        assert done.exit_code == 0, done.output
        assert all(text in done.output for text in shown)
        assert not set("\x1b\x07\u202e") & set(done.output)
    assert "".join(re.findall("b+", run("boards", *at).output)).count("b" * 60)  # on several lines, and whole


@pytest.mark.parametrize("url", [None], ids=["sqlite"])
def test_nobody_waits_for_boards_of_a_halted_rollout(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    for name in ("a", "b"):
        archive.store([*sent(name, report(1)), Received(name, "availability", b"offline")])
    begun = begin(engine, offered(engine, state, RELEASED), ["a", "b"], **AT_ONCE)
    controller(engine, []).check(datetime.now(UTC))
    told = run("rollouts", "--state", str(state)).output
    assert "1 waiting, 1 asked" in told
    assert "a: It has no connection to the broker." in told
    assert "b: " not in told
    halt(engine, begun.name, "Halted by a person.")
    assert "1 not asked, 1 withdrawn" in run("rollouts", "--state", str(state)).output
    with reading(engine) as connection:
        (now,) = read_rollout_views(connection, timedelta(minutes=3))
        (later,) = read_rollout_views(connection, timedelta(minutes=3), now=datetime.now(UTC) + timedelta(days=9))
    assert now.parts == later.parts


@pytest.mark.parametrize(
    "words",
    [
        "rollout closed/cells.bundle --unsigned",
        "rollout own/cells.bundle --trust closed",
        "serve --broker h:1 --listen 127.0.0.1:0 --ca closed/ca.pem",
        "serve --broker h:1 --password-file closed/password",
        "serve --broker h:1 --page-certificate closed/page.pem --page-key closed/page.key",
        "boards --state closed",
        "boards --state closed/inside",
        "token --state closed/inside",
    ],
)
def test_what_another_user_keeps_closed_is_one_sentence(words: str, nobody: Nobody) -> None:
    shutil.copy(RELEASED, nobody.own / "cells.bundle")
    engine = open_database(None, nobody.own / "state")
    migrate(engine)
    engine.dispose()
    for path in (nobody.own / "state", *(nobody.own / "state").iterdir()):
        os.chown(path, NOBODY, NOBODY)
    state = [] if "--state" in words else ["--state", "own/state"]
    code, said = nobody.run("fleet", *words.split(), *state)
    assert code in {1, 2}
    assert said.count("\n") == 1, said
    assert re.search("let this user read it|put sudo -u root before|may not write there", said)
