"""From a real broker into the database: nothing is lost or doubled, whoever is away."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import sleep

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import Engine, select

from bloodedge_fleet.boards.archive import Archive, Outcome, Received
from bloodedge_fleet.boards.broker import Broker
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.boards.store_worker import Timings
from bloodedge_fleet.database import DatabaseError, RejectedError, migrate, open_database, reading
from bloodedge_fleet.database.tables import reports
from support.fleet_fakes import PostgreSQL, report
from support.mqtt import Broker as Mosquitto
from support.older_broker import REFUSES_VERSION, OlderBroker
from support.waiting import until


@pytest.fixture
def engine(state: Path) -> Iterator[Engine]:
    """SQLite: what is tested here is before the database."""
    made = open_database(None, state)
    migrate(made)
    yield made
    made.dispose()


class Pi:
    """A board that reports."""

    def __init__(self, broker: Mosquitto, name: str = "pi") -> None:
        self.name = name
        self.client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert until(self.client.is_connected)

    def say(self, payload: bytes, kind: str = "report") -> None:
        """Publish, and wait until the broker has it."""
        self.client.publish(f"bloodedge/{self.name}/{kind}", payload, qos=1).wait_for_publish(10)

    def report(self, first: int, last: int) -> None:
        """Send reports of these numbers."""
        for number in range(first, last + 1):
            self.say(report(number).model_dump_json().encode())

    def __enter__(self) -> "Pi":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Trying(Archive):
    """An archive whose database is away for a number of attempts."""

    def __init__(self, engine: Engine, failures: int) -> None:
        super().__init__(engine)
        self.failures = failures

    def store(self, batch: Sequence[Received]) -> Outcome:
        """Fail, or store."""
        if self.failures:
            self.failures -= 1
            raise DatabaseError("The database is away.")
        return super().store(batch)


class Hanging(Archive):
    """An archive whose database neither answers nor fails."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.goes_on = Event()

    def store(self, batch: Sequence[Received]) -> Outcome:
        """Wait, then store."""
        self.goes_on.wait()
        return super().store(batch)


def numbers(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.execute(select(reports.c.sequence).order_by(reports.c.sequence)).scalars())


@contextmanager
def listening(broker: Mosquitto | OlderBroker, archive: Archive, timings: Timings | None = None) -> Iterator[Listener]:
    listener = Listener(Broker("127.0.0.1", broker.port), archive, timings)
    listener.start(lambda _: None)
    assert until(lambda: listener.broker.connected)
    yield listener
    listener.stop()


def test_reports_arrive_and_those_sent_meanwhile_are_not_lost(broker: Mosquitto, engine: Engine) -> None:
    with listening(broker, Archive(engine)), Pi(broker) as pi:
        pi.report(1, 30)
        assert until(lambda: len(numbers(engine)) == 30)
    with Pi(broker) as pi:
        pi.report(31, 60)  # the server is away
    with listening(broker, Archive(engine)):
        assert until(lambda: len(numbers(engine)) == 60)
    assert numbers(engine) == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.parametrize("answer", [REFUSES_VERSION, b""], ids=["refuses version 5", "hangs up"])
def test_a_broker_of_mqtt_3_1_1_keeps_what_is_sent_while_the_server_is_away(
    answer: bytes, broker: Mosquitto, engine: Engine
) -> None:
    older = OlderBroker(broker.port, answer)
    try:
        with listening(older, Archive(engine)) as listener, Pi(broker) as pi:
            pi.report(1, 10)
            assert until(lambda: len(numbers(engine)) == 10)
            assert listener.publish("pi", "wanted", b"{}")
            older.cut()
            pi.report(11, 20)
            assert until(lambda: len(numbers(engine)) == 20)
        with Pi(broker) as pi:
            pi.report(21, 30)
        with listening(older, Archive(engine)):
            assert until(lambda: len(numbers(engine)) == 30)
    finally:
        older.close()
    assert numbers(engine) == list(range(1, 31))
    assert older.levels[:2] == [5, 4]


def test_what_could_not_be_stored_is_not_acknowledged(broker: Mosquitto, engine: Engine) -> None:
    away = Trying(engine, 1_000_000)
    with listening(broker, away) as listener, Pi(broker) as pi:
        pi.report(1, 5)
        assert until(lambda: "away" in listener.worker.state)
    assert numbers(engine) == []
    with listening(broker, Archive(engine)):
        assert until(lambda: numbers(engine) == [1, 2, 3, 4, 5])


