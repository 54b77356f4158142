"""How far a run of a fleet lets its members go, wave by wave: real states and journals, runs that only write those."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import DecisionNeeded, StepFailed
from planrunner.fleet.course import Course, Means
from planrunner.fleet.crew import Ended
from planrunner.fleet.folder import Folder, folder_of
from planrunner.fleet.homes import beside
from planrunner.fleet.journal import Entry, What, append, chronicle
from planrunner.fleet.model import Fleet, Member, Wave
from planrunner.fleet.standing import Standing, look
from planrunner.model import StepStatus
from planrunner.state.file import FileStore
from planrunner.state.record import State, StepState

if TYPE_CHECKING:
    from pathlib import Path

STEPS = ("copy", "follow", "over")
WAVES = (
    Wave(name="canary", members=("a",), canary=True),
    Wave(name="one", members=("b", "c")),
    Wave(name="two", members=("d",), manual=True),
)


@dataclass
class Runs:
    """Begins members' runs, each of which has ended at once as far as it was to go, but for those who ``fail``."""

    folder: Folder
    until: str | None
    fail: frozenset[str] = frozenset()
    begun: list[str] = field(default_factory=list)

    def begin(self, member: Member) -> Any:
        self.begun.append(member.name)
        failing = member.name in self.fail
        done = () if failing else member.up_to(self.until)
        store = FileStore(self.folder.state(member.name))
        before = store.load()
        steps = {step: StepState(uses="snapshot", status=StepStatus.DONE) for step in done}
        if failing:
            steps["copy"] = StepState(uses="snapshot", status=StepStatus.FAILED, error="no")
        state = before or State(lineage="l", plan="shop", plan_digest="d", serial=0)
        store.save(replace(state, serial=state.serial + 1, steps={**state.steps, **steps}))
        return Over(member, Ended(code=1 if failing else 0, told="no" if failing else None))


@dataclass
class Over:
    """A run that has ended."""

    member: Member
    ended: Ended

    def poll(self) -> Ended:
        return self.ended

    def stop(self) -> None:
        raise AssertionError("nobody is to be stopped")


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "shop.yaml").touch()
    members = tuple(
        Member(name=name, wave=wave.name, plan=tmp_path / "shop.yaml", variables={}, steps=STEPS)
        for wave in WAVES
        for name in wave.members
    )
    made = Fleet(
        name="shops",
        path=tmp_path / "fleet.yaml",
        digest="d",
        waves=WAVES,
        members=members,
        max_parallel=1,
        stop_after=9,
    )
    folder_of(made.path).make()
    return made


def go(fleet: Fleet, until: str | None, *fail: str) -> tuple[list[str], list[str]]:
    """Run the fleet: who was begun, and what was told."""
    folder = folder_of(fleet.path)
    runs, told = Runs(folder, until, frozenset(fail)), list[str]()
    means = Means(tell=told.append, homes=beside(folder), begin=runs.begin)
    try:
        Course(fleet, folder, SystemClock(), means, until=until).go()
    except (DecisionNeeded, StepFailed) as error:
        told.append(f"{error.message}\n{error.remedy}")
    return runs.begun, told


def approve(fleet: Fleet, until: str | None) -> None:
    now = SystemClock().now()
    entry = Entry(at=now, what=What.APPROVED, about="two", digest=WAVES[2].digest, until=until)
    append(folder_of(fleet.path).journal, entry)


def standings(fleet: Fleet) -> dict[str, tuple[str, str | None]]:
    folder = folder_of(fleet.path)
    views = look(fleet, beside(folder), chronicle(folder.journal))
    return {view.name: (view.standing.value, view.until) for view in views}


def test_all_follow_wave_by_wave_and_then_go_on_wave_by_wave(fleet: Fleet) -> None:
    approve(fleet, "follow")
    begun, told = go(fleet, "follow")
    assert begun == ["a", "b", "c", "d"]
    assert "wave one: 2 of 2 members are to be done up to follow" in told
    assert "d: done up to follow" in told
    assert set(standings(fleet).values()) == {("reached", "follow")}
    assert go(fleet, "follow")[0] == [], "whoever is done up to there is passed over"

    begun, told = go(fleet, None)
    assert begun == ["a", "b", "c"], "what was approved up to a step is approved no further"
    assert "wave two (1 members) waits for approval" in told[-1]
    assert told[-1].endswith(f"planrunner fleet approve {fleet.path} two")
    assert standings(fleet) == {**dict.fromkeys("abc", ("done", None)), "d": ("reached", "follow")}

    approve(fleet, None)
    assert go(fleet, None)[0] == ["d"]
    assert set(standings(fleet).values()) == {("done", None)}


def test_a_wave_that_was_not_approved_so_far_says_how_it_is(fleet: Fleet) -> None:
    approve(fleet, "copy")
    begun, told = go(fleet, "follow")
    assert begun == ["a", "b", "c"]
    assert told[-1].endswith(f"planrunner fleet approve {fleet.path} two --until follow")
    approve(fleet, None)
    assert go(fleet, "follow")[0] == ["d"], "approved to the end is approved up to every step"


def test_a_canary_that_fails_keeps_the_waves_from_following(fleet: Fleet) -> None:
    begun, told = go(fleet, "follow", "a")
    assert begun == ["a"]
    assert told[-1].endswith(f"go on with: planrunner fleet run {fleet.path} --until follow")
    assert standings(fleet)["a"] == ("failed", None)
    assert standings(fleet)["b"] == ("pending", None)


def test_who_came_so_far_in_another_run_counts_as_done(fleet: Fleet) -> None:
    folder = folder_of(fleet.path)
    Runs(folder, "follow").begin(fleet.members[1])
    assert standings(fleet)["b"] == ("stopped", None), "nobody has asked the fleet for more"
    approve(fleet, None)
    assert go(fleet, "follow")[0] == ["a", "c", "d"]
    assert standings(fleet)["b"] == ("reached", "follow")


def test_who_was_refused_because_a_former_run_was_at_work_is_shown_by_its_state(fleet: Fleet) -> None:
    folder, now = folder_of(fleet.path), SystemClock().now()
    append(folder.journal, Entry(at=now, what=What.BEGUN, about="a", until="follow"))
    append(folder.journal, Entry(at=now, what=What.ENDED, about="a", code=5, told="locked"))
    assert standings(fleet)["a"] == ("failed", None)
    Runs(folder, "follow").begin(fleet.members[0])
    assert standings(fleet)["a"] == ("reached", "follow")


def test_who_was_begun_to_go_further_by_himself_and_was_killed_has_stopped(fleet: Fleet) -> None:
    approve(fleet, None)
    go(fleet, "follow")
    store = FileStore(folder_of(fleet.path).state("a"))
    state = store.load()
    assert state is not None
    over = StepState(uses="cutover_verify", status=StepStatus.RUNNING)
    store.save(replace(state, serial=state.serial + 1, steps={**state.steps, "over": over}))
    assert standings(fleet)["a"] == ("stopped", None)


def test_a_fleet_that_was_killed_shows_who_has_come_so_far(fleet: Fleet) -> None:
    folder = folder_of(fleet.path)
    for member, what in ((fleet.members[0], "follow"), (fleet.members[1], "copy")):
        entry = Entry(at=SystemClock().now(), what=What.BEGUN, about=member.name, until="follow")
        append(folder.journal, entry)
        Runs(folder, what).begin(member)
    assert standings(fleet)["a"] == ("reached", "follow")
    assert standings(fleet)["b"] == (Standing.STOPPED.value, None)
