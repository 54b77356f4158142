"""Patterns of variables: matched like ``re`` does, and never for long."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from planrunner.errors import PlanInvalid
from planrunner.loading import load
from planrunner.loading.matching import Patience, TooSlow

WritePlan: TypeAlias = Callable[..., Path]

ENDLESS = ["(a+)+", "(a|aa)+", "(a*)*b", r"([a-z]+)*[0-9]", "(.*a){20}", r"^(\w+\s?)*$"]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_pattern_that_would_run_for_ever_is_given_up(pattern: str) -> None:
    try:
        assert Patience().matches(pattern, "a" * 40 + "!") is False
    except TooSlow:
        return


def test_plan_full_of_endless_patterns_is_told_at_once(write_plan: WritePlan) -> None:
    declared = "".join(f"  v{i}: {{default: {'a' * 60}!, pattern: '(a|aa|a?)+$'}}\n" for i in range(200))

    with pytest.raises(PlanInvalid) as caught:
        load(write_plan(("vars:\n", f"vars:\n{declared}")))

    assert "takes too long" in (caught.value.problems[0].remedy or "")
    assert len(caught.value.problems) == 200


@pytest.mark.parametrize("pattern", ["[a", "(", "a{2,1}", "*", "(?P<a>", "\\", "a" * 1001, "(?<=a+)b"])
def test_what_is_no_pattern_is_told(pattern: str, write_plan: WritePlan) -> None:
    path = write_plan(("vars:\n", f"vars:\n  given: {{default: a, pattern: '{pattern}'}}\n"))

    with pytest.raises(PlanInvalid) as caught:
        load(path)

    (problem,) = caught.value.problems
    assert problem.where == "vars.given.pattern"
    assert problem.remedy


def test_choice_that_is_itself_not_allowed_is_told_where_it_stands(write_plan: WritePlan) -> None:
    path = write_plan(
        (
            "vars:\n",
            "vars:\n  size: {type: integer, default: 1, enum: [1, two, 3.5]}\n"
            "  zone: {default: a, enum: [a, B], pattern: '[a-z]'}\n",
        )
    )

    with pytest.raises(PlanInvalid) as caught:
        load(path)

    assert [p.where for p in caught.value.problems] == [
        "vars.size.enum[1]",
        "vars.size.enum[2]",
        "vars.zone.enum[1]",
    ]
