"""Which boards are asked when, and when a roll-out halts."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloodedge.board import BoardReport
from bloodedge.errors import UsageError
from bloodedge_fleet.rollouts.stages import Rollout, Step, advanced, plan

sys.path.insert(0, str(Path(__file__).parent))
from fleet_fakes import report

START = datetime(2026, 5, 1, tzinfo=UTC)
NEW, OLD = "b" * 64, "a" * 64
NAMES = [f"pi-{number}" for number in range(10)]


def rollout(stages: tuple[int, ...] = (1, 5, 10), halt_on: int = 1, soak_s: float = 60.0) -> Rollout:
    steps = tuple(Step(name, "waiting", START) for name in NAMES)
    return Rollout("r", NEW, stages, soak_s, halt_on, steps)


def runs(state: str = "good", **changes: object) -> BoardReport:
    return report(5, bundle_sha256=NEW, bundle_state=state, **changes)


def says(state: str, sentence: str = "") -> BoardReport:
    return report(5, bundle_sha256=OLD, wanted={"rollout": "r", "state": state, "sentence": sentence})


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
    now = START
    first = advanced(rollout(), {}, now)
    assert [step.state for step in first.steps] == ["asked", *["waiting"] * 9]
    tried = advanced(first, {"pi-0": runs("on probation")}, now)
    assert tried.steps[0].state == "installed"
    good = advanced(tried, {"pi-0": runs()}, now)
    assert (good.steps[0].state, good.stage) == ("good", 0)
    soaking = advanced(good, {"pi-0": runs()}, now + timedelta(seconds=59))
    assert soaking.stage == 0
    second = advanced(soaking, {"pi-0": runs()}, now + timedelta(seconds=60))
    assert second.stage == 1
    assert second.number("asked") == 4
    assert second.number("waiting") == 5


def test_a_board_that_is_unwell_soaks_anew() -> None:
    good = advanced(advanced(rollout(), {}, START), {"pi-0": runs()}, START)
    unwell = advanced(good, {"pi-0": runs(alive=False)}, START + timedelta(seconds=30))
    assert unwell.steps[0].state == "installed"
    again = advanced(unwell, {"pi-0": runs()}, START + timedelta(seconds=50))
    assert advanced(again, {"pi-0": runs()}, START + timedelta(seconds=70)).stage == 0
    assert advanced(again, {"pi-0": runs()}, START + timedelta(seconds=110)).stage == 1


@pytest.mark.parametrize("state", ["refused", "went back"])
def test_a_board_that_will_not_have_it_halts_the_rollout(state: str) -> None:
    first = advanced(rollout(), {}, START)
    halted = advanced(first, {"pi-0": says(state, "Its key is not trusted.")}, START)
    assert halted.state == "halted"
    assert halted.why == "pi-0: Its key is not trusted."
    assert halted.number("waiting") == 9
    assert advanced(halted, {name: runs() for name in NAMES}, START) == halted


def test_a_board_that_runs_another_bundle_again_has_failed() -> None:
    good = advanced(advanced(rollout(), {}, START), {"pi-0": runs()}, START)
    halted = advanced(good, {"pi-0": report(6, bundle_sha256=OLD)}, START)
    assert halted.state == "halted"
    assert "another bundle again" in halted.why


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
    assert advanced(first, {"pi-0": other}, START).state == "running"


def test_a_board_that_downloads_says_what_it_waits_for() -> None:
    first = advanced(rollout(), {}, START)
    waiting = advanced(first, {"pi-0": says("downloading", "The server is away.")}, START)
    assert (waiting.steps[0].state, waiting.steps[0].why) == ("asked", "The server is away.")


def test_boards_that_never_answer_hold_a_stage_and_halt_nothing() -> None:
    first = advanced(rollout(), {}, START)
    assert advanced(first, {"pi-0": report(5, bundle_sha256=OLD)}, START + timedelta(days=9)) == first


def test_a_board_beyond_the_stage_is_not_judged() -> None:
    first = advanced(rollout(), {}, START)
    assert advanced(first, {"pi-9": says("refused")}, START) == first
    assert replace(first, state="running") == first
