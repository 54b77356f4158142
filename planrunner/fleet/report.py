"""The report of a fleet: one line a member, with its own report beside it, and the sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.fleet import table
from planrunner.on_demand import on_demand
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from planrunner import pages
    from planrunner.fleet.standing import MemberView
    from planrunner.model import Json
else:
    pages = on_demand("planrunner.pages")

TEMPLATE = "report.html.j2"


@dataclass(frozen=True, kw_only=True)
class MemberLine:
    """One member; ``page`` leads to its own report from where this one lies, None where there is none."""

    view: MemberView
    page: str | None


@dataclass(frozen=True, kw_only=True)
class FleetReport:
    """The evidence of a fleet at a moment."""

    fleet: str
    at: datetime
    lines: tuple[MemberLine, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many members stand how."""
        return table.counts([line.view for line in self.lines])

    @property
    def rows(self) -> int:
        """Rows copied, as the members told."""
        return sum(line.view.rows or 0 for line in self.lines)

    @property
    def bytes(self) -> int:
        """Bytes copied, as the members told."""
        return sum(line.view.bytes or 0 for line in self.lines)


def as_json(report: FleetReport) -> dict[str, Json]:
    """The report for programs."""
    return {
        "fleet": report.fleet,
        "at": report.at.isoformat(timespec="seconds"),
        "counts": dict(report.counts),
        "rows": report.rows,
        "bytes": report.bytes,
        "members": [{**table.as_json(line.view), "report": line.page} for line in report.lines],
        "notes": list(report.notes),
    }


def to_markdown(report: FleetReport, safe: Callable[[str], str]) -> str:
    """The report as Markdown; ``safe`` makes text of it that is no markup."""
    head = f"# Fleet {safe(report.fleet)}\n\n{report.at:%Y-%m-%d %H:%M:%S} UTC. {_summary(report)}\n"
    columns = ("Member", "Wave", "Status", "Steps", "Rows", "Size", "Attempts", "Worked", "Error")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cells(line, safe)) + " |" for line in report.lines]
    return "\n".join((head, *lines, "", *(f"- {safe(note)}" for note in report.notes))).rstrip() + "\n"


def to_html(report: FleetReport) -> str:
    """One page that needs nothing else; every text in it is escaped by the template engine."""
    return (
        pages.environment("planrunner.fleet")
        .get_template(TEMPLATE)
        .render(report=report, summary=_summary(report))
        .lstrip()
    )


def _summary(report: FleetReport) -> str:
    counts = ", ".join(f"{count} {word}" for word, count in report.counts.items())
    return f"{len(report.lines)} members: {counts}; {report.rows:,} rows, {human_bytes(report.bytes)} copied."


def _cells(line: MemberLine, safe: Callable[[str], str]) -> tuple[str, ...]:
    view = line.view
    return (
        f"[{safe(view.name)}]({line.page})" if line.page else safe(view.name),
        safe(view.wave),
        view.standing.value,
        f"{view.steps_done}/{view.steps}",
        "" if view.rows is None else f"{view.rows:,}",
        "" if view.bytes is None else human_bytes(view.bytes),
        str(view.attempts or ""),
        human_seconds(view.seconds) if view.seconds else "",
        safe(table.head_of(view.remark)),
    )
