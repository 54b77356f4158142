"""The report: its figures come from what the steps told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from planrunner.engine.events import Event, EventKind
from planrunner.engine.files import run_files
from planrunner.engine.report import build_report, summary, to_json, to_markdown
from planrunner.model import StepStatus
from planrunner.state.record import State, StepState

START = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


def done(uses: str, **progress: Any) -> StepState:
    return StepState(
        uses=uses,
        status=StepStatus.DONE,
        started=START,
        finished=START + timedelta(seconds=2.5),
        worked=2.5,
        attempts=1,
        progress=progress,
    )


def test_figures_and_verdicts_are_gathered_from_the_steps(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    plan = tiny.plan_of(path, "", "", tiny.spec("copy", "snapshot"), tiny.spec("cut", "cutover_verify"))
    verdict = {"table": "public.a|b", "source_rows": 5, "target_rows": 5, "equal": True, "detail": None}
    steps = {
        "copy": done("snapshot", tables=3, rows=1200, bytes=4096),
        "cut": done("cutover_verify", pause={"total_ms": 41.5}, verification={"tables": [verdict]}),
    }
    state = State(lineage="l", plan="tiny", plan_digest="d", plan_id="00aa11bb", steps=steps)
    warning = Event(serial=1, at=START, kind=EventKind.WARNING, step="cut", message="slot is slow")
    report = build_report(plan, state, [warning, warning], run_files(path))
    assert (report.result, report.tables, report.rows, report.bytes) == ("migrated", 3, 1200, 4096)
    assert (report.write_pause_ms, report.verified, report.warnings) == (41.5, True, ("slot is slow",))
    text = to_markdown(report)
    assert "| copy | snapshot | done | 2.5 | 1 |" in text
    assert "public.a\\|b" in text
    assert "1,200 rows of 3 tables" in summary(report)
    assert json.loads(to_json(report))["steps"][0]["seconds"] == 2.5


def test_nothing_is_claimed_before_a_step_told_it(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    report = build_report(
        tiny.plan_of(path, "", "", tiny.spec("copy", "snapshot")), None, [], run_files(path)
    )
    assert (report.result, report.rows, report.write_pause_ms, report.verified) == (
        "incomplete",
        None,
        None,
        None,
    )


def test_one_difference_makes_it_unverified(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    plan = tiny.plan_of(path, "", "", tiny.spec("cut", "cutover_verify"))
    rows = [{"table": "a", "equal": True}, {"table": "b", "equal": False, "detail": "1 row more"}]
    state = State(
        lineage="l",
        plan="tiny",
        plan_digest="d",
        steps={"cut": done("cutover_verify", verification={"tables": rows})},
    )
    report = build_report(plan, state, [], run_files(path))
    assert report.verified is False
    assert "1 row more" in to_markdown(report)


def test_files_stand_beside_the_plan_or_the_named_state() -> None:
    plain = run_files(Path("plans/orders.yaml"))
    assert str(plain.state) == "plans/orders.yaml.state.json"
    assert str(plain.events) == "plans/orders.yaml.events.jsonl"
    assert str(plain.lock) == "plans/orders.yaml.state.json.lock"
    named = run_files(Path("plans/orders.yaml"), Path("elsewhere/x"))
    assert str(named.report_markdown) == "elsewhere/x.report.md"
