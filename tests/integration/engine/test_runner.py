"""Running plans of tiny real steps: order, approval, failure, resume."""

import signal
from typing import Any

import pytest

from planrunner.engine.performing import Answers
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import (
    ChecksFailed,
    DecisionNeeded,
    Interrupted,
    LockedByAnother,
    StateUnfit,
    StepBlocked,
    StepFailed,
    ToolFailed,
    UsageError,
)
from planrunner.model import StepStatus
from planrunner.state.codec import to_json

DEFAULT = RunOptions()
YES = RunOptions(answers=Answers(yes=True))


def test_what_is_missing_is_performed_in_order(bench: Any) -> None:
    state = run_plan(bench.setup(bench.touch("one", "a", "b"), bench.touch("two", "c")), DEFAULT)
    assert bench.made() == {"a": "once", "b": "once", "c": "once"}
    assert {s.status for s in state.steps.values()} == {StepStatus.DONE}
    assert state.steps["two"].progress == {"files": 3}
    assert [e.message for e in bench.events if e.kind.value == "intent"] == [
        "create a",
        "create b",
        "create c",
    ]


def test_every_action_is_journalled_before_and_after(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    expected = ["run_started", "step_started", "intent", "news", "outcome", "step_done", "run_ended"]
    assert bench.kinds() == expected
    assert [event.serial for event in bench.events] == list(range(1, len(expected) + 1))


def test_what_is_there_already_is_not_done_again(bench: Any) -> None:
    (bench.files / "a").write_text("by hand")
    run_plan(bench.setup(bench.touch("one", "a", "b")), DEFAULT)
    assert bench.made() == {"a": "by hand", "b": "once"}


def test_a_finished_step_is_not_asked_again(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    run_plan(bench.setup(*steps), DEFAULT)
    (bench.files / "a").unlink()
    run_plan(bench.setup(*steps), DEFAULT)
    assert bench.made() == {"b": "once"}


def test_resume_keeps_what_was_finished_before_a_failure(bench: Any) -> None:
    failing = bench.setup(bench.touch("one", "a", "refused"), bench.touch("two", "c"))
    with pytest.raises(ToolFailed, match="disk is full"):
        run_plan(failing, DEFAULT)
    failed = bench.store.load().steps["one"]
    assert failed.status is StepStatus.FAILED
    assert failed.error == "the disk is full\nMake room."
    (bench.files / "refused").touch()
    state = run_plan(failing, DEFAULT)
    assert bench.made() == {"a": "once", "c": "once", "refused": ""}
    assert state.steps["one"].attempts == 2


def test_an_action_that_brings_nothing_about_fails_the_step(bench: Any) -> None:
    with pytest.raises(StepFailed, match="still missing: create forgotten"):
        run_plan(bench.setup(bench.touch("one", "forgotten")), DEFAULT)


def test_a_manual_step_waits_until_it_is_approved(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b", manual=True)
    with pytest.raises(DecisionNeeded) as waiting:
        run_plan(bench.setup(*steps), DEFAULT)
    assert "planrunner approve" in (waiting.value.remedy or "")
    assert bench.store.load().status("two") is StepStatus.WAITING
    assert bench.made() == {"a": "once"}
    run_plan(bench.setup(*steps), YES)
    assert bench.made() == {"a": "once", "b": "once"}


def test_a_manual_step_that_misses_nothing_needs_no_approval(bench: Any) -> None:
    (bench.files / "b").touch()
    state = run_plan(bench.setup(bench.touch("two", "b", manual=True)), DEFAULT)
    assert state.status("two") is StepStatus.DONE


def test_a_question_of_an_action_waits_after_the_actions_before_it(bench: Any) -> None:
    step = bench.touch("one", "a", "b", ask=["b"])
    with pytest.raises(DecisionNeeded, match=r"really\?"):
        run_plan(bench.setup(step), DEFAULT)
    assert bench.made() == {"a": "once"}
    run_plan(bench.setup(step), YES)
    assert bench.made() == {"a": "once", "b": "once"}


def test_an_answer_at_the_terminal_is_recorded_and_not_asked_for_twice(bench: Any) -> None:
    step = bench.touch("one", "a", "refused", manual=True)
    questions: list[str] = []

    def ask(question: str) -> str:
        questions.append(question)
        return "ana@host"

    for _ in range(2):
        with pytest.raises(ToolFailed):
            run_plan(bench.setup(step), RunOptions(answers=Answers(ask=ask)))
        (bench.files / "a").unlink()
    assert len(questions) == 1
    assert bench.store.load().approvals[0].who == "ana@host"


def test_a_blocked_action_ends_the_run_with_what_to_do(bench: Any) -> None:
    with pytest.raises(StepBlocked) as blocked:
        run_plan(bench.setup(bench.touch("one", "a", "b", blocked=["b"])), YES)
    assert blocked.value.remedy == "a person must do it"
    assert bench.made() == {"a": "once"}


def test_a_failing_check_stops_the_plan_before_its_first_action(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.check("check", "b", "c", mended_by="hook")
    with pytest.raises(ChecksFailed) as failed:
        run_plan(bench.setup(*steps), DEFAULT)
    assert [f.text for f in failed.value.findings] == ["b is missing", "c is missing"]
    assert bench.made() == {}
    assert "intent" not in bench.kinds()


def test_a_check_that_an_earlier_step_mends_does_not_stop_the_plan(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.check("check", "a", mended_by="touch")
    state = run_plan(bench.setup(*steps), DEFAULT)
    assert state.status("check") is StepStatus.DONE
    findings = [e for e in bench.events if e.kind.value == "finding"]
    assert [(e.message, e.fields["mark"]) for e in findings] == [("a is there", "pass")]


def test_a_check_is_not_mended_by_a_step_that_stands_after_it(bench: Any) -> None:
    steps = bench.check("check", "a", mended_by="touch"), bench.touch("one", "a")
    with pytest.raises(ChecksFailed):
        run_plan(bench.setup(*steps), DEFAULT)
    assert bench.made() == {}


def test_a_promise_to_mend_that_was_not_kept_fails_the_check(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.check("check", "b", mended_by="touch")
    with pytest.raises(ChecksFailed, match="b is missing"):
        run_plan(bench.setup(*steps), DEFAULT)
    assert bench.store.load().status("check") is StepStatus.FAILED


def test_until_and_from_choose_the_steps(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b"), bench.touch("three", "c")
    run_plan(bench.setup(*steps), RunOptions(begin="two", until="two"))
    assert bench.made() == {"b": "once"}
    with pytest.raises(UsageError, match="no step 'four'"):
        run_plan(bench.setup(*steps), RunOptions(until="four"))
    with pytest.raises(UsageError, match="nothing would run"):
        run_plan(bench.setup(*steps), RunOptions(begin="three", until="one"))


def test_a_step_that_needs_a_decision_waits(bench: Any, tiny: Any) -> None:
    with pytest.raises(DecisionNeeded, match="left or right"):
        run_plan(bench.setup(tiny.spec("ask", "refuse", how="decision")), DEFAULT)
    assert bench.store.load().status("ask") is StepStatus.WAITING


def test_a_bug_in_a_step_is_recorded_without_its_text(bench: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        run_plan(bench.setup(bench.touch("one", "bug")), DEFAULT)
    recorded = bench.store.load().steps["one"]
    assert recorded.status is StepStatus.FAILED
    assert "ZeroDivisionError" in (recorded.error or "")
    assert "hunter2" not in (recorded.error or "")


@pytest.mark.parametrize("name", ["signal", "endless"])
def test_a_signal_ends_the_run_resumably(bench: Any, name: str) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    steps = bench.touch("one", "a", name), bench.touch("two", "c")
    with pytest.raises(Interrupted) as stopped:
        run_plan(bench.setup(*steps), DEFAULT)
    assert "planrunner run" in (stopped.value.remedy or "")
    assert not isinstance(stopped.value, KeyboardInterrupt)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert bench.kinds()[-2:] == ["step_interrupted", "run_ended"]
    (bench.files / name).touch()
    state = run_plan(bench.setup(*steps), DEFAULT)
    assert state.status("two") is StepStatus.DONE
    assert bench.made()["a"] == "once"


def test_a_second_run_against_the_same_target_is_refused(bench: Any, tiny: Any) -> None:
    from planrunner.clock import SystemClock
    from planrunner.engine.exclusive import TargetLock
    from planrunner.state.memory import MemoryStore

    step = bench.touch("one", "a")
    plan_id = run_plan(bench.setup(step), DEFAULT).plan_id
    world = tiny.Passwords(bench.password)(bench.plan(step), "planrunner/other")
    lock = TargetLock(world.target, plan_id, SystemClock())
    lock.hold()
    bench.store = MemoryStore()
    with pytest.raises(LockedByAnother, match="planrunner/other"):
        run_plan(bench.setup(step), DEFAULT)
    lock.close()
    run_plan(bench.setup(step), DEFAULT)
    world.close()


def test_the_plan_id_stays_with_the_two_databases(bench: Any) -> None:
    from planrunner.state.memory import MemoryStore

    first = run_plan(bench.setup(bench.touch("one", "a")), DEFAULT).plan_id
    bench.store = MemoryStore()
    again = run_plan(bench.setup(bench.touch("another", "b")), DEFAULT).plan_id
    bench.store = MemoryStore()
    bench.source, bench.target = bench.target, bench.source
    turned = run_plan(bench.setup(bench.touch("one", "a")), DEFAULT).plan_id
    assert first == again
    assert first != turned
    assert first is not None
    assert len(first) == 8


def test_what_the_servers_say_of_themselves_is_recorded_without_a_password(bench: Any) -> None:
    state = run_plan(bench.setup(bench.touch("one", "a")), RunOptions())
    known = state.facts["servers"]
    assert known["source"]["database"] == "old"
    assert known["target"]["database"] == "new"
    assert known["target"]["version"].startswith("16.")
    assert known["target"]["user"] == "postgres"
    assert bench.password not in to_json(state)


def test_another_database_behind_the_connection_is_noticed(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    bench.source = bench.source.replace("dbname=old", "dbname=postgres")
    with pytest.raises(StateUnfit, match="source: the plan's connection leads to database"):
        run_plan(bench.setup(bench.touch("one", "a"), bench.touch("two", "b")), DEFAULT)
    assert bench.made() == {"a": "once"}


def test_a_known_source_may_be_away_when_the_run_resumes(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), DEFAULT)
    bench.source = "host=127.0.0.1 port=1 user=postgres dbname=old sslmode=disable"
    state = run_plan(bench.setup(bench.touch("one", "a"), bench.touch("two", "b")), DEFAULT)
    assert state.status("two") is StepStatus.DONE
