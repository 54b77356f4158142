"""How events look while a run goes on."""

import io
import json
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from planrunner.cli.display import LiveLines, PlainLines, display_for, line_of
from planrunner.cli.options import Output
from planrunner.engine.events import Event, EventKind
from planrunner.model import Endpoint, Json, Plan, Side, StepSpec

PLAN = Plan(
    name="shop",
    path=Path("shop.yaml"),
    digest="d",
    source=Endpoint(side=Side.SOURCE, dsn=""),
    target=Endpoint(side=Side.TARGET, dsn=""),
    steps=(StepSpec(id="copy", uses="snapshot"), StepSpec(id="follow", uses="sync")),
)


def event(kind: EventKind, message: str, second: int = 0, **fields: Json) -> Event:
    at = datetime(2026, 11, 24, 9, 30, second, tzinfo=UTC)
    return Event(serial=1, at=at, kind=kind, step="copy", message=message, fields=fields)


def drawn(lines: LiveLines) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=100).print(lines._drawn())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_plain_lines_carry_time_step_and_text() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        PlainLines().show(event(EventKind.INTENT, "create slot", 7))
    assert out.getvalue() == "09:30:07  copy: → create slot\n"


@pytest.mark.parametrize(("mark", "sign"), [("pass", "✓"), ("warn", "!"), ("fail", "✗")])
def test_findings_carry_their_mark(mark: str, sign: str) -> None:
    assert line_of(event(EventKind.FINDING, "wal_level", mark=mark)) == f"copy: {sign} wal_level"


def test_json_lines_are_the_events_themselves() -> None:
    out = io.StringIO()
    shown = event(EventKind.NEWS, "copied", rows=3)
    with redirect_stdout(out), display_for(Output.JSON, PLAN, None) as display:
        display.show(shown)
    assert json.loads(out.getvalue()) == json.loads(shown.to_json())


def test_the_live_display_has_one_line_a_step_with_its_sums() -> None:
    lines = LiveLines(PLAN, None)
    lines.show(event(EventKind.STEP_STARTED, "snapshot begins"))
    for n in range(3):
        lines.show(event(EventKind.NEWS, f"copied t{n}", table=f"t{n}", rows=1000, bytes=2048))
    copy, follow = drawn(lines)
    assert copy.startswith("▸  copy")
    assert copy.endswith("3 tables, 3,000 rows, 6 kB; copied t2")
    assert follow.startswith("·  follow")


def test_a_finished_line_keeps_its_time() -> None:
    lines = LiveLines(PLAN, None)
    lines.show(event(EventKind.STEP_STARTED, "snapshot begins", 0))
    lines.show(event(EventKind.STEP_DONE, "snapshot is done", 42))
    copy, _ = drawn(lines)
    assert copy.startswith("✓  copy")
    assert "42.0 s" in copy
