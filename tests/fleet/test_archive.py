"""Reports become rows once each, whatever order and however often they come."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select, update

from bloodedge.fleet_messages import LARGEST
from bloodedge_fleet.boards.archive import Archive, Outcome, Received, forget, remove_old_reports
from bloodedge_fleet.boards.overview import Board, read_boards, read_hours, read_refusals
from bloodedge_fleet.database import reading, writing
from bloodedge_fleet.database.tables import boards, hours, reports
from support.fleet_fakes import report, sent

SILENT = timedelta(minutes=3)
NOON = datetime(2026, 5, 1, 12, 10, tzinfo=UTC)


def boards_of(engine: Engine, now: datetime | None = None) -> dict[str, Board]:
    with reading(engine) as connection:
        return {board.name: board for board in read_boards(connection, SILENT, now)}


def rows(engine: Engine) -> list[int]:
    with reading(engine) as connection:
        return list(connection.execute(select(reports.c.sequence).order_by(reports.c.sequence)).scalars())


def test_a_report_delivered_again_is_stored_once_also_by_a_server_started_anew(engine: Engine) -> None:
    batch = sent("pi", report(1), report(2), report(2))
    first = Archive(engine).store(batch)
    again = Archive(engine).store([*batch, *sent("pi", report(3))])
    assert (first.stored, first.repeated) == (2, 1)
    assert (again.stored, again.repeated) == (1, 3)
    assert rows(engine) == [1, 2, 3]
    assert boards_of(engine)["pi"].missing == 0


def test_a_gap_counts_as_missing_until_it_is_filled(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store(sent("pi", report(1), report(4)))
    assert boards_of(engine)["pi"].missing == 2
    archive.store(sent("pi", report(2), report(3)))
    board = boards_of(engine)["pi"]
    assert board.missing == 0
    assert board.report is not None
    assert board.report.sequence == 4  # a late one is not the newest


def test_what_was_sent_before_the_server_knew_the_board_is_not_missing(engine: Engine) -> None:
    Archive(engine).store(sent("pi", report(40), report(41)))
    assert boards_of(engine)["pi"].missing == 0
    Archive(engine).store(sent("pi", report(39)))
    assert boards_of(engine)["pi"].missing == 0
    Archive(engine).store(sent("pi", report(3, boot="f" * 32)))  # the daemon was started anew: 1 and 2 were lost
    assert boards_of(engine)["pi"].missing == 2


def test_counts_of_an_hour_are_what_was_new_in_it(engine: Engine) -> None:
    archive = Archive(engine)
    at = [NOON, NOON + timedelta(minutes=20), NOON + timedelta(hours=1)]
    archive.store(sent("pi", *(report(number, sent_at=moment) for number, moment in enumerate(at, 1))))
    archive.store(sent("pi", report(1, boot="f" * 32, sent_at=at[2])))  # the daemon was started anew
    with reading(engine) as connection:
        first, second = read_hours(connection, "pi", NOON - timedelta(days=1), NOON + timedelta(days=1))
        frames = list(connection.execute(select(hours.c.frames).order_by(hours.c.hour)).scalars())
    assert (first.hour, first.reports, first.cells) == (NOON.replace(minute=0), 2, 20)
    assert (second.reports, second.cells) == (2, 20)
    assert frames == [20, 20]
    assert first.uncertain_share == pytest.approx(0.2)
    assert first.inference_ms == pytest.approx(6.0)


def test_messages_that_cannot_be_read_are_counted_with_a_sentence_and_hold_up_no_other(engine: Engine) -> None:
    bad = [b"", b"[]", b"\xff\xfe", b"{" * 2000, b"x" * (LARGEST + 1), b'{"schema_version": 2}']
    batch = [Received("odd", "report", payload) for payload in bad]
    outcome = Archive(engine).store([*batch[:3], *sent("pi", report(1)), *batch[3:]])
    assert (outcome.stored, outcome.refused) == (1, len(bad))
    with reading(engine) as connection:
        (refusal,) = read_refusals(connection)
    assert (refusal.board, refusal.messages) == ("odd", len(bad))
    assert "schema version 2" in refusal.sentence
    assert list(boards_of(engine)) == ["pi"]


def test_the_broker_s_word_on_a_board_s_connection_is_kept(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store([Received("pi", "availability", b"online"), *sent("pi", report(1))])
    assert boards_of(engine)["pi"].state == "ok"
    archive.store([Received("pi", "availability", b"offline")])
    assert boards_of(engine)["pi"].state == "offline"
    assert archive.store([Received("pi", "availability", b"maybe")]).refused == 1


def test_a_board_is_silent_after_a_while_and_its_own_word_counts_before(engine: Engine) -> None:
    wrong = {"camera": {"level": "failed", "sentence": "No camera; plug it in."}}
    Archive(engine).store([*sent("a", report(1)), *sent("b", report(1, health=wrong))])
    now = boards_of(engine)
    assert [board.state for board in now.values()] == ["failed", "ok"]  # the worst first
    assert now["b"].sentence == "No camera; plug it in."
    later = boards_of(engine, datetime.now(UTC) + timedelta(minutes=10))
    assert {board.state for board in later.values()} == {"silent"}
    assert later["a"].sentence == "It has not reported for 10 minutes."


def test_figures_stand_beside_the_baseline_s(engine: Engine) -> None:
    Archive(engine).store(sent("pi", report(1, reviewed={"called": 40, "right": 36})))
    board = boards_of(engine)["pi"]
    assert board.inference_ms == 6.0
    assert board.times_baseline == pytest.approx(3.0)
    assert board.reviewed_accuracy is not None
    share, (low, high) = board.reviewed_accuracy
    assert share == 0.9
    assert low == pytest.approx(0.7695, abs=1e-3)  # Wilson (1927)
    assert high == pytest.approx(0.9604, abs=1e-3)


def test_lags_are_from_sending_to_storing(engine: Engine) -> None:
    moments = iter([NOON, NOON + timedelta(seconds=2)])
    outcome = Archive(engine, lambda: next(moments)).store(sent("pi", report(1, sent_at=NOON - timedelta(seconds=1))))
    assert outcome == Outcome(stored=1, lags_s=[3.0])


def test_old_reports_go_and_their_hours_stay(engine: Engine) -> None:
    Archive(engine).store(sent("pi", report(1, sent_at=NOON), report(2, sent_at=NOON)))
    assert remove_old_reports(engine, datetime.now(UTC) - timedelta(hours=1)) == 0
    assert remove_old_reports(engine, datetime.now(UTC) + timedelta(hours=1)) == 2
    assert rows(engine) == []
    with reading(engine) as connection:
        assert connection.execute(select(func.sum(hours.c.reports))).scalar_one() == 2
    again = Archive(engine).store(sent("pi", report(2), report(3)))  # not acknowledged before the server was killed
    assert (again.stored, again.repeated) == (1, 1)
    assert boards_of(engine)["pi"].missing == 0


def test_reports_stored_before_the_server_s_clock_was_set_count_from_when_it_is(engine: Engine) -> None:
    Archive(engine, lambda: datetime(1970, 1, 1, 0, 1, tzinfo=UTC)).store(sent("pi", report(1)))
    assert remove_old_reports(engine, datetime.now(UTC) - timedelta(days=90)) == 0
    assert remove_old_reports(engine, datetime.now(UTC) + timedelta(hours=1)) == 1


def test_a_board_that_was_forgotten_may_report_again(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store(sent("pi", report(1)))
    assert forget(engine, "pi")
    assert not forget(engine, "pi")
    assert boards_of(engine) == {}
    assert archive.store(sent("pi", report(2))).stored == 1
    board = boards_of(engine)["pi"]
    assert (board.missing, rows(engine)) == (0, [2])


def test_what_the_broker_keeps_of_a_forgotten_board_does_not_bring_it_back(engine: Engine) -> None:
    archive = Archive(engine)
    for word in (b"online", b"offline"):  # a broker that was killed keeps the first for ever
        kept = [Received("pi", "availability", word)]
        archive.store([*sent("pi", report(1)), *kept])
        forget(engine, "pi")
        archive.store(kept)
        assert boards_of(engine) == {}
    archive.store([*sent("pi", report(1)), *kept])
    assert boards_of(engine)["pi"].state == "offline"


def test_a_board_that_is_known_as_offline_alone_is_none(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store([Received("pi", "availability", b"offline")])
    assert boards_of(engine) == {}
    archive.store([Received("pi", "availability", b"online")])
    assert boards_of(engine)["pi"].state == "new"


def test_a_forgotten_board_and_the_one_that_came_after_it_are_not_taken_for_each_other(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store([*sent("pi-1", report(1)), *sent("pi-old", report(1))])
    forget(engine, "pi-old")  # SQLite then gives its number to the next
    archive.store(sent("pi-new", report(1, boot="1" * 32)))
    archive.store([Received("pi-old", "availability", b"offline")])
    assert {name: board.state for name, board in boards_of(engine).items()} == {"pi-1": "ok", "pi-new": "ok"}
    archive.store(sent("pi-old", report(5, boot="1" * 32)))
    found = {name: board.report.sequence for name, board in boards_of(engine).items() if board.report}
    assert found == {"pi-1": 1, "pi-new": 1, "pi-old": 5}
    assert {board.missing for board in boards_of(engine).values()} == {0}


@pytest.mark.parametrize("figure", ["1e999", "NaN", "-Infinity"])
def test_figures_that_are_no_numbers_hold_up_nothing(engine: Engine, figure: str) -> None:
    payload = report(1).model_dump_json().replace('"p50":6.0', f'"p50":{figure}').encode()
    outcome = Archive(engine).store([Received("odd", "report", payload), *sent("pi", report(1))])
    assert (outcome.stored, outcome.refused) == (1, 1)
    assert list(boards_of(engine)) == ["pi"]


def test_words_and_names_that_a_database_does_not_keep_hold_up_nothing(engine: Engine) -> None:
    name = report(1).model_dump_json().replace('"name":"cells"', '"name":"ce\\u0000lls"').encode()
    odd = [Received("odd", "report", payload) for payload in (name, b'{"schema_version": "a\\u0000b"}')]
    odd += [*sent("x" * 201, report(1)), Received("x" * 201, "availability", b"online")]
    outcome = Archive(engine).store([*odd, *sent("pi", report(1))])
    assert (outcome.stored, outcome.refused) == (1, 4)
    with reading(engine) as connection:
        told = {refusal.board: refusal.sentence for refusal in read_refusals(connection)}
    assert told["x" * 200] == "The board's name has more than 200 characters; give it a shorter one."
    assert list(boards_of(engine)) == ["pi"]


def test_a_report_as_large_as_any_is_read_again(engine: Engine) -> None:
    message = report(1).model_dump(mode="json", exclude_none=True)  # stored, it has what is left out here
    parts = message["health"] = {f"part {n}": {"level": "ok", "sentence": "\N{MICROSCOPE}" * 500} for n in range(31)}
    parts["last"] = {"level": "ok", "sentence": ""}

    def payload() -> bytes:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    parts["last"]["sentence"] = "\N{MICROSCOPE}" * ((LARGEST - len(payload())) // 4)
    assert Archive(engine).store([Received("pi", "report", payload())]).stored == 1
    with reading(engine) as connection:
        assert len(connection.execute(select(boards.c.report)).scalar_one().encode()) > LARGEST
    assert boards_of(engine)["pi"].state == "ok"


def test_a_stored_report_that_cannot_be_read_is_told_at_its_board_alone(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store([*sent("odd", report(1)), *sent("pi", report(1))])
    with writing(engine) as connection:
        connection.execute(update(boards).where(boards.c.name == "odd").values(report='{"schema_version": 2}'))
    found = boards_of(engine)
    assert {name: board.state for name, board in found.items()} == {"odd": "warning", "pi": "ok"}
    assert "cannot be read; wait for the next" in found["odd"].sentence
    archive.store(sent("odd", report(2)))
    assert boards_of(engine)["odd"].state == "ok"


@pytest.mark.parametrize(
    "sent_at",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-01-01T00:00:00Z", "2300-01-01T00:00:00Z"],
)
def test_a_report_from_the_ends_of_time_is_refused_and_counted(engine: Engine, sent_at: str) -> None:
    text = json.dumps({**json.loads(report(1).model_dump_json()), "sent_at": sent_at})
    outcome = Archive(engine).store([Received("odd", "report", text.encode()), *sent("pi", report(1))])
    assert (outcome.stored, outcome.refused) == (1, 1)


def test_the_largest_counts_that_are_taken_never_overflow_an_hour_s_sums(engine: Engine) -> None:
    largest = 2**40
    full = [report(1, boot=f"{n:032x}", frames=largest, cells={"blast": largest}) for n in range(3)]
    archive = Archive(engine)
    assert archive.store(sent("pi", *full)).stored == 3
    with writing(engine) as connection:  # as a million of them would have left it
        connection.execute(update(hours).values(frames=2**40 * 2**20))
    assert archive.store(sent("pi", report(1, boot="f" * 32, frames=largest))).stored == 1
    too_large = json.loads(report(2, boot="f" * 32).model_dump_json()) | {"frames": largest + 1}
    assert archive.store([Received("pi", "report", json.dumps(too_large).encode())]).refused == 1
