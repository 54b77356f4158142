"""The words and figures that the page and the Markdown share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from planrunner.engine.report_model import Pause, Report, ServerLine
    from planrunner.model import Json

# What people know the parts of a pause by; others keep their names.
PARTS = {
    "hold traffic": "traffic held back",
    "fence": "locks and fence",
    "barrier": "last changes arrive",
    "late tables": "tables copied in the pause",
    "large objects": "large objects",
    "verification": "both sides compared",
    "proofs": "further proofs",
    "sequences": "sequences set",
    "way back": "way back made ready",
    "commit": "commit",
    "open": "other side opened",
    "lead traffic": "traffic led over",
}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One figure of the summary."""

    label: str
    value: str
    note: str = ""


def tiles(report: Report) -> Iterator[Tile]:
    """The few figures that matter most; what nobody told is left out."""
    if report.rows is not None:
        within = [counted(report.tables, "table")] if report.tables is not None else []
        within += [human_bytes(report.bytes)] if report.bytes is not None else []
        yield Tile(label="Rows copied", value=f"{report.rows:,}", note=", ".join(within))
    if report.verification:
        equal = sum(line.equal for line in report.verification)
        proofs = counted(len(report.proofs), "further proof") if report.proofs else ""
        yield Tile(label="Tables equal", value=f"{equal:,} of {len(report.verification):,}", note=proofs)
    if report.write_pause_ms is not None:
        yield Tile(
            label="Write pause", value=milliseconds(report.write_pause_ms), note=_longest(report.pause)
        )
    if report.lag:
        worst = max(sample.lag_bytes for sample in report.lag)
        yield Tile(
            label="Largest lag",
            value=human_bytes(worst),
            note=f"at last {human_bytes(report.lag[-1].lag_bytes)}",
        )
    if any(step.seconds for step in report.steps):
        yield Tile(label="Time at work", value=human_seconds(worked(report)), note=_attempts(report))


def worked(report: Report) -> float:
    """Seconds of all attempts at all steps; time that went by waiting is not in it."""
    return sum(step.seconds or 0.0 for step in report.steps)


def milliseconds(count: float) -> str:
    """A short time for people: ``0.4 ms``, ``143 ms``, ``12.3 s``."""
    if count < 10:
        return f"{count:.1f} ms"
    return f"{count:.0f} ms" if count < 10_000 else f"{count / 1000:.1f} s"


def moment(at: datetime | None) -> str:
    """A point in time, to the second."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def clock(at: datetime) -> str:
    """A point in time within a day."""
    return f"{at:%H:%M:%S}"


def thousands(value: int | None) -> str:
    """A number with its thousands apart, nothing for None."""
    return "" if value is None else f"{value:,}"


def counted(number: int, what: str) -> str:
    """A number of things: ``1 table``, ``1,200 tables``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def part(name: str) -> str:
    """What a part of the pause is called."""
    return PARTS.get(name, name.replace("_", " "))


def version(server: ServerLine) -> str:
    """A server's version, or that nobody recorded it."""
    return f"PostgreSQL {server.version}" if server.version else "version not recorded"


def place(server: ServerLine) -> str:
    """Host and port; a socket's folder stands as it is."""
    return ":".join(word for word in (server.host, server.port) if word)


def told(name: str, value: Json) -> str:
    """A figure of a stream, by its name's ending."""
    if name.endswith("_bytes") and isinstance(value, int | float):
        return human_bytes(value)
    return str(value)


def named(name: str) -> str:
    """A figure's name for people."""
    return name.removesuffix("_bytes").replace("_", " ")


def facts(figures: Mapping[str, Json]) -> tuple[tuple[str, str], ...]:
    """Plain figures, named and written for people."""
    return tuple((named(name), told(name, value)) for name, value in figures.items())


def _longest(pause: Pause | None) -> str:
    if pause is None or not pause.parts_ms:
        return ""
    name, ms = max(pause.parts_ms.items(), key=lambda part: part[1])
    return f"{part(name)}: {milliseconds(ms)}"


def _attempts(report: Report) -> str:
    again = sum(max(0, step.attempts - 1) for step in report.steps)
    steps = counted(len(report.steps), "step")
    return f"{steps}, resumed {counted(again, 'time')}" if again else steps
