"""State files of every format version: older ones are lifted, a newer one is refused."""

import json
from pathlib import Path

import pytest

from planrunner.errors import StateUnfit
from planrunner.model import StepStatus
from planrunner.state.codec import from_json, to_json
from planrunner.state.file import FileStore
from planrunner.state.record import FORMAT_VERSION, MarkRecord

GOLDEN = Path(__file__).parents[2] / "data" / "state"
VERSIONS = range(1, FORMAT_VERSION + 1)


def golden(version: int) -> str:
    return (GOLDEN / f"version-{version}.json").read_text("utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_state_of_every_version_is_read_and_written_in_the_version_of_now(version: int) -> None:
    assert json.loads(golden(version))["format_version"] == version
    state = from_json(golden(version))
    assert state.format_version == FORMAT_VERSION
    assert from_json(to_json(state)) == state


@pytest.mark.parametrize("version", VERSIONS)
def test_what_an_older_version_knew_is_kept(version: int) -> None:
    state = from_json(golden(version))
    copy = state.steps["copy"]
    assert (state.lineage, state.serial, state.plan_id) == ("l", 7, "0011aabb")
    assert (copy.status, copy.attempts, copy.worked) == (StepStatus.FAILED, 3, 2.5)
    assert copy.progress["nested"] == {"name": "größe"}
    assert copy.performed == ("one", "two")
    assert [a.who for a in state.approvals] == ["ana@host"]


def test_a_state_of_version_1_has_no_marks_and_no_values() -> None:
    state = from_json(golden(1))
    assert state.marks == ()
    assert state.steps["copy"].values == {}


def test_a_state_of_version_2_has_them() -> None:
    state = from_json(golden(2))
    assert [type(mark) for mark in state.marks] == [MarkRecord]
    assert state.steps["copy"].values == {"uses": "snapshot", "with.jobs": 4}


def test_a_field_that_an_older_version_had_and_is_missing_is_damage() -> None:
    tree = json.loads(golden(1))
    del tree["steps"]["copy"]["attempts"]
    with pytest.raises(StateUnfit, match="attempts"):
        from_json(json.dumps(tree))


def test_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    newer = (GOLDEN / "version-newer.json").read_text("utf-8")
    path = tmp_path / "orders.yaml.state.json"
    path.write_text(newer, "utf-8")
    with pytest.raises(StateUnfit) as refused:
        FileStore(path).load()
    assert refused.value.exit_code == 6
    assert "newer" in (refused.value.remedy or "")
    assert path.read_text("utf-8") == newer
