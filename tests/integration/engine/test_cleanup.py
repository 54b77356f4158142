"""Taking away what steps left, in reverse order and after asking."""

from typing import Any

import pytest

from planrunner.engine.cleanup import clean
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import DecisionNeeded


def refuse(_: object) -> None:
    raise DecisionNeeded("no")


def test_leftovers_are_removed_last_step_first(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    run_plan(bench.setup(*steps), RunOptions())
    bench.events.clear()
    cleaned = clean(bench.setup(*steps), lambda _: None)
    assert [leftovers.step for leftovers in cleaned.removed] == ["two", "one"]
    assert [e.message for e in bench.events if e.kind.value == "intent"] == ["remove b", "remove a"]
    assert bench.made() == {}
    assert bench.events[-1].fields["result"] == "cleaned"


def test_nothing_is_removed_without_consent(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    run_plan(bench.setup(*steps), RunOptions())
    with pytest.raises(DecisionNeeded):
        clean(bench.setup(*steps), refuse)
    assert set(bench.made()) == {"a", "b"}


def test_nothing_left_asks_nobody(bench: Any) -> None:
    assert clean(bench.setup(bench.touch("one", "a")), refuse).removed == ()


def test_what_is_left_is_named_once_and_only_this_plan_s_harm_counts(bench: Any, tiny: Any) -> None:
    lies = {"one": "this plan", "two": "another plan", "three": "unknown", "kept": "this plan"}
    steps = tiny.spec("first", "litter", lies=lies), tiny.spec("second", "litter", lies=lies)
    cleaned = clean(bench.setup(*steps), refuse)
    assert [residue.name for residue in cleaned.left] == ["one", "two", "three", "kept"]
    assert [residue.name for residue in cleaned.harmful] == ["one"]
    assert str(cleaned.left[1]) == "source: slot two (another plan): keeps WAL. To remove it: drop two;"
    assert "kept on purpose" in str(cleaned.left[3])
