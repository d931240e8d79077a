"""Which boards are asked when, and when a roll-out halts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloodedge.errors import UsageError
from bloodedge.fleet_messages import BoardReport
from bloodedge_fleet.rollouts.stages import LastReport, Rollout, Step, advanced, plan
from support.fleet_fakes import report

START = datetime(2026, 5, 1, tzinfo=UTC)
NEW, OLD = "b" * 64, "a" * 64
NAMES = [f"pi-{number}" for number in range(10)]


def rollout(stages: tuple[int, ...] = (1, 5, 10), halt_on: int = 1, soak_s: float = 60.0) -> Rollout:
    steps = tuple(Step(name, "waiting", START) for name in NAMES)
    return Rollout("r", NEW, stages, soak_s, halt_on, steps)


def heard(made: BoardReport, after_s: float = 0.0, away: bool = False) -> LastReport:
    """A report that was stored so long after the start."""
    return LastReport(made, START + timedelta(seconds=after_s), away)


def runs(state: str = "good", after_s: float = 0.0, away: bool = False, **changes: object) -> LastReport:
    """What a board that runs the bundle reports so long after the start."""
    own = {"uptime_s": 300.0 + after_s, "bundle_sha256": NEW, "bundle_state": state}
    return heard(report(5, **own | changes), after_s, away)


def says(state: str, sentence: str = "") -> LastReport:
    told = {"rollout": "r", "state": state, "sentence": sentence}
    return heard(report(5, bundle_sha256=OLD, wanted=told))


def at(after_s: float) -> datetime:
    return START + timedelta(seconds=after_s)


def good() -> Rollout:
    """The canary was asked and runs it well."""
    return advanced(advanced(rollout(), {}, START), {"pi-0": runs()}, START)


def test_stages_are_the_canaries_then_shares_then_all() -> None:
    assert plan(200, 1, [10, 50, 100]) == (1, 20, 100, 200)
    assert plan(3, 1, [10, 50]) == (1, 2, 3)
    assert plan(1, 5, []) == (1,)
    assert plan(4, 0, []) == (4,)


@pytest.mark.parametrize("percents", [[50, 10], [0, 10], [10, 101], [10, 10]])
def test_shares_have_to_ascend(percents: list[float]) -> None:
    with pytest.raises(UsageError, match="ascending"):
        plan(5, 1, percents)


def test_no_board_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="There is no board"):
        plan(0, 1, [100])


@given(st.integers(1, 500), st.integers(0, 20), st.lists(st.floats(0.1, 100), unique=True).map(sorted))
def test_every_plan_ascends_and_ends_with_all(boards: int, canary: int, percents: list[float]) -> None:
    stages = plan(boards, canary, percents)
    assert list(stages) == sorted(set(stages))
    assert stages[0] >= 1
    assert stages[-1] == boards


def test_the_next_stage_waits_until_the_canary_has_run_it_well_for_long_enough() -> None:
    first = advanced(rollout(), {}, START)
    assert [step.state for step in first.steps] == ["asked", *["waiting"] * 9]
    tried = advanced(first, {"pi-0": runs("on probation")}, START)
    assert tried.steps[0].state == "installed"
    good = advanced(tried, {"pi-0": runs()}, START)
    assert (good.steps[0].state, good.stage) == ("good", 0)
    soaking = advanced(good, {"pi-0": runs(after_s=59)}, at(59))
    assert soaking.stage == 0
    second = advanced(soaking, {"pi-0": runs(after_s=60)}, at(60))
    assert second.stage == 1
    assert second.number("asked") == 4
    assert second.number("waiting") == 5


def test_a_board_that_reports_once_a_minute_soaks_for_an_hour_and_no_longer() -> None:
    state = advanced(rollout(soak_s=3600), {}, START)
    for minute in range(62):
        told = {"pi-0": runs(after_s=20 + 60 * minute + minute % 3 / 10)}  # as punctual as boards are
        for second in range(60):
            state = advanced(state, told, at(20 + 60 * minute + second))
        assert state.stage == (0 if minute < 60 else 1)


def test_a_canary_of_which_nothing_is_heard_any_more_never_moves_a_rollout_on() -> None:
    state = good()
    for hour in range(48):
        state = advanced(state, {"pi-0": runs(away=True)}, at(3600 * hour))
    assert (state.steps[0].state, state.stage) == ("good", 0)


def test_a_board_that_has_soaked_and_is_away_then_holds_the_stage_for_the_others() -> None:
    told = {"pi-0": runs(after_s=600, away=True)}
    waits = advanced(good(), told, at(600))
    assert waits.stage == 0
    assert advanced(waits, told | {"pi-0": runs(after_s=660)}, at(660)).stage == 1


def test_reports_that_waited_at_the_broker_do_not_stretch_a_soak() -> None:
    late = heard(report(6, uptime_s=301.0, bundle_sha256=NEW), after_s=7200)  # of the second after the first
    assert advanced(good(), {"pi-0": late}, at(7200)).stage == 0


def test_a_daemon_that_is_started_anew_soaks_anew() -> None:
    state = good()
    for minute in range(1, 20):
        again = runs(after_s=60 * minute, boot=f"{minute:032x}", uptime_s=59.0)
        state = advanced(state, {"pi-0": again}, at(60 * minute))
    assert (state.steps[0].state, state.stage) == ("good", 0)
    assert state.steps[0].since == at(60 * 19)
    assert advanced(state, {"pi-0": runs(boot=f"{19:032x}", uptime_s=119.0)}, at(60 * 20)).stage == 1


def test_what_was_heard_before_a_board_was_asked_is_no_answer() -> None:
    asked = advanced(rollout(soak_s=0), {"pi-0": runs(after_s=-1)}, START)
    assert (asked.steps[0].state, asked.stage) == ("asked", 0)
    assert advanced(asked, {"pi-0": runs(after_s=1)}, at(1)).stage == 1


def test_a_board_that_is_unwell_soaks_anew() -> None:
    unwell = advanced(good(), {"pi-0": runs(after_s=30, alive=False)}, at(30))
    assert unwell.steps[0].state == "installed"
    again = advanced(unwell, {"pi-0": runs(after_s=50)}, at(50))
    assert advanced(again, {"pi-0": runs(after_s=70)}, at(70)).stage == 0
    assert advanced(again, {"pi-0": runs(after_s=110)}, at(110)).stage == 1


@pytest.mark.parametrize("state", ["refused", "went back"])
def test_a_board_that_will_not_have_it_halts_the_rollout(state: str) -> None:
    first = advanced(rollout(), {}, START)
    halted = advanced(first, {"pi-0": says(state, "Its key is not trusted.")}, START)
    assert halted.state == "halted"
    assert halted.why == "pi-0: Its key is not trusted."
    assert halted.number("waiting") == 9
    assert advanced(halted, {name: runs() for name in NAMES}, START) == halted


def test_a_board_that_runs_another_bundle_again_has_failed() -> None:
    halted = advanced(good(), {"pi-0": heard(report(6, bundle_sha256=OLD))}, START)
    assert halted.state == "halted"
    assert "went back to another bundle" in halted.why


def test_failures_below_the_limit_do_not_hold_up_the_others() -> None:
    plan_ = rollout(halt_on=2, soak_s=0)
    first = advanced(plan_, {}, START)
    second = advanced(first, {"pi-0": says("refused")}, START)
    assert (second.state, second.stage) == ("running", 1)
    assert second.number("asked") == 4
    others = {name: runs() for name in NAMES} | {"pi-0": says("refused")}
    done = advanced(second, others, START)
    assert (done.state, done.number("good"), done.number("failed")) == ("done", 9, 1)


def test_what_a_board_says_of_another_rollout_does_not_count() -> None:
    first = advanced(rollout(), {}, START)
    other = report(5, bundle_sha256=OLD, wanted={"rollout": "earlier", "state": "refused", "sentence": "No."})
    assert advanced(first, {"pi-0": heard(other)}, START).state == "running"


def test_a_board_that_downloads_says_what_it_waits_for() -> None:
    first = advanced(rollout(), {}, START)
    waiting = advanced(first, {"pi-0": says("downloading", "The server is away.")}, START)
    assert (waiting.steps[0].state, waiting.steps[0].why) == ("asked", "The server is away.")


def test_boards_that_never_answer_hold_a_stage_and_halt_nothing() -> None:
    first = advanced(rollout(), {}, START)
    assert advanced(first, {"pi-0": heard(report(5, bundle_sha256=OLD))}, START + timedelta(days=9)) == first


def test_a_board_beyond_the_stage_is_not_judged() -> None:
    first = advanced(rollout(), {}, START)
    assert advanced(first, {"pi-9": says("refused")}, START) == first
    assert replace(first, state="running") == first
