"""The JSON form of a state: exact, and strict about what it reads."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner.errors import StateUnfit
from planrunner.model import Secret, StepStatus
from planrunner.state.codec import from_json, to_json
from planrunner.state.record import FORMAT_VERSION, State, StepState

EMPTY = State(lineage="l", plan="orders", plan_digest="d", steps={"copy": StepState(uses="snapshot")})


def changed(*path: str, value: object) -> str:
    tree = json.loads(to_json(EMPTY))
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(tree)


@given(
    st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none() | st.lists(st.text()))
)
def test_any_progress_survives(progress: dict[str, object]) -> None:
    state = EMPTY.with_step("copy", StepState(uses="snapshot", progress=progress))  # type: ignore[arg-type]
    assert from_json(to_json(state)) == state


def test_a_newer_format_is_refused_with_the_way_out() -> None:
    with pytest.raises(StateUnfit) as refused:
        from_json(changed("format_version", value=FORMAT_VERSION + 1))
    assert f"format version {FORMAT_VERSION + 1}" in refused.value.message
    assert "newer" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("serial",), "7"),
        (("serial",), True),
        (("format_version",), 0),
        (("surprise",), 1),
        (("steps", "copy", "status"), "finished"),
        (("steps", "copy", "started"), "2026-11-24T09:00:00"),
        (("steps", "copy", "attempts"), None),
        (("steps",), []),
        (("approvals",), [{"step": "copy"}]),
    ],
)
def test_a_wrong_member_is_refused(path: tuple[str, ...], value: object) -> None:
    with pytest.raises(StateUnfit):
        from_json(changed(*path, value=value))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "[" * 100_000, '{"format_version": 1}', "nonsense"])
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(StateUnfit):
        from_json(text)


def test_every_cut_of_a_state_is_refused() -> None:
    text = to_json(EMPTY).rstrip()
    for length in range(len(text)):
        with pytest.raises(StateUnfit):
            from_json(text[:length])


def test_a_secret_is_not_written() -> None:
    with pytest.raises(TypeError):
        to_json(replace(EMPTY, facts={"password": Secret("hunter2")}))  # type: ignore[dict-item]


def test_a_step_is_half_done_only_after_it_touched_something() -> None:
    begun = StepState(uses="snapshot", status=StepStatus.WAITING, attempts=1)
    assert not begun.half_done
    assert replace(begun, touched=True).half_done
    assert not replace(begun, touched=True, status=StepStatus.DONE).half_done
