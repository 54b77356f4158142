"""What a run did, from its state and its journal: the summary at the end and the report on file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from planrunner.engine.events import EventKind, read_events
from planrunner.engine.looking import recorded
from planrunner.errors import StateUnfit
from planrunner.model import Mark, StepStatus
from planrunner.state.file import FileStore
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from planrunner.engine.events import Event
    from planrunner.engine.files import RunFiles
    from planrunner.engine.looking import StepView
    from planrunner.model import Json, Plan
    from planrunner.state.record import State


@dataclass(frozen=True, kw_only=True)
class StepLine:
    """One step of the report."""

    id: str
    uses: str
    status: str
    seconds: float | None
    attempts: int
    error: str | None


@dataclass(frozen=True, kw_only=True)
class VerdictLine:
    """What the comparison found for one table; of equal tables only the one count may be known."""

    table: str
    source_rows: int | None
    target_rows: int | None
    equal: bool
    detail: str | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a migration. None stands for what no step has told (yet).

    ``rows`` and ``bytes`` are what the copy moved, ``write_pause_ms`` how long the source took no writes.
    """

    plan: str
    plan_id: str | None
    result: str
    steps: tuple[StepLine, ...]
    tables: int | None
    rows: int | None
    bytes: int | None
    write_pause_ms: float | None
    verified: bool | None
    verification: tuple[VerdictLine, ...]
    decisions: tuple[str, ...]
    warnings: tuple[str, ...]
    state_file: str
    report_file: str


def build_report(plan: Plan, state: State | None, events: Sequence[Event], files: RunFiles) -> Report:
    """Put the report together; reads no server."""
    steps = recorded(plan, state, running=False)
    figures = {step.uses: step.figures for step in steps}
    comparison = _comparison(figures)
    verification = _verdicts(comparison)
    return Report(
        plan=plan.name,
        plan_id=state.plan_id if state else None,
        result=_result(steps),
        steps=tuple(map(_line, steps)),
        tables=_whole(_number(figures, ("tables",))),
        rows=_whole(_number(figures, ("rows",))),
        bytes=_whole(_number(figures, ("bytes",))),
        write_pause_ms=_number(figures, ("write_pause_ms", "total_ms")),
        verified=_verified(comparison, verification),
        verification=verification,
        decisions=_decisions(figures),
        warnings=tuple(_warnings(events)),
        state_file=str(files.state),
        report_file=str(files.report_markdown),
    )


def write_report(plan: Plan, files: RunFiles) -> Report | None:
    """Write the report as Markdown and JSON beside the state; None when there is no state to tell of."""
    state = FileStore(files.state).load()
    if state is None:
        return None
    report = build_report(plan, state, read_events(files.events), files)
    _replace(files.report_markdown, to_markdown(report))
    _replace(files.report_json, to_json(report))
    return report


def to_json(report: Report) -> str:
    """The report as indented JSON."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"


def to_markdown(report: Report) -> str:
    """The report as Markdown: result, figures, steps, verification, warnings."""
    parts = [f"# Migration {report.plan}: {report.result}", "\n".join(_figure_lines(report))]
    parts.append(_table(("Step", "Uses", "Status", "Seconds", "Attempts"), [_cells(s) for s in report.steps]))
    errors = [f"- **{s.id}**: {_one_line(s.error)}" for s in report.steps if s.error]
    parts += ["## Errors\n\n" + "\n".join(errors)] if errors else []
    if report.verification:
        parts.append(
            "## Verification\n\n" + _table(_VERDICT_HEAD, [_verdict(v) for v in report.verification])
        )
    if report.decisions:
        told = "\n".join(f"- {_one_line(text)}" for text in report.decisions)
        parts.append("## Decisions: what is not carried exactly\n\n" + told)
    if report.warnings:
        parts.append("## Warnings\n\n" + "\n".join(f"- {_one_line(w)}" for w in report.warnings))
    return "\n\n".join(parts) + "\n"


def summary(report: Report) -> str:
    """The last lines on the screen."""
    return "\n".join(
        [f"{report.plan}: {report.result}", *(f"  {line[2:]}" for line in _figure_lines(report))]
    )


_VERDICT_HEAD = ("Table", "Source rows", "Target rows", "Verdict")


def _result(steps: Sequence[StepView]) -> str:
    statuses = {step.status for step in steps}
    if statuses == {StepStatus.DONE.value}:
        return "migrated"
    for status in (StepStatus.FAILED.value, StepStatus.WAITING.value, "interrupted"):
        if status in statuses:
            return status
    return "incomplete"


def _line(step: StepView) -> StepLine:
    return StepLine(
        id=step.id,
        uses=step.uses,
        status=step.status,
        seconds=step.seconds,
        attempts=step.attempts,
        error=step.error,
    )


def _number(figures: Mapping[str, Mapping[str, Json]], names: Sequence[str]) -> float | None:
    """The last step's figure of one of those names, also one level down (``pause.total_ms``)."""
    found: float | None = None
    for own in figures.values():
        for level in (own, *(v for v in own.values() if isinstance(v, dict))):
            for name in names:
                value = level.get(name)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found = float(value)
    return found


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _comparison(figures: Mapping[str, Mapping[str, Json]]) -> Mapping[str, Json]:
    found = (own["verification"] for own in figures.values() if isinstance(own.get("verification"), dict))
    return cast("Mapping[str, Json]", next(found, {}))


