"""What a run makes of its plan's flow: which failures pass, what is undone with what, skipped steps, answers."""

from typing import Any

import pytest

from planrunner.engine.passing import failure_class
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.engine.undo import affected
from planrunner.errors import (
    CloudError,
    ConnectionFailed,
    LeaseLost,
    PlanrunnerError,
    QueryFailed,
    StepFailed,
    StepTimedOut,
    ToolFailed,
)
from planrunner.flow import Condition, FailureClass, Flow, OnFailure
from planrunner.model import StepSpec, StepStatus

DEFAULT = RunOptions()


def raised_from(cause: PlanrunnerError) -> PlanrunnerError:
    try:
        raise StepFailed("the step says") from cause
    except StepFailed as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (QueryFailed("x", sqlstate="40001"), FailureClass.SERIALIZATION),
        (QueryFailed("x", sqlstate="40P01"), FailureClass.DEADLOCK),
        (QueryFailed("x", sqlstate="55P03"), FailureClass.LOCK_TIMEOUT),
        (QueryFailed("x", sqlstate="08006"), FailureClass.CONNECTION),
        (QueryFailed("x", sqlstate="57P01"), FailureClass.CONNECTION),
        (ConnectionFailed("x", sqlstate="57P03"), FailureClass.CONNECTION),
        (ConnectionFailed("x"), FailureClass.CONNECTION),
        (ConnectionFailed("x", sqlstate="28P01"), None),
        (ConnectionFailed("x", sqlstate="53300"), FailureClass.RESOURCES),
        (QueryFailed("x", sqlstate="57014"), None),
        (QueryFailed("x", sqlstate="42P01"), None),
        (CloudError("x", code="Throttling"), FailureClass.THROTTLING),
        (CloudError("x", code="AccessDenied"), None),
        (raised_from(QueryFailed("x", sqlstate="55P03")), FailureClass.LOCK_TIMEOUT),
        (raised_from(LeaseLost("x", sqlstate="40001")), None),
        (raised_from(StepTimedOut("x")), None),
        (ToolFailed("x"), None),
        (ZeroDivisionError(), None),
    ],
)
def test_a_failure_is_classed_by_what_the_server_said(
    error: Exception, expected: FailureClass | None
) -> None:
    assert failure_class(error) is expected


def with_flow(spec: StepSpec, **flow: Any) -> StepSpec:
    return StepSpec(id=spec.id, uses=spec.uses, options=spec.options, digest=spec.digest, flow=Flow(**flow))


def test_what_is_undone_with_a_step_is_what_it_needs_and_what_needs_that(bench: Any) -> None:
    names = {"a": (), "b": ("a",), "c": ("b",), "d": ("a",), "e": (), "f": ("e",)}
    plan = bench.plan(*(with_flow(bench.touch(name), needs=needs) for name, needs in names.items()))
    begun = {"a", "b", "d", "e"}
    found = affected(plan, plan.steps[2], lambda spec: spec.id in begun)
    assert [spec.id for spec in found] == ["a", "b", "c", "d"]


def test_a_failed_step_with_rollback_takes_away_what_was_made(bench: Any) -> None:
    steps = (
        bench.touch("one", "a"),
        with_flow(bench.touch("two", "b", "refused"), on_failure=OnFailure.ROLLBACK),
    )
    with pytest.raises(ToolFailed):
        run_plan(bench.setup(*steps), DEFAULT)
    assert bench.made() == {}
    state = bench.store.load()
    assert (state.status("one"), state.status("two")) == (StepStatus.PENDING, StepStatus.FAILED)
    assert not state.steps["two"].touched
    assert [e.step for e in bench.events if e.kind.value == "step_undone"] == ["two", "one"]


def test_a_step_whose_condition_is_false_is_skipped_once_and_satisfies_those_that_need_it(bench: Any) -> None:
    steps = (
        with_flow(bench.touch("one", "a"), when=Condition(text="target.version < 9")),
        bench.touch("two", "b"),
    )
    run_plan(bench.setup(*steps), DEFAULT)
    state = run_plan(bench.setup(*steps), DEFAULT)
    assert bench.made() == {"b": "once"}
    assert state.status("one") is StepStatus.SKIPPED
    assert bench.kinds().count("step_skipped") == 1


def test_a_skipped_step_is_done_once_its_condition_holds(bench: Any) -> None:
    run_plan(bench.setup(with_flow(bench.touch("one", "a"), when=Condition(text="false"))), DEFAULT)
    state = run_plan(bench.setup(with_flow(bench.touch("one", "a"), when=Condition(text="true"))), DEFAULT)
    assert bench.made() == {"a": "once"}
    assert state.steps["one"].progress == {"files": 1}


def test_a_step_that_has_begun_is_finished_whatever_its_condition_says(bench: Any) -> None:
    with pytest.raises(ToolFailed):
        run_plan(bench.setup(bench.touch("one", "a", "refused")), DEFAULT)
    (bench.files / "refused").touch()
    run_plan(
        bench.setup(with_flow(bench.touch("one", "a", "refused"), when=Condition(text="false"))), DEFAULT
    )
    assert bench.store.load().status("one") is StepStatus.DONE


def test_a_step_that_may_be_skipped_is_not_checked_beforehand(bench: Any) -> None:
    failing = with_flow(bench.check("check", "nowhere"), when=Condition(text='steps.one.status == "failed"'))
    state = run_plan(bench.setup(bench.touch("one", "a"), failing), DEFAULT)
    assert state.status("check") is StepStatus.SKIPPED


def test_a_condition_that_can_not_be_computed_stops_the_run(bench: Any) -> None:
    step = with_flow(bench.touch("one", "a"), when=Condition(text='source.version < "16"'))
    with pytest.raises(StepFailed, match="can't be computed"):
        run_plan(bench.setup(step), DEFAULT)
    assert bench.made() == {}


def test_a_waiting_step_lets_others_go_on_where_it_says_so(bench: Any) -> None:
    waiting = with_flow(bench.touch("one", "a", ask=["a"]), on_failure=OnFailure.CONTINUE, needs=())
    other = with_flow(bench.touch("two", "b"), needs=())
    with pytest.raises(PlanrunnerError) as ended:
        run_plan(bench.setup(waiting, other), DEFAULT)
    assert ended.value.exit_code == 4
    assert bench.made() == {"b": "once"}
