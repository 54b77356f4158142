"""Plans that were edited while their migration was under way."""

from pathlib import Path
from typing import Any

import pytest

from planrunner.engine.approvals import approve
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import DecisionNeeded, StateUnfit, ToolFailed, UsageError
from planrunner.model import StepStatus

DEFAULT = RunOptions()


def test_an_edited_finished_step_is_refused_with_its_field_and_both_ways_out(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    with pytest.raises(StateUnfit) as refused:
        run_plan(bench.setup(bench.touch("one", "a", "b")), DEFAULT)
    assert "step one" in refused.value.message
    assert "with.files" in refused.value.message
    assert "--accept one" in (refused.value.remedy or "")
    assert "--rerun one" in (refused.value.remedy or "")
    assert bench.made() == {"a": "once"}


def test_an_edited_half_done_step_is_refused(bench: Any) -> None:
    with pytest.raises(ToolFailed):
        run_plan(bench.setup(bench.touch("one", "a", "refused")), DEFAULT)
    with pytest.raises(StateUnfit, match="step one"):
        run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)


def test_accept_keeps_what_was_done(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    edited = bench.touch("one", "a", "b")
    state = run_plan(bench.setup(edited), RunOptions(accept=frozenset({"one"})))
    assert bench.made() == {"a": "once"}
    assert state.steps["one"].digest == edited.digest
    run_plan(bench.setup(edited), DEFAULT)


def test_rerun_asks_the_step_again(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    run_plan(bench.setup(bench.touch("one", "a", "b")), RunOptions(rerun=frozenset({"one"})))
    assert bench.made() == {"a": "once", "b": "once"}


def test_a_step_that_did_not_begin_may_be_edited(bench: Any) -> None:
    first = bench.touch("one", "a")
    with pytest.raises(DecisionNeeded):
        run_plan(bench.setup(first, bench.touch("two", "b", manual=True)), DEFAULT)
    with pytest.raises(DecisionNeeded):
        run_plan(bench.setup(first, bench.touch("two", "c", manual=True)), DEFAULT)


def test_a_begun_step_that_left_the_plan_is_refused_until_accepted(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    renamed = bench.touch("uno", "a")
    with pytest.raises(StateUnfit, match="no longer in the plan"):
        run_plan(bench.setup(renamed), DEFAULT)
    state = run_plan(bench.setup(renamed), RunOptions(accept=frozenset({"one"})))
    assert set(state.steps) == {"uno"}


def test_a_decision_about_an_unknown_step_is_a_usage_error(bench: Any) -> None:
    with pytest.raises(UsageError, match="'tow'"):
        run_plan(bench.setup(bench.touch("two", "a")), RunOptions(accept=frozenset({"tow"})))


def test_an_approval_is_void_after_an_edit(bench: Any) -> None:
    step = bench.touch("one", "a", manual=True)
    assert approve(bench.setup(step), None, who="ana", why="ok").id == "one"
    with pytest.raises(DecisionNeeded):
        run_plan(bench.setup(bench.touch("one", "b", manual=True)), DEFAULT)
    run_plan(bench.setup(step), DEFAULT)
    assert bench.made() == {"a": "once"}


def test_an_approved_step_answers_the_questions_of_its_actions(bench: Any) -> None:
    step = bench.touch("one", "a", ask=["a"])
    with pytest.raises(DecisionNeeded):
        run_plan(bench.setup(step), DEFAULT)
    approve(bench.setup(step), None, who="ana", why="ok")
    run_plan(bench.setup(step), DEFAULT)
    assert bench.made() == {"a": "once"}


def test_nothing_to_approve_is_a_usage_error(bench: Any) -> None:
    with pytest.raises(UsageError, match="no step of the plan waits"):
        approve(bench.setup(bench.touch("one", "a")), None, who="ana", why="ok")


def test_an_unobservable_action_is_performed_once(bench: Any, tiny: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    steps = tiny.spec("call", "hook", log=str(log)), bench.touch("two", "refused")
    for _ in range(2):
        with pytest.raises(ToolFailed):
            run_plan(bench.setup(*steps), DEFAULT)
    assert log.read_text() == "called\n"


@pytest.mark.parametrize(("decision", "calls"), [("accept", 1), ("rerun", 2)])
def test_an_unobservable_action_with_an_unknown_outcome_waits_for_a_decision(
    bench: Any, tiny: Any, tmp_path: Path, decision: str, calls: int
) -> None:
    log = tmp_path / "log"
    dying = tiny.spec("call", "hook", log=str(log), die=True)
    with pytest.raises(KeyboardInterrupt):
        run_plan(bench.setup(dying), DEFAULT)
    with pytest.raises(DecisionNeeded, match="outcome can't be observed"):
        run_plan(bench.setup(dying), DEFAULT)
    assert log.read_text() == "called\n"
    healed = tiny.spec("call", "hook", log=str(log))
    state = run_plan(bench.setup(healed), RunOptions(**{decision: frozenset({"call"})}))
    assert log.read_text() == "called\n" * calls
    assert state.status("call") is StepStatus.DONE
