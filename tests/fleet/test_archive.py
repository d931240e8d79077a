"""Reports become rows once each, whatever order and however often they come."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from bloodedge.board import LARGEST
from bloodedge_fleet.boards.archive import Archive, Outcome, Received, forget, remove_old_reports
from bloodedge_fleet.boards.overview import Board, read_boards, read_hours, read_refusals
from bloodedge_fleet.database import DatabaseError, reading
from bloodedge_fleet.database.tables import hours, reports

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import report

SILENT = timedelta(minutes=3)
NOON = datetime(2026, 5, 1, 12, 10, tzinfo=UTC)


def sent(board: str, *messages: object) -> list[Received]:
    """What a board's reports are as the broker delivers them."""
    return [Received(board, "report", one.model_dump_json().encode()) for one in messages]  # type: ignore[attr-defined]


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
        first, second = read_hours(connection, "pi", NOON - timedelta(days=1))
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
    assert Archive(engine).store(sent("pi", report(3))).stored == 1
    assert boards_of(engine)["pi"].missing == 0


def test_a_board_that_was_forgotten_may_report_again(engine: Engine) -> None:
    archive = Archive(engine)
    archive.store(sent("pi", report(1)))
    assert forget(engine, "pi")
    assert not forget(engine, "pi")
    assert boards_of(engine) == {}
    with pytest.raises(DatabaseError):  # the running server still thinks that it knows the board
        archive.store(sent("pi", report(2)))
    assert archive.store(sent("pi", report(2))).stored == 1  # and does not the next time it tries
    assert list(boards_of(engine)) == ["pi"]
