"""The JSON form of a state: exact, and strict about what it reads."""

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planrunner import masking
from planrunner.errors import StateUnfit
from planrunner.model import Secret, StepStatus
from planrunner.state.codec import from_json, to_json
from planrunner.state.record import FORMAT_VERSION, State, StepState

EMPTY = State(lineage="l", plan="orders", plan_digest="d", steps={"copy": StepState(uses="snapshot")})


def changed(*path: str, value: object, base: State = EMPTY) -> str:
    """The text with that member changed, and with the checksum that fits it: nothing but the change is wrong."""
    tree = json.loads(to_json(base))
    del tree["checksum"]
    inner = tree
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return summed(tree)


def summed(tree: dict[str, object]) -> str:
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return json.dumps({**tree, "checksum": hashlib.sha256(canonical.encode()).hexdigest()})


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


APPROVAL = {
    "step": "copy",
    "action": "step",
    "digest": "d",
    "who": "ana",
    "when": "2026-11-24T09:00:00+00:00",
    "why": "",
}
MARK = {"step": "copy", "status": "done", "who": "ana", "when": "2026-11-24T09:00:00+00:00", "why": ""}


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("serial",), "7", "serial is str, expected int"),
        (("serial",), True, "serial is bool, expected int"),
        (("lineage",), None, "lineage is NoneType, expected str"),
        (("plan",), 3, "plan is int"),
        (("plan_id",), 3, "plan_id is int"),
        (("plan_digest",), [], "plan_digest is list"),
        (("facts",), [], "facts is list"),
        (("format_version",), 0, "format_version 0 never was"),
        (("format_version",), 3.0, "format_version is float"),
        (("surprise",), 1, "State has other fields than expected: surprise"),
        (("steps",), [], "steps is list"),
        (("steps", "copy"), None, "step is NoneType"),
        (("steps", "copy", "surprise"), 1, "StepState has other fields than expected: surprise"),
        (("steps", "copy", "uses"), 1, "uses is int"),
        (("steps", "copy", "status"), "finished", "'finished' is not a valid StepStatus"),
        (("steps", "copy", "started"), "2026-11-24T09:00:00", "time without a zone: 2026-11-24T09:00:00"),
        (("steps", "copy", "resumed"), 7, "time is int, expected str"),
        (("steps", "copy", "finished"), "yesterday", "yesterday"),
        (("steps", "copy", "attempts"), None, "attempts is NoneType"),
        (("steps", "copy", "worked"), 1, "worked is int, expected float"),
        (("steps", "copy", "progress"), [], "progress is list"),
        (("steps", "copy", "parts"), [], "parts is list"),
        (("steps", "copy", "values"), [], "values is list"),
        (("steps", "copy", "digest"), None, "digest is NoneType"),
        (("steps", "copy", "error"), 1, "error is int"),
        (("steps", "copy", "touched"), 1, "touched is int, expected bool"),
        (("steps", "copy", "intent"), 1, "intent is int"),
        (("steps", "copy", "performed"), "x", "performed is str"),
        (("steps", "copy", "performed"), [1], "performed is int"),
        (("approvals",), {}, "approvals is dict"),
        (("approvals",), ["copy"], "approval is str"),
        (("approvals",), [{"step": "copy"}], "ApprovalRecord has other fields than expected: action, digest"),
        (("approvals",), [{**APPROVAL, "when": None}], "an approval has no time"),
        (("approvals",), [{**APPROVAL, "who": 1}], "who is int"),
        (("marks",), {}, "marks is dict"),
        (("marks",), ["copy"], "mark is str"),
        (("marks",), [{**MARK, "surprise": 1}], "MarkRecord has other fields than expected: surprise"),
        (("marks",), [{**MARK, "when": None}], "a mark has no time"),
        (("marks",), [{**MARK, "status": None}], "status is NoneType"),
    ],
)
def test_a_wrong_member_is_told(path: tuple[str, ...], value: object, why: str) -> None:
    with pytest.raises(StateUnfit) as refused:
        from_json(changed(*path, value=value))
    assert refused.value.message.startswith("it is damaged: ")
    assert why in refused.value.message


def test_members_of_the_right_kind_are_read() -> None:
    state = from_json(changed("approvals", value=[APPROVAL]))
    assert [(a.step, a.action, a.digest, a.who) for a in state.approvals] == [("copy", "step", "d", "ana")]
    marked = from_json(changed("marks", value=[MARK]))
    assert [(m.step, m.status, m.who) for m in marked.marks] == [("copy", "done", "ana")]
    timed = from_json(changed("steps", "copy", "started", value="2026-11-24T09:00:00+01:00"))
    assert str(timed.steps["copy"].started) == "2026-11-24 09:00:00+01:00"
    done = from_json(changed("steps", "copy", "performed", value=["a", "b"]))
    assert done.steps["copy"].performed == ("a", "b")


def test_a_state_that_was_laid_out_anew_is_still_itself() -> None:
    assert from_json(json.dumps(json.loads(to_json(EMPTY)), sort_keys=True)) == EMPTY


def test_a_member_without_its_checksum_is_refused() -> None:
    tree = json.loads(to_json(EMPTY))
    with pytest.raises(StateUnfit, match=r"its checksum does not fit what it says; .* planrunner state mark"):
        from_json(json.dumps({**tree, "serial": 7}))
    with pytest.raises(StateUnfit, match="checksum is int"):
        from_json(json.dumps({**tree, "checksum": 7}))
    del tree["checksum"]
    with pytest.raises(StateUnfit, match="it is damaged: checksum is missing"):
        from_json(json.dumps(tree))


def test_a_sensitive_value_is_kept_out_of_what_people_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_hushed", masking._Hushed())
    masking.hush("canary-secret")
    told = replace(
        EMPTY.with_step(
            "copy", StepState(uses="snapshot", error="no canary-secret", progress={"a": "canary-secret"})
        ),
        facts={"servers": {"source": "canary-secret"}, "key": "canary-secret"},
        lineage="canary-secret",
    )
    tree = json.loads(to_json(told))
    assert tree["steps"]["copy"]["error"] == "no ***"
    assert tree["steps"]["copy"]["progress"] == {"a": "***"}
    # What is compared later stays as it is.
    assert tree["facts"] == {"servers": {"source": "***"}, "key": "canary-secret"}
    assert tree["lineage"] == "canary-secret"


def test_a_state_is_laid_out_for_people() -> None:
    text = to_json(replace(EMPTY, plan="Größe"))
    assert text.splitlines()[1].startswith('  "')
    assert '"Größe"' in text


def test_what_is_no_number_is_neither_written_nor_read() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json(EMPTY.with_step("copy", StepState(uses="snapshot", progress={"done": float("nan")})))
    with pytest.raises(StateUnfit, match="it is damaged"):
        from_json(changed("steps", "copy", "progress", value={"done": float("inf")}))


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
