"""Conditions: what they may ask for, and whether they hold."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.conditions import Facts, NotACondition, NotKnownYet, holds, names, shown_facts
from planrunner.flow import Condition

FACTS = Facts(
    source={"version": 16, "is_rds": False, "database": "app"},
    target={"version": 18},
    steps={"copy": {"status": "done", "attempts": 2}, "keys-2": {"status": "skipped"}, "later": None},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source.version < 17", True),
        ("source.is_rds or target.version > 18", False),
        ('not source.is_rds and source.database == "app"', True),
        ('steps.copy.status == "done" and steps.copy.attempts > 1', True),
        ('steps["keys-2"].status in ["done", "skipped"]', True),
        ('vars.env != "prod"', True),
        ("vars.wanted", False),
        ("-1 < target.version - source.version", True),
        ("true", True),
        ('true if vars.env == "test" else false', True),
    ],
)
def test_a_condition_is_computed_from_facts_and_variables(text: str, expected: bool) -> None:
    condition = Condition(text=text, variables={"env": "test", "wanted": False})
    assert holds(condition, FACTS) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("source.version", "neither true nor false"),
        ('source.version < "16"', "can't be computed"),
        ("source.version.bit_length()", "a call is not allowed"),
        ("source.version | string", "a filter is not allowed"),
        ("source.version is defined", "a test is not allowed"),
        ("{{ true }}", "without {{ }}"),
        ("true and", "can't be read"),
        ("2 ** 9 > 1", "not allowed"),
        ("x" * 2000, "longer than"),
        ("(" * 200 + "true" + ")" * 200, "can't be read"),
        ("steps[vars.env].status", "only names"),
    ],
)
def test_what_is_no_condition_is_told(text: str, reason: str) -> None:
    facts = Facts(source={"version": 16}, target={}, steps={})
    with pytest.raises(NotACondition) as refused:
        holds(Condition(text=text), facts)
    assert reason in refused.value.reason


@pytest.mark.parametrize("text", ['steps.later.status == "done"', "true or steps.later.attempts > 1"])
def test_what_only_the_run_will_tell_is_left_open(text: str) -> None:
    with pytest.raises(NotKnownYet):
        holds(Condition(text=text), FACTS)


def test_a_side_that_is_not_asked_leaves_the_condition_open() -> None:
    with pytest.raises(NotKnownYet):
        holds(Condition(text="source.version > 1"), Facts(source=None, target=None, steps={}))


def test_the_facts_are_shown_and_no_variable_is() -> None:
    condition = Condition(text='source.version > 17 and vars.token == "x"', variables={"token": "hunter2"})
    assert shown_facts(condition, FACTS) == "source.version is 16"


def test_every_name_is_listed_once() -> None:
    assert names('vars.a == "1" or source.version < target.version or vars.a == "2"') == (
        ("vars", "a"),
        ("source", "version"),
        ("target", "version"),
    )


@given(st.text(max_size=40) | st.recursive(st.sampled_from(["vars.a", "1", "(", ")", "not ", "source['x']", "-"]),
                                           lambda inner: st.lists(inner, max_size=4).map(" and ".join)))  # fmt: skip
def test_any_text_is_a_condition_or_told(text: Any) -> None:
    # Anything else that is raised fails the test by itself.
    with suppress(NotACondition):
        names(text)
