"""The evidence of a migration, put together from its state and its journal; no server is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from planrunner import __version__
from planrunner.engine import report_figures, report_series, report_verdict
from planrunner.engine.events import EventKind, read_events
from planrunner.engine.looking import recorded
from planrunner.engine.report_commands import Standing, cleaned, way_back
from planrunner.engine.report_html import to_html
from planrunner.engine.report_json import to_json
from planrunner.engine.report_markdown import summary, to_markdown
from planrunner.engine.report_model import ApprovalLine, Origin, Report, StepLine
from planrunner.engine.report_verdict import Evidence, Pauses
from planrunner.errors import StateUnfit
from planrunner.failpoints import failpoint
from planrunner.ignoring import told_finding
from planrunner.masking import without_passwords
from planrunner.model import Mark
from planrunner.state.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from planrunner.engine.events import Event
    from planrunner.engine.files import RunFiles
    from planrunner.engine.looking import StepView
    from planrunner.engine.report_figures import Figures
    from planrunner.engine.report_model import Attempt
    from planrunner.model import Json, Plan
    from planrunner.ports import StateStore
    from planrunner.state.record import State


def build_report(
    plan: Plan,
    state: State | None,
    events: Sequence[Event],
    files: RunFiles,
    *,
    flags: Sequence[str] = (),
    running: bool = False,
) -> Report:
    """Put the report together; the same state and journal give the same report.

    ``flags`` are the options, quoted for a shell, that lead to the same plan and state; ``running``
    tells whether a run is at work now.
    """
    steps = recorded(plan, state, running=running)
    figures = report_figures.Figures(steps)
    pauses = _pauses(figures, events)
    word = report_verdict.result(plan, state, steps, pauses)
    evidence = _evidence(plan, state, steps, figures)
    reverse = report_figures.scalars(figures.mapping("reverse"))
    plan_id = state.plan_id if state else None
    made = Report(
        plan=plan.name,
        plan_id=plan_id,
        result=word,
        verdict=report_verdict.verdict(word, evidence),
        origin=_origin(plan, state),
        began=events[0].at if events else None,
        ended=events[-1].at if events else None,
        servers=tuple(report_figures.servers(state)),
        steps=_lines(steps, report_series.attempts(events, running=running)),
        tables=figures.whole("tables"),
        rows=figures.whole("rows"),
        bytes=figures.whole("bytes"),
        write_pause_ms=pauses.cutover.total_ms if pauses.cutover else None,
        pause=pauses.cutover,
        rehearsals=pauses.rehearsals,
        rolled_back=pauses.rolled_back,
        switch=report_figures.switches(figures.mappings("switch")),
        verified=evidence.verified,
        verification=tuple(evidence.verification),
        proofs=tuple(evidence.proofs),
        sequences=_sequences(figures),
        sequence_values=report_figures.sequences(figures.mappings("sequence_values")),
        reverse=reverse,
        throughput=report_series.throughput(events),
        lag=report_series.lag(events),
        decisions=figures.texts("decisions"),
        warnings=tuple(dict.fromkeys(_warnings(events))),
        approvals=_approvals(state),
        way_back=tuple(way_back(plan.path, plan_id, _standing(word, pauses, reverse, events), flags)),
        state_file=files.place,
        report_file=str(files.report_markdown),
        html_file=str(files.report_html),
    )
    return without_passwords(made)


def write_report(
    plan: Plan, files: RunFiles, store: StateStore | None = None, *, flags: Sequence[str] = ()
) -> Report | None:
    """Write the report as page, Markdown and JSON beside the state; None when there is no state to tell of."""
    state = (store or FileStore(files.state)).load()
    if state is None:
        return None
    report = build_report(plan, state, read_events(files.events), files, flags=flags)
    _replace(files.report_markdown, to_markdown(report))
    _replace(files.report_json, to_json(report))
    _replace(files.report_html, to_html(report))
    return report


def _evidence(plan: Plan, state: State | None, steps: Sequence[StepView], figures: Figures) -> Evidence:
    comparison = figures.mapping("verification")
    verification = report_figures.verdicts(comparison, report_figures.way_of_proof(plan, state))
    proofs = report_figures.proofs(figures.mappings("proofs"))
    equal = comparison.get("equal") is not False
    return Evidence(
        steps=steps,
        verification=verification,
        proofs=proofs,
        verified=report_verdict.verified(verification, equal=equal, proofs=proofs),
        decisions=len(figures.texts("decisions")),
    )


def _pauses(figures: Figures, events: Sequence[Event]) -> Pauses:
    rehearsals = report_figures.pauses(figures.mappings("rehearsals"))
    returned = report_series.crossings(events, report_series.RETURNED)
    return Pauses(
        cutover=report_figures.pause(figures.mapping("pause")),
        rehearsals=rehearsals or report_series.crossings(events, report_series.REHEARSED),
        rolled_back=report_figures.pause(figures.mapping("rolled_back")) or next(reversed(returned), None),
    )


def _sequences(figures: Figures) -> int | None:
    """How many sequences were carried, as a step counted them or by those that are told one by one."""
    counted = (
        figures.whole("sequences"),
        report_figures.whole(figures.mapping("verification").get("sequences")),
    )
    found = next((count for count in counted if count is not None), None)
    return found or len(figures.mappings("sequence_values")) or None


def _standing(word: str, pauses: Pauses, reverse: Mapping[str, Json], events: Sequence[Event]) -> Standing:
    cut_over = pauses.cutover is not None and word == report_verdict.MIGRATED
    return Standing(word=word, cut_over=cut_over, reverse=bool(reverse), cleaned=cleaned(events))


def _origin(plan: Plan, state: State | None) -> Origin:
    return Origin(
        planrunner=__version__,
        plan_digest=state.plan_digest if state else plan.digest,
        lineage=state.lineage if state else None,
        serial=state.serial if state else None,
    )


def _lines(steps: Sequence[StepView], runs: Mapping[str, tuple[Attempt, ...]]) -> tuple[StepLine, ...]:
    return tuple(
        StepLine(
            id=step.id,
            uses=step.uses,
            status=step.status,
            seconds=step.seconds,
            attempts=step.attempts,
            error=step.error,
            runs=runs.get(step.id, ()),
            skipped=report_figures.text(step.figures.get("skipped")),
        )
        for step in steps
    )


def _approvals(state: State | None) -> tuple[ApprovalLine, ...]:
    return tuple(
        ApprovalLine(step=a.step, action=a.action, who=a.who, when=a.when, why=a.why)
        for a in (state.approvals if state else ())
    ) + tuple(
        ApprovalLine(step=m.step, action=f"marked {m.status}", who=m.who, when=m.when, why=m.why)
        for m in (state.marks if state else ())
    )


def _warnings(events: Sequence[Event]) -> Iterator[str]:
    for event in events:
        if event.kind is EventKind.RETRY:
            yield f"{event.step}: {event.message}"
        elif event.kind is EventKind.FINDING:
            if event.fields.get("mark") == Mark.WARN.value or event.fields.get("ignored"):
                yield told_finding(event.message, event.fields)
        elif event.kind is EventKind.WARNING or (
            event.kind is EventKind.NEWS and event.message.startswith("warning:")
        ):
            yield event.message


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, "utf-8")
        failpoint("report.before_replace")
        temporary.replace(path)
    except OSError as error:
        raise StateUnfit(
            f"cannot write report {path}: {error.strerror}", remedy="Make its folder writable."
        ) from error


__all__ = ["build_report", "summary", "to_html", "to_json", "to_markdown", "write_report"]
