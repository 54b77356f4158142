"""One table for all members, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from planrunner.fleet.standing import Standing
from planrunner.shown import in_one_line
from planrunner.units import human_bytes, human_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from planrunner.fleet.standing import MemberView
    from planrunner.model import Json

HEAD = ("MEMBER", "WAVE", "STATUS", "STEPS", "AT", "ROWS", "LAG", "SINCE", "")
_LONGEST = 60


def rows(views: Sequence[MemberView], now: datetime) -> list[tuple[str, ...]]:
    """The cells of every member's line."""
    return [_row(view, now) for view in views]


def _row(view: MemberView, now: datetime) -> tuple[str, ...]:
    since = "" if view.since is None else human_seconds(max(0.0, (now - view.since).total_seconds()))
    return (
        view.name,
        view.wave,
        view.standing.value,
        f"{view.steps_done}/{view.steps}",
        view.step or "",
        "" if view.rows is None else f"{view.rows:,}",
        "" if view.lag_bytes is None else human_bytes(view.lag_bytes),
        since,
        head_of(view.remark),
    )


def head_of(told: str | None) -> str:
    """The beginning of an error, in one line."""
    text = in_one_line((told or "").partition("\n")[0])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def counts(views: Sequence[MemberView]) -> dict[str, int]:
    """How many members stand how; what nobody is at is left out."""
    found = Counter(view.standing for view in views)
    return {standing.value: found[standing] for standing in Standing if found[standing]}


def summary(views: Sequence[MemberView]) -> str:
    """One line for all: ``12 members: 3 pending, 9 done``."""
    return f"{len(views)} members: {', '.join(f'{n} {word}' for word, n in counts(views).items()) or 'none'}"


def as_json(view: MemberView) -> dict[str, Json]:
    """One member for programs."""
    return {
        "name": view.name,
        "wave": view.wave,
        "status": view.standing.value,
        "steps_done": view.steps_done,
        "steps": view.steps,
        "step": view.step,
        "rows": view.rows,
        "bytes": view.bytes,
        "lag_bytes": view.lag_bytes,
        "since": view.since.isoformat(timespec="seconds") if view.since else None,
        "attempts": view.attempts,
        "seconds": round(view.seconds, 1),
        "error": view.told,
        "until": view.until,
    }
