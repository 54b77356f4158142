"""What operators ask for, as text: exact, and refused when it is anything else."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from planrunner.errors import StateUnfit
from planrunner.state.control import LIMITS, Control, from_json, to_json
from planrunner.steering import Steer

WHEN = datetime(2026, 11, 24, 9, 30, 15, tzinfo=UTC)
ASKED = Control(steer=Steer(paused=True, jobs=2, index_jobs=0), who="ana@host", when=WHEN)


@pytest.mark.parametrize("control", [Control(), ASKED, Control(steer=Steer(max_load=7), who="bo")])
def test_what_was_asked_for_is_read_back(control: Control) -> None:
    text = to_json(control)
    assert from_json(text, "place") == control
    assert text.startswith('{\n  "paused": ')
    assert text.endswith("}\n")


@pytest.mark.parametrize(
    ("control", "told"),
    [
        (Control(), "as the plan says"),
        (Control(who="ana", when=WHEN), "as the plan says"),
        (ASKED, "paused, jobs=2, index_jobs=0 (by ana@host since 2026-11-24 09:30:15)"),
        (Control(steer=Steer(max_load=7), who="bo"), "max_load=7 (by bo)"),
    ],
)
def test_it_is_told_in_words(control: Control, told: str) -> None:
    assert str(control) == told


def test_a_change_leaves_the_other_wishes_and_none_gives_a_limit_back() -> None:
    changed = ASKED.changed(who="bo", when=WHEN, wishes={"jobs": None, "max_load": 3})
    assert changed == Control(steer=Steer(paused=True, index_jobs=0, max_load=3), who="bo", when=WHEN)


def test_the_limits_are_those_of_the_work() -> None:
    assert LIMITS == ("jobs", "index_jobs", "max_load")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("paused", 1, "paused is 1"),
        ("paused", None, "paused is None"),
        ("jobs", True, "a limit is True"),
        ("jobs", -1, "a limit is -1"),
        ("index_jobs", "2", "a limit is '2'"),
        ("max_load", 1.5, "a limit is 1.5"),
        ("when", "yesterday", "yesterday"),
        ("when", 7, ""),
    ],
)
def test_a_wrong_member_is_told_with_the_way_out(name: str, value: object, why: str) -> None:
    tree = {**json.loads(to_json(ASKED)), name: value}
    with pytest.raises(StateUnfit, match="control file /some/where is damaged: ") as refused:
        from_json(json.dumps(tree), "/some/where")
    assert why in refused.value.message
    assert "planrunner pause PLAN" in (refused.value.remedy or "")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"paused": true}'])
def test_what_is_no_control_is_refused(text: str) -> None:
    with pytest.raises(StateUnfit):
        from_json(text, "place")


@pytest.mark.parametrize("name", ["paused", "who", "when", *LIMITS])
def test_a_missing_member_is_refused(name: str) -> None:
    tree = json.loads(to_json(ASKED))
    del tree[name]
    with pytest.raises(StateUnfit):
        from_json(json.dumps(tree), "place")


def test_an_empty_time_is_no_time() -> None:
    tree = {**json.loads(to_json(ASKED)), "when": ""}
    assert from_json(json.dumps(tree), "place").when is None


def test_zero_is_a_limit() -> None:
    assert from_json(to_json(Control(steer=Steer(jobs=0))), "place").steer.jobs == 0
