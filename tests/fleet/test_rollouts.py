"""Roll-outs over a real broker, with files that boards can fetch."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import Engine

from bloodedge.board import Wanted, read_message
from bloodedge.bundle import Bundle
from bloodedge.cli import cli
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import sha256
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle
from bloodedge.signing.trust import trust
from bloodedge_fleet.boards.archive import Archive, forget
from bloodedge_fleet.boards.listening import Broker, Listener
from bloodedge_fleet.database import migrate, open_database, reading
from bloodedge_fleet.rollouts.record import begin, bundle_file, halt, read_rollouts, wishes
from bloodedge_fleet.rollouts.stages import Rollout
from bloodedge_fleet.rollouts.steering import Steering

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import Broker as Mosquitto
from fleet_fakes import offered, report, until
from test_archive import sent

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from nobody import NOBODY, nobody_s_place

RELEASED = Path(__file__).resolve().parents[2] / "models" / "cells.bundle"
URL = "http://127.0.0.1:8770"
AT_ONCE: dict[str, Any] = {"canary": 1, "percents": [100], "soak_s": 0.0, "halt_on": 1}


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


def steering(engine: Engine, told: list[tuple[str, bytes]]) -> Steering:
    def publish(board: str, topic: str, payload: bytes) -> bool:
        assert topic == "wanted"
        told.append((board, payload))
        return True

    return Steering(engine, publish, URL)


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
    thread = steering(engine, told)
    thread.look(datetime.now(UTC))
    asked = {board: payload for board, payload in told if payload}
    assert list(asked) == ["b"]
    wanted = read_message(Wanted, asked["b"])
    assert (wanted.sha256, wanted.rollout) == (digest, begun.name)
    assert wanted.url == f"{URL}/bundles/{digest}"
    assert wanted.size_bytes == RELEASED.stat().st_size
    archive.store(sent("b", report(2, bundle_sha256=digest)))
    told.clear()
    thread.look(datetime.now(UTC))  # b is good, and so for long enough
    assert {board for board, payload in told if payload} == {"a", "c"}
    for name in ("a", "c"):
        archive.store(sent(name, report(2, bundle_sha256=digest)))
    thread.look(datetime.now(UTC))
    assert the_rollout(engine).state == "done"
    told.clear()
    thread.look(datetime.now(UTC))
    assert told == []
    assert set(wishes(engine, URL).values()) == {b""}


def test_a_failure_halts_it_and_withdraws_what_was_asked(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    for name in ("a", "b", "c", "d"):
        archive.store(sent(name, report(1)))
    digest = offered(engine, state, RELEASED)
    begun = begin(engine, digest, ["a", "b", "c", "d"], **AT_ONCE | {"canary": 2})
    told: list[tuple[str, bytes]] = []
    thread = steering(engine, told)
    thread.look(datetime.now(UTC))
    assert {board for board, payload in told if payload} == {"a", "b"}
    no = {"rollout": begun.name, "state": "refused", "sentence": "The key is revoked; get it signed with another."}
    archive.store(sent("b", report(2, wanted=no)))
    told.clear()
    thread.look(datetime.now(UTC))
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
    steering(engine, []).look(datetime.now(UTC))
    assert the_rollout(engine).state == "halted"


def test_a_board_takes_part_in_one_rollout_at_a_time(engine: Engine, state: Path) -> None:
    Archive(engine).store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    first = begin(engine, digest, ["a"], **AT_ONCE)
    with pytest.raises(UsageError, match=f"a is part of roll-out {first.name}, which runs"):
        begin(engine, digest, ["b", "a"], **AT_ONCE)
    with pytest.raises(UsageError, match=r'No board "bb" has reported\. Did you mean "b"\?'):
        begin(engine, digest, ["bb"], **AT_ONCE)
    begin(engine, digest, ["b"], **AT_ONCE)


def test_a_board_forgotten_in_the_middle_does_not_hold_it_up(engine: Engine, state: Path) -> None:
    archive = Archive(engine)
    archive.store([*sent("a", report(1)), *sent("b", report(1))])
    digest = offered(engine, state, RELEASED)
    begin(engine, digest, ["a", "b"], **AT_ONCE)
    archive.store(sent("a", report(2, bundle_sha256=digest)))
    forget(engine, "b")
    thread = steering(engine, [])
    thread.look(datetime.now(UTC))
    assert the_rollout(engine).state == "done"


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
    thread = Steering(engine, listener.publish, URL)
    listener.start(lambda _: None, thread.tell_anew)
    assert until(lambda: listener.connected)
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
        (("serve", "--broker", "h:1", "--listen", "x"), "--listen takes HOST:PORT"),
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
def test_what_another_user_keeps_closed_is_one_sentence(words: str) -> None:
    with nobody_s_place() as nobody:
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
