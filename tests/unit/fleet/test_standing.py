"""What the table says of a member, told from real state files, locks and the journal."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from planrunner.clock import SystemClock
from planrunner.fleet.folder import Folder, folder_of
from planrunner.fleet.homes import beside
from planrunner.fleet.journal import Entry, What, append, chronicle
from planrunner.fleet.model import Fleet, Member, Wave
from planrunner.fleet.standing import MemberView, Standing, look
from planrunner.fleet.table import HEAD, rows, summary
from planrunner.model import StepStatus
from planrunner.state.file import FileStore
from planrunner.state.record import State, StepState

if TYPE_CHECKING:
    from pathlib import Path

MORNING = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "shop.yaml").touch()
    member = Member(
        name="shop-1",
        wave="all",
        plan=tmp_path / "shop.yaml",
        variables={"database": "one"},
        steps=("copy", "over"),
    )
    made = Fleet(
        name="shops",
        path=tmp_path / "fleet.yaml",
        digest="d",
        waves=(Wave(name="all", members=("shop-1",)),),
        members=(member,),
        max_parallel=2,
        stop_after=1,
    )
    folder_of(made.path).make()
    return made


@pytest.fixture
def folder(fleet: Fleet) -> Folder:
    return folder_of(fleet.path)


def save(folder: Folder, **steps: StepState) -> None:
    FileStore(folder.state("shop-1")).save(
        State(lineage="l", plan="shop", plan_digest="d", serial=1, steps=steps)
    )


def step(status: StepStatus, **more: object) -> StepState:
    return replace(StepState(uses="snapshot", status=status), **more)  # type: ignore[arg-type]


def note(folder: Folder, what: What, minutes: int, **more: object) -> None:
    entry = Entry(at=MORNING + timedelta(minutes=minutes), what=what, about="shop-1")
    append(folder.journal, replace(entry, **more))  # type: ignore[arg-type]


def seen(fleet: Fleet, folder: Folder) -> MemberView:
    (view,) = look(fleet, beside(folder), chronicle(folder.journal))
    return view


def test_who_was_never_begun_is_pending(fleet: Fleet, folder: Folder) -> None:
    assert seen(fleet, folder).standing is Standing.PENDING


def test_who_has_ended_every_step_is_done_whoever_ran_it(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    note(folder, What.ENDED, 1, code=1, told="the line broke")
    save(folder, copy=step(StepStatus.DONE), over=step(StepStatus.SKIPPED))

    view = seen(fleet, folder)
    assert (view.standing, view.told, view.steps_done) == (Standing.DONE, None, 2)


def test_who_holds_the_lock_is_running(fleet: Fleet, folder: Folder) -> None:
    store = FileStore(folder.state("shop-1"))
    with store.locked(SystemClock()):
        assert seen(fleet, folder).standing is Standing.RUNNING
    assert seen(fleet, folder).standing is Standing.PENDING


def test_who_was_begun_and_left_no_word_has_stopped(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    save(folder, copy=step(StepStatus.RUNNING, progress={"rows": 12, "bytes": 300}))

    view = seen(fleet, folder)
    assert (view.standing, view.step, view.rows, view.bytes) == (Standing.STOPPED, "copy", 12, 300)


def test_a_signal_that_ended_a_run_is_named(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    note(folder, What.ENDED, 2, code=-9)

    view = seen(fleet, folder)
    assert (view.standing, view.told, view.seconds) == (Standing.FAILED, "ended by SIGKILL", 120)


def test_an_error_is_told_as_the_run_told_it(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    note(folder, What.ENDED, 2, code=1, told="step copy failed: no key\nGive it one.")
    save(folder, copy=step(StepStatus.FAILED, error="no key"))

    view = seen(fleet, folder)
    assert view.told == "step copy failed: no key\nGive it one."
    assert rows([view], MORNING + timedelta(minutes=12))[0][-2:] == ("10 min", "step copy failed: no key")
    assert len(rows([view], MORNING)[0]) == len(HEAD)


def test_who_begins_again_has_no_error_any_more(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    note(folder, What.ENDED, 2, code=1, told="no key")
    note(folder, What.BEGUN, 3)

    view = seen(fleet, folder)
    assert (view.standing, view.told, view.attempts) == (Standing.STOPPED, None, 2)


def test_a_step_that_waits_is_named(fleet: Fleet, folder: Folder) -> None:
    save(folder, copy=step(StepStatus.DONE, progress={"lag_bytes": 7}), over=step(StepStatus.WAITING))

    view = seen(fleet, folder)
    assert (view.standing, view.step, view.lag_bytes) == (Standing.WAITING, "over", 7)
    assert view.told == "step over waits for approval"


def test_a_damaged_state_is_a_failure_of_its_member_alone(fleet: Fleet, folder: Folder) -> None:
    folder.state("shop-1").write_text("{")

    view = seen(fleet, folder)
    assert view.standing is Standing.FAILED
    assert "damaged" in (view.told or "")
    assert summary([view]) == "1 members: 1 failed"


def test_the_roster_is_read_as_it_was_kept(fleet: Fleet, folder: Folder) -> None:
    folder.keep(fleet)

    assert folder.kept(fleet.path) == fleet


def test_a_torn_line_of_the_journal_costs_itself_alone(fleet: Fleet, folder: Folder) -> None:
    note(folder, What.BEGUN, 0)
    with folder.journal.open("ab") as file:
        file.write(b'{"at": "2026')
    note(folder, What.ENDED, 1, code=0)

    past = chronicle(folder.journal).of("shop-1")
    assert (past.begun, past.code) == (1, 0)


def test_an_approval_is_for_the_members_that_the_wave_had(fleet: Fleet, folder: Folder) -> None:
    wave = Wave(name="all", members=("shop-1",), manual=True)
    append(
        folder.journal,
        Entry(at=MORNING, what=What.APPROVED, about="all", digest=wave.digest, who="ana@ops", why="fine"),
    )

    known = chronicle(folder.journal)
    assert known.approves("all", wave.digest)
    assert not known.approves("all", replace(wave, members=("shop-1", "shop-2")).digest)