def _verdicts(comparison: Mapping[str, Json]) -> tuple[VerdictLine, ...]:
    rows = comparison.get("tables")
    if not isinstance(rows, list):
        return ()
    return tuple(_verdict_line(cast("dict[str, Any]", row)) for row in rows if isinstance(row, dict))


def _verdict_line(row: Mapping[str, Any]) -> VerdictLine:
    return VerdictLine(
        table=str(row.get("table")),
        source_rows=row.get("source_rows", row.get("rows")),
        target_rows=row.get("target_rows", row.get("rows")),
        equal=bool(row.get("equal")),
        detail=row.get("detail"),
    )


def _decisions(figures: Mapping[str, Mapping[str, Json]]) -> tuple[str, ...]:
    """Every decision that any step tells among its figures, once."""
    lists = [own["decisions"] for own in figures.values() if isinstance(own.get("decisions"), list)]
    return tuple(dict.fromkeys(str(text) for told in lists for text in cast("list[Json]", told)))


def _verified(comparison: Mapping[str, Json], verdicts: Sequence[VerdictLine]) -> bool | None:
    """None when nothing was compared: silence is no proof."""
    if not verdicts:
        return None
    return comparison.get("equal") is not False and all(verdict.equal for verdict in verdicts)


def _warnings(events: Sequence[Event]) -> Iterator[str]:
    told = set[str]()
    for event in events:
        warns = (
            event.kind is EventKind.WARNING
            or (event.kind is EventKind.FINDING and event.fields.get("mark") == Mark.WARN.value)
            or (event.kind is EventKind.NEWS and event.message.startswith("warning:"))
        )
        if warns and event.message not in told:
            told.add(event.message)
            yield event.message


def _figure_lines(report: Report) -> Iterator[str]:
    if report.rows is not None:
        size = human_bytes(report.bytes or 0)
        yield f"- copied: {report.rows:,} rows of {report.tables or 0} tables, {size}"
    if report.write_pause_ms is not None:
        yield f"- write pause: {report.write_pause_ms:.0f} ms"
    if report.verified is not None:
        yield f"- verified: {'both sides are equal' if report.verified else 'the sides differ'}"
    if report.decisions:
        yield f"- decisions: {len(report.decisions)} things are not carried exactly, see the report"
    yield f"- state: {report.state_file}"
    yield f"- report: {report.report_file}"


def _cells(step: StepLine) -> tuple[str, ...]:
    seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
    return (step.id, step.uses, step.status, seconds, str(step.attempts))


def _verdict(line: VerdictLine) -> tuple[str, ...]:
    rows = ("" if count is None else str(count) for count in (line.source_rows, line.target_rows))
    return (line.table, *rows, "equal" if line.equal else line.detail or "differs")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError as error:
        raise StateUnfit(
            f"cannot write report {path}: {error.strerror}", remedy="Make its folder writable."
        ) from error
