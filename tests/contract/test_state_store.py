"""What every state store has to do, run against each of them."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planrunner.errors import StateUnfit
from planrunner.model import StepStatus
from planrunner.ports import StateStore
from planrunner.state.file import FileStore
from planrunner.state.memory import MemoryStore
from planrunner.state.record import ApprovalRecord, State, StepState


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    return MemoryStore() if request.param == "memory" else FileStore(tmp_path / "plan.state.json")


def full_state() -> State:
    moment = datetime(2026, 11, 24, 9, 30, 12, 345678, tzinfo=UTC)
    step = StepState(
        uses="snapshot",
        status=StepStatus.FAILED,
        digest="d1",
        parts={"uses": "a", "with.jobs": "b"},
        started=moment,
        resumed=moment,
        finished=None,
        worked=2.5,
        attempts=3,
        progress={"rows": 12, "share": 0.5, "parts": [1, None, True], "nested": {"name": "größe"}},
        error="disk full",
        touched=True,
        intent="call hook",
        performed=("one", "two"),
    )
    approval = ApprovalRecord(
        step="cutover", action="step", digest="d2", who="ana@host", when=moment, why="the shop is closed"
    )
    return State(
        lineage="l",
        serial=7,
        plan="orders",
        plan_id="0011aabb",
        plan_digest="p",
        steps={"copy": step},
        approvals=(approval,),
        facts={"source": "1/app"},
    )


def test_a_store_is_empty_before_the_first_save(store: StateStore) -> None:
    assert store.load() is None


def test_what_was_saved_is_loaded_unchanged(store: StateStore) -> None:
    store.save(full_state())
    assert store.load() == full_state()


def test_the_last_save_counts(store: StateStore) -> None:
    for serial in range(1, 10):
        store.save(replace(full_state(), serial=serial))
    loaded = store.load()
    assert loaded is not None
    assert loaded.serial == 9


def test_what_is_no_json_is_refused_and_the_former_state_stays(store: StateStore) -> None:
    store.save(full_state())
    unfit = replace(full_state(), facts={"secret": object()})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        store.save(unfit)
    assert store.load() == full_state()


def test_a_state_of_another_migration_or_of_the_same_serial_does_not_follow(store: StateStore) -> None:
    store.save(full_state())
    for other in (replace(full_state(), lineage="another", serial=8), replace(full_state(), plan_digest="q")):
        with pytest.raises(StateUnfit):
            store.save(other)
    assert store.load() == full_state()
