"""What is said of an edited field: where, from what, to what, and never a password."""

from typing import Any

import pytest

from planrunner.engine.edits import ABSENT, difference, plain
from planrunner.engine.runner import RunOptions, run_plan
from planrunner.errors import StateUnfit


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (4, 8, ["with.jobs: 4 → 8"]),
        (ABSENT, 8, ["with.jobs: not there → 8"]),
        (8, ABSENT, ["with.jobs: 8 → not there"]),
        ("4", 4, ['with.jobs: "4" → 4']),
        (4, 4, []),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, ["with.jobs.a.c: 2 → 3"]),
        ({"a": 1}, {"a": 1, "d": 4}, ["with.jobs.d: not there → 4"]),
        (["x", "y"], ["x", "z"], ['with.jobs[1]: "y" → "z"']),
        (["x"], ["x", "z"], ['with.jobs: ["x"] → ["x", "z"]']),
        ("postgresql://u:hunter2@h/d", "x", ['with.jobs: "postgresql://u:***@h/d" → "x"']),
    ],
)
def test_only_the_part_that_changed_is_told(before: Any, after: Any, told: list[str]) -> None:
    assert list(difference("with.jobs", before, after)) == told


def test_a_long_value_is_cut() -> None:
    (line,) = difference("with.sql", "x" * 1000, "y")
    assert len(line) < 200


def test_what_is_recorded_holds_no_password() -> None:
    assert plain({"dsn": ["postgresql://u:hunter2@h/d"]}) == {"dsn": ["postgresql://u:***@h/d"]}


def test_an_edit_in_mid_run_is_refused_with_the_old_and_the_new_value(bench: Any) -> None:
    run_plan(bench.setup(bench.touch("one", "a")), RunOptions())
    with pytest.raises(StateUnfit) as refused:
        run_plan(bench.setup(bench.touch("one", "b")), RunOptions())
    assert refused.value.exit_code == 6
    assert 'with.files[0]: "a" → "b"' in refused.value.message
    for way in ("Revert", "--accept one", "--rerun one"):
        assert way in (refused.value.remedy or "")
    run_plan(bench.setup(bench.touch("one", "a")), RunOptions())
