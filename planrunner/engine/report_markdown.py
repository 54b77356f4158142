"""The report as Markdown, safe to paste: no name and no message in it can become a link, an image or a tag."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planrunner.engine.report_json import digest
from planrunner.engine.report_wording import (
    clock,
    facts,
    milliseconds,
    moment,
    part,
    place,
    thousands,
    version,
)
from planrunner.shown import visible
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planrunner.engine.report_model import Pause, Report, VerdictLine

# The whole series is in the JSON and on the page.
_POINTS = 20
_SPECIAL = re.compile(r"([\\`*\[\]<>|!~])")
_EDGE = re.compile(r"(?<!\w)_|_(?!\w)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LINK = re.compile(r"(?i)(https?|ftp|mailto|xmpp)(:)|(www)(\.)|(\S)(@)")
_BLOCK = re.compile(r"\A([+-](?=\s|\Z)|#(?=#*(?:\s|\Z))|[=-](?=[=-]*\Z)|\d+(?=[.)](?:\s|\Z)))")


def to_markdown(report: Report) -> str:
    """Result and figures first, then the evidence for them, then the ways back."""
    blocks = [
        f"# Migration {_text(report.plan)}: {report.result}",
        f"**{_text(report.verdict.text)}.** {_text(report.verdict.reason)}",
        "\n".join(_figure_lines(report, _text)),
        _table(("Step", "Uses", "Status", "Seconds", "Attempts"), list(_steps(report))),
        *_sections(report),
        "---",
        "\n".join(_origin(report)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def summary(report: Report) -> str:
    """The last lines on the screen."""
    lines = (f"  {line[2:]}" for line in _figure_lines(report, str))
    return "\n".join([f"{report.plan}: {report.result}", *lines])


def _sections(report: Report) -> Iterator[str]:
    for title, body in (
        ("Errors", _list(f"**{_text(s.id)}**: {_text(s.error)}" for s in report.steps if s.error)),
        ("Servers", _servers(report)),
        ("The write pause", _pause(report.pause)),
        ("The way back was taken", _pause(report.rolled_back)),
        ("Proven at the gate", _table(("Proof", "Verdict", "What was found"), list(_proofs(report)))),
        ("Verification", _table(_VERDICT_HEAD, [_verdict(line) for line in report.verification])),
        ("Sequences", _table(("Sequence", "Source", "Target", "Headroom"), list(_sequences(report)))),
        ("Decisions: what is not carried exactly", _list(map(_text, report.decisions))),
        ("Warnings", _list(map(_text, report.warnings))),
        ("Pace of the copy", _pace(report)),
        ("Lag of the streams", _lag(report)),
        ("Rehearsals", "\n\n".join(map(_pause, report.rehearsals))),
        ("Traffic", _table(("Hook", "Phase", "Seconds"), list(_switch(report)))),
        ("Reverse replication", _list(f"{_text(n)}: {_text(v)}" for n, v in facts(report.reverse))),
        ("Approvals", _table(("Step", "What", "Who", "When", "Why"), list(_approvals(report)))),
        ("What can be done now", "\n\n".join(_ways(report))),
    ):
        if body:
            yield f"## {title}\n\n{body}"


_VERDICT_HEAD = ("Table", "Source rows", "Target rows", "Verdict", "How")


def _figure_lines(report: Report, shown: Callable[[str], str]) -> Iterator[str]:
    if report.rows is not None:
        size = human_bytes(report.bytes or 0)
        yield f"- copied: {report.rows:,} rows of {report.tables or 0} tables, {size}"
    if report.write_pause_ms is not None:
        yield f"- write pause: {report.write_pause_ms:.0f} ms"
    if report.verified is not None:
        yield f"- verified: {'both sides are equal' if report.verified else 'the sides differ'}"
    if report.decisions:
        yield f"- decisions: {len(report.decisions)} things are not carried exactly, see the report"
    yield f"- state: {shown(report.state_file)}"
    yield f"- report: {shown(report.report_file)}"
    yield f"- page: {shown(report.html_file)}"


def _steps(report: Report) -> Iterator[tuple[str, ...]]:
    for step in report.steps:
        seconds = "" if step.seconds is None else f"{step.seconds:.1f}"
        status = f"{step.status}: {step.skipped}" if step.skipped else step.status
        yield (step.id, step.uses, status, seconds, str(step.attempts))


def _servers(report: Report) -> str:
    head = ("Side", "Version", "Where", "Database", "Login", "System identifier")
    rows = [
        (s.side, version(s), place(s), s.database or "", s.user or "", s.system_identifier or "")
        for s in report.servers
    ]
    return _table(head, rows)


def _proofs(report: Report) -> Iterator[tuple[str, ...]]:
    for proof in report.proofs:
        yield (proof.name, proof.word, "; ".join((proof.text, *proof.detail)))


def _pause(pause: Pause | None) -> str:
    if pause is None:
        return ""
    at = f", {moment(pause.at)}" if pause.at else ""
    rows = [(part(name), milliseconds(ms)) for name, ms in pause.parts_ms.items()]
    table = f"\n\n{_table(('Part', 'Took'), rows)}" if rows else ""
    return f"{milliseconds(pause.total_ms)} in all{at}{table}"


def _switch(report: Report) -> Iterator[tuple[str, ...]]:
    for one in report.switch:
        yield (one.name, one.phase, "" if one.seconds is None else f"{one.seconds:.3f}")


def _verdict(line: VerdictLine) -> tuple[str, ...]:
    rows = (thousands(value) for value in (line.source_rows, line.target_rows))
    return (line.table, *rows, "equal" if line.equal else line.detail or "differs", line.how or "")


def _sequences(report: Report) -> Iterator[tuple[str, ...]]:
    for one in report.sequence_values:
        yield (one.sequence, thousands(one.source), thousands(one.target), thousands(one.headroom))


def _pace(report: Report) -> str:
    rows = [(moment(rate.ended), f"{human_bytes(rate.bytes_per_second)}/s") for rate in report.throughput]
    return _series(("Until", "Copied"), rows)


def _lag(report: Report) -> str:
    rows = [
        (
            moment(s.at),
            human_bytes(s.lag_bytes),
            "" if s.retained_bytes is None else human_bytes(s.retained_bytes),
        )
        for s in report.lag
    ]
    return _series(("At", "Behind", "Kept on the source"), rows)


def _series(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    step = max(1, -(-len(rows) // _POINTS))
    told = f"\n\nEvery {step}th of {len(rows)} points; all are in the JSON." if step > 1 else ""
    return _table(head, rows[step - 1 :: step]) + told


def _approvals(report: Report) -> Iterator[tuple[str, ...]]:
    for a in report.approvals:
        yield (a.step, a.action, a.who, moment(a.when), a.why)


def _ways(report: Report) -> Iterator[str]:
    for way in report.way_back:
        yield f"{_text(way.purpose)}\n\n{_code(way.command)}"


def _origin(report: Report) -> Iterator[str]:
    origin = report.origin
    yield f"- plan id: {report.plan_id or 'none yet'}, plan digest: {_text(origin.plan_digest)}"
    if origin.lineage is not None:
        yield f"- state: serial {origin.serial} of lineage {_text(origin.lineage)}"
    if report.began is not None and report.ended is not None:
        yield f"- journal: {moment(report.began)} to {clock(report.ended)} ({moment(report.ended)})"
    yield f"- planrunner {origin.planrunner}, SHA-256 of the JSON: {digest(report)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [list(head), ["---"] * len(head), *(list(map(_text, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(texts: Iterator[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _text(text: str | None) -> str:
    """One line that says the text and nothing else, wherever it stands."""
    line = visible(" ".join((text or "").split()))
    line = _ENTITY.sub(r"\\&", _SPECIAL.sub(r"\\\1", line))
    return _BLOCK.sub(_escaped_start, _LINK.sub(_unlinked, _EDGE.sub(r"\\_", line)))


def _unlinked(match: re.Match[str]) -> str:
    before, mark = (group for group in match.groups() if group is not None)
    return f"{before}\\{mark}"


def _escaped_start(match: re.Match[str]) -> str:
    # A number that would begin a list is told apart from its full stop.
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _code(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}\n{visible(text)}\n{fence}"