@pytest.mark.slow
def test_a_postgresql_that_is_stopped_under_a_server_gets_everything_when_it_returns(
    broker: Mosquitto, own_postgres: PostgreSQL, state: Path
) -> None:
    command = [sys.executable, "-m", "bloodedge", "fleet", "serve", "--state", str(state)]
    command += ["--broker", f"127.0.0.1:{broker.port}", "--listen", "127.0.0.1:0", "--database", own_postgres.url]
    engine = open_database(own_postgres.url, state)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, Pi(broker) as pi:
        try:
            assert until(lambda: migrated(engine), 60)
            assert until(lambda: pi.report(1, 1) or numbers(engine) == [1], 60)  # once the server listens
            pi.report(2, 20)
            assert until(lambda: len(numbers(engine)) == 20, 60)
            own_postgres.stop()
            pi.report(21, 40)
            sleep(3)
            assert server.poll() is None
            own_postgres.start()
            pi.report(41, 45)
            assert until(lambda: numbers(engine) == list(range(1, 46)), 60)
        finally:
            server.send_signal(signal.SIGTERM)
            told = server.communicate(timeout=20)[1]
    engine.dispose()
    assert server.returncode == 0, told
    assert "Traceback" not in told
    assert "database" in told  # that it was away


def migrated(engine: Engine) -> bool:
    try:
        return numbers(engine) == []
    except DatabaseError:
        return False


def test_a_database_that_does_not_answer_is_told_before_it_fails(broker: Mosquitto, engine: Engine) -> None:
    hanging = Hanging(engine)
    with listening(broker, hanging, Timings(stuck_s=0.5)) as listener, Pi(broker) as pi:
        pi.report(1, 1)
        try:
            assert until(lambda: "The database has not answered for" in listener.worker.state)
        finally:
            hanging.goes_on.set()
        assert until(lambda: not listener.worker.state)


def test_a_database_that_returns_gets_everything(broker: Mosquitto, engine: Engine) -> None:
    with listening(broker, Trying(engine, 2)) as listener, Pi(broker) as pi:
        pi.report(1, 40)
        assert until(lambda: len(numbers(engine)) == 40)
        assert until(lambda: not listener.worker.state)


def test_a_broker_that_is_started_anew_loses_and_doubles_nothing(broker: Mosquitto, engine: Engine) -> None:
    with listening(broker, Archive(engine)) as listener, Pi(broker) as pi:
        pi.report(1, 20)
        broker.stop()
        assert until(lambda: not listener.broker.connected)
        assert "was lost; it is tried again" in listener.broker.state
        broker.start()
        assert until(pi.client.is_connected)
        pi.report(21, 40)
        assert until(lambda: listener.broker.connected)
        assert until(lambda: len(numbers(engine)) == 40)
    assert numbers(engine) == list(range(1, 41))


@pytest.mark.parametrize("error", [ZeroDivisionError(), RejectedError("The database does not take this.")])
def test_a_message_that_no_code_can_store_holds_up_no_other(
    broker: Mosquitto, engine: Engine, error: Exception
) -> None:
    class Broken(Archive):
        def store(self, batch: Sequence[Received]) -> Outcome:
            if any(b'"sequence":3,' in one.payload for one in batch):
                raise error
            return super().store(batch)

    with listening(broker, Broken(engine)), Pi(broker) as pi:
        pi.report(1, 6)
        assert until(lambda: len(numbers(engine)) == 5)
    assert numbers(engine) == [1, 2, 4, 5, 6]


class Slow(Archive):
    """An archive that takes its time."""

    def store(self, batch: Sequence[Received]) -> Outcome:
        """Wait a little, then store."""
        sleep(0.3)
        return super().store(batch)


def test_the_server_is_current_only_once_all_that_waited_is_stored(broker: Mosquitto, engine: Engine) -> None:
    with listening(broker, Archive(engine)) as listener:
        assert until(listener.is_current)
    assert not listener.is_current()
    with Pi(broker) as pi:
        pi.report(1, 1500)  # more than the broker delivers before the first is acknowledged
    with listening(broker, Slow(engine)) as listener:
        assert not listener.is_current()
        assert until(listener.is_current)
        assert len(numbers(engine)) == 1500


@pytest.mark.slow
def test_the_server_is_not_current_while_the_broker_or_the_database_is_away(broker: Mosquitto, engine: Engine) -> None:
    archive = Trying(engine, 0)
    with listening(broker, archive, Timings(current_s=0.5)) as listener, Pi(broker) as pi:
        assert until(listener.is_current)
        archive.failures = 2
        pi.report(1, 1)
        assert until(lambda: not listener.is_current())
        assert until(lambda: listener.is_current() and numbers(engine) == [1])
        broker.stop()
        assert until(lambda: not listener.broker.connected)
        assert not listener.is_current()
        broker.start()
        assert until(listener.is_current)


def test_a_broker_that_is_not_there_is_told_and_tried_again(engine: Engine, tmp_path: Path) -> None:
    port = Mosquitto(tmp_path)
    port.stop()
    listener = Listener(Broker("127.0.0.1", port.port), Archive(engine))
    listener.start(lambda _: None)
    try:
        assert until(lambda: "No connection to the broker" in listener.broker.state)
        port.start()
        assert until(lambda: listener.broker.connected)
    finally:
        listener.stop()
        port.stop()
