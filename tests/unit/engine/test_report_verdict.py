"""The sentence at the top claims no more than was proven."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from planrunner.engine.events import Event, EventKind
from planrunner.engine.files import run_files
from planrunner.engine.report import build_report, summary
from planrunner.engine.report_model import Tone
from planrunner.model import StepStatus
from tests import evidence

EQUAL = {"table": "a", "rows": 1, "equal": True}
LATER, EARLIER = "2026-11-28T09:00:00Z", "2026-11-20T09:00:00Z"


def tables(*rows: dict[str, Any], **told: Any) -> dict[str, Any]:
    return {"tables": list(rows), **told}


@pytest.mark.parametrize(
    ("told", "result", "tone", "text"),
    [
        ({}, "migrated", Tone.GOOD, "Migrated: every row proven"),
        ({"verification": tables(EQUAL)}, "migrated", Tone.GOOD, "Migrated: every row proven"),
        (
            {"verification": tables({**EQUAL, "how": "row count"})},
            "migrated",
            Tone.GOOD,
            "Migrated: every row count proven",
        ),
        ({"verification": None}, "migrated", Tone.OPEN, "Done, without a proof"),
        ({"verification": tables()}, "migrated", Tone.OPEN, "Done, without a proof"),
        (
            {"verification": tables(EQUAL, {"table": "b", "equal": False})},
            "migrated",
            Tone.BAD,
            "Migrated, but not proven: the sides differ",
        ),
        # What does not say that it is equal is not.
        (
            {"verification": tables({"table": "b", "rows": 1})},
            "migrated",
            Tone.BAD,
            "Migrated, but not proven: the sides differ",
        ),
        (
            {"verification": tables(EQUAL, equal=False)},
            "migrated",
            Tone.BAD,
            "Migrated, but not proven: the sides differ",
        ),
        (
            {"proofs": [{"name": "indexes", "equal": False, "text": "one is invalid", "stops": True}]},
            "migrated",
            Tone.BAD,
            "Migrated, but not proven: the sides differ",
        ),
        # Nobody said whether it matters.
        (
            {"proofs": [{"name": "indexes", "equal": False, "text": "one is invalid"}]},
            "migrated",
            Tone.OPEN,
            "Migrated: every row proven",
        ),
        (
            {"verification": tables({**EQUAL, "how": "live, 3 of 40 buckets again inside the pause"})},
            "migrated",
            Tone.GOOD,
            "Migrated: every row proven",
        ),
        (
            {"rolled_back": {"total_ms": 90, "at": LATER}},
            "rolled back",
            Tone.OPEN,
            "Rolled back: the source is in charge again",
        ),
        (
            {"rolled_back": {"total_ms": 90, "at": EARLIER}},
            "migrated",
            Tone.GOOD,
            "Migrated: every row proven",
        ),
        ({"pause": None}, "rehearsed", Tone.OPEN, "Rehearsed: nothing was changed"),
    ],
)
def test_the_verdict_rests_on_what_the_steps_told(told: Any, result: str, tone: Tone, text: str) -> None:
    made = evidence.report(known=evidence.state(**told))
    assert (made.result, made.verdict.tone, made.verdict.text) == (result, tone, text)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (StepStatus.FAILED, "Failed at step cutover"),
        (StepStatus.WAITING, "Waiting at step cutover"),
        (StepStatus.RUNNING, "Interrupted at step cutover"),
        (StepStatus.PENDING, "Under way"),
    ],
)
def test_a_migration_that_is_not_through_says_where_it_stands(status: StepStatus, text: str) -> None:
    known = evidence.state(**dict.fromkeys(evidence.cutover()))
    known = known.with_step("cutover", replace(known.steps["cutover"], status=status))
    made = evidence.report(known=known)
    assert made.verdict.text == text
    assert made.verdict.tone is not Tone.GOOD
    assert [way.command.split()[1] for way in made.way_back] == ["run", "cleanup"]


def test_a_run_at_work_is_under_way_and_not_interrupted(tmp_path: Any) -> None:
    plan, known = evidence.plan(tmp_path), evidence.state(**dict.fromkeys(evidence.cutover()))
    known = known.with_step("cutover", replace(known.steps["cutover"], status=StepStatus.RUNNING))
    made = build_report(plan, known, evidence.events(), run_files(plan.path), running=True)
    assert (made.result, made.verdict.text) == ("running", "Under way")


def test_nothing_is_said_of_rows_when_the_plan_only_counted_or_was_edited_since(tmp_path: Any) -> None:
    known = evidence.state(verification=tables(EQUAL))
    counting = evidence.plan(tmp_path, verify="counts")
    made = build_report(counting, known, [], run_files(counting.path))
    assert made.verdict.text == "Migrated: every row count proven"
    edited = replace(known.steps["cutover"], digest="other")
    made = build_report(
        evidence.plan(tmp_path), known.with_step("cutover", edited), [], run_files(counting.path)
    )
    assert made.verification[0].how is None
    assert made.verdict.text == "Migrated: every row count proven"


def test_a_plan_that_only_rehearses_never_counts_as_migrated(tmp_path: Any) -> None:
    plan = evidence.plan(tmp_path, rehearse=True)
    assert build_report(plan, evidence.state(), [], run_files(plan.path)).result == "rehearsed"


def test_without_a_stream_back_the_way_back_says_what_is_lost() -> None:
    made = evidence.report(known=evidence.state(reverse=None))
    assert [way.command.split()[0] for way in made.way_back] == ["DROP", "planrunner"]
    assert "not there" in made.way_back[0].purpose


def test_after_a_cleanup_there_is_no_stream_to_go_back_by() -> None:
    ended = Event(
        serial=99,
        at=evidence.after(days=4),
        kind=EventKind.RUN_ENDED,
        step=None,
        message="cleanup",
        fields={"result": "cleaned"},
    )
    made = evidence.report(told=[*evidence.events(), ended])
    assert [way.command.split()[0] for way in made.way_back] == ["DROP"]


def test_a_rollback_is_known_by_the_journal_when_the_state_has_forgotten_the_cutover() -> None:
    returned = Event(
        serial=99,
        at=evidence.after(days=4),
        kind=EventKind.NEWS,
        step="cutover",
        message="rolled back: writes paused for 80.5 ms; the source takes them again",
        fields={"total_ms": 80.5, "parts_ms": {"fence": 10}},
    )
    forgotten = evidence.state().without_step("cutover")
    made = evidence.report(known=forgotten, told=[*evidence.events(), returned])
    assert made.result == "rolled back"
    assert made.rolled_back is not None
    assert (made.rolled_back.total_ms, made.rolled_back.at) == (80.5, evidence.after(days=4))
    assert [way.command.split()[1] for way in made.way_back] == ["run", "cleanup"]
    earlier = replace(returned, at=evidence.after(days=2))
    assert evidence.report(told=[*evidence.events(), earlier]).result == "migrated"


def test_the_rows_of_the_copy_are_not_mistaken_for_those_compared() -> None:
    assert evidence.report().rows == 12_000_000
    assert "12,000,000 rows of 12 tables" in summary(evidence.report())
