"""The state as values: what each record knows of the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from planrunner.model import StepStatus
from planrunner.state.record import FORMAT_VERSION, WHOLE_STEP, ApprovalRecord, MarkRecord, State, StepState

WHEN = datetime(2026, 11, 24, 9, 30, 15, tzinfo=UTC)
COPY = StepState(uses="snapshot", status=StepStatus.DONE)
STATE = State(lineage="l", plan="orders", plan_digest="d", steps={"copy": COPY})


def test_a_step_that_nothing_is_known_of_is_pending() -> None:
    assert STATE.status("copy") is StepStatus.DONE
    assert STATE.status("follow") is StepStatus.PENDING
    assert STATE.without_step("copy").status("copy") is StepStatus.PENDING
    assert STATE.without_step("follow") == STATE


def test_a_record_replaces_only_its_own_steps() -> None:
    both = STATE.with_step("follow", StepState(uses="sync"))
    assert set(both.steps) == {"copy", "follow"}
    again = both.with_step("copy", StepState(uses="snapshot", attempts=2))
    assert again.steps["copy"].attempts == 2
    assert again.steps["follow"] == both.steps["follow"]
    assert again.without_step("copy").steps == {"follow": both.steps["follow"]}


@pytest.mark.parametrize(("worked", "seconds"), [(0.0, None), (1.5, 1.5)])
def test_a_step_that_no_attempt_of_has_ended_has_no_seconds(worked: float, seconds: float | None) -> None:
    assert replace(COPY, worked=worked).seconds == seconds


@pytest.mark.parametrize(
    ("action", "asked", "approved"),
    [
        (WHOLE_STEP, "cutover", True),
        (WHOLE_STEP, WHOLE_STEP, True),
        ("cutover", "cutover", True),
        ("cutover", "guard", False),
        ("cutover", WHOLE_STEP, False),
    ],
)
def test_an_approval_of_the_step_is_one_of_each_action_and_not_the_other_way_round(
    action: str, asked: str, approved: bool
) -> None:
    given = ApprovalRecord(step="over", action=action, digest="d1", who="ana", when=WHEN, why="")
    state = replace(STATE, approvals=(given,))
    assert state.approves("over", "d1", asked) is approved
    assert not state.approves("over", "d2", asked)
    assert not state.approves("copy", "d1", asked)
    assert not STATE.approves("over", "d1", asked)


def test_an_approval_is_asked_for_the_whole_step_where_nothing_else_is_named() -> None:
    given = ApprovalRecord(step="over", action=WHOLE_STEP, digest="d1", who="ana", when=WHEN, why="")
    assert replace(STATE, approvals=(given,)).approves("over", "d1")


def test_a_mark_tells_who_and_when_and_why() -> None:
    mark = MarkRecord(step="copy", status="done", who="ana", when=WHEN, why="restored by hand")
    assert str(mark) == "marked done by ana at 2026-11-24 09:30:15: restored by hand"


def test_a_new_state_is_of_the_format_of_now_and_empty() -> None:
    fresh = State(lineage="l", plan="orders", plan_digest="d")
    assert (fresh.format_version, fresh.serial, fresh.plan_id) == (FORMAT_VERSION, 0, None)
    assert (dict(fresh.steps), fresh.approvals, fresh.marks, dict(fresh.facts)) == ({}, (), (), {})
    begun = StepState(uses="sync")
    assert (begun.status, begun.attempts, begun.worked, begun.touched) == (StepStatus.PENDING, 0, 0.0, False)
    assert (begun.intent, begun.performed, begun.error, begun.seconds) == (None, (), None, None)
