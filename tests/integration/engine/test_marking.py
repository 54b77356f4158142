"""A person's word on how far a step is: recorded with who and why, and refused where it is nonsense."""

from dataclasses import replace
from typing import Any

import pytest

from planrunner.engine.marking import mark, refuse_nonsense
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import ToolFailed, UsageError
from planrunner.model import StepStatus

DONE, PENDING = StepStatus.DONE, StepStatus.PENDING


class Cross:
    """Leads nobody anywhere."""

    uses = "cross"

    def actions(self, run: Any) -> tuple[()]:  # noqa: ARG002
        return ()

    def crossed(self, run: Any) -> bool:  # noqa: ARG002
        return False

    rehearsal = rollback = rollback_rehearsal = actions


def crossing(bench: Any, tiny: Any, *steps: Any) -> Any:
    setup = bench.setup(*steps)
    return replace(setup, find=lambda uses: Cross() if uses == "cross" else tiny.find(uses))


def test_a_step_marked_done_is_not_asked_any_more(bench: Any) -> None:
    steps = bench.touch("one", "refused"), bench.touch("two", "b")
    with pytest.raises(ToolFailed):
        run_plan(bench.setup(*steps), RunOptions())
    mark(bench.setup(*steps), "one", DONE, who="ana@host", why="made by hand")
    state = run_plan(bench.setup(*steps), RunOptions())
    assert list(bench.made()) == ["b"]
    (record,) = state.marks
    assert (record.step, record.status, record.who, record.why) == ("one", "done", "ana@host", "made by hand")
    assert "decision" in bench.kinds()
    assert any("marked done by ana@host" in event.message for event in bench.events)


def test_a_step_marked_pending_is_asked_again(bench: Any) -> None:
    steps = (bench.touch("one", "a"),)
    run_plan(bench.setup(*steps), RunOptions())
    (bench.files / "a").unlink()
    run_plan(bench.setup(*steps), RunOptions())
    assert bench.made() == {}
    mark(bench.setup(*steps), "one", PENDING, who="ana@host", why="it was deleted")
    run_plan(bench.setup(*steps), RunOptions())
    assert list(bench.made()) == ["a"]


@pytest.mark.parametrize(
    ("step", "status", "why", "told"),
    [
        ("four", DONE, "x", "no step"),
        ("one", DONE, "x", "done already"),
        ("two", PENDING, "x", "pending already"),
        ("two", DONE, " ", "needs a reason"),
    ],
)
def test_nonsense_is_refused(bench: Any, step: str, status: StepStatus, why: str, told: str) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    run_plan(bench.setup(*steps), RunOptions(until="one"))
    with pytest.raises(UsageError, match=told):
        refuse_nonsense(bench.setup(*steps), step, status, why)


def test_nobodys_word_makes_or_undoes_a_cutover(bench: Any, tiny: Any) -> None:
    steps = bench.touch("one", "a"), tiny.spec("over", "cross")
    setup = crossing(bench, tiny, *steps)
    with pytest.raises(UsageError, match="fact on the source"):
        mark(setup, "over", DONE, who="ana@host", why="I am sure")
    run_plan(setup, RunOptions())
    for step, told in (("over", "led the writers over"), ("one", "would be overrun")):
        with pytest.raises(UsageError, match=told) as refused:
            mark(crossing(bench, tiny, *steps), step, PENDING, who="ana@host", why="again")
        assert "rollback" in (refused.value.remedy or "")
