"""Parts of a plan: from a step, until a step, and one step alone."""

from typing import Any

import pytest

from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import UsageError


def test_a_step_runs_alone_once_what_it_needs_is_done(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b"), bench.touch("three", "c")
    run_plan(bench.setup(*steps), RunOptions(until="one"))
    run_plan(bench.setup(*steps), RunOptions(only="two"))
    assert list(bench.made()) == ["a", "b"]


def test_a_step_does_not_run_alone_before_what_it_needs(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b"), bench.touch("three", "c")
    with pytest.raises(UsageError) as refused:
        run_plan(bench.setup(*steps), RunOptions(only="three"))
    assert "one (pending)" in refused.value.message
    assert "--until three" in (refused.value.remedy or "")
    assert bench.made() == {}


def test_a_step_alone_goes_with_no_other_bound(bench: Any) -> None:
    steps = bench.touch("one", "a"), bench.touch("two", "b")
    for options in (RunOptions(only="one", until="two"), RunOptions(only="one", begin="one")):
        with pytest.raises(UsageError, match="--only"):
            run_plan(bench.setup(*steps), options)


def test_an_unknown_step_is_refused_with_those_there_are(bench: Any) -> None:
    with pytest.raises(UsageError, match="no step 'four'"):
        run_plan(bench.setup(bench.touch("one", "a")), RunOptions(only="four"))
