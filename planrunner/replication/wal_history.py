"""What a server itself tells of its WAL: the mean since its counters began, and how much the last checkpoint lacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import ServerError
from planrunner.model import Estimate
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from datetime import datetime

    from planrunner.postgres.connection import Server

_STATISTICS_SINCE = 140000
# Shorter ones tell of the moment, which is measured anyway.
_LEAST_SECONDS = 3600
_COUNTED = (
    "SELECT wal_bytes::bigint, stats_reset, extract(epoch FROM now() - stats_reset)::float8 FROM pg_stat_wal"
)
_SINCE_CHECKPOINT = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), redo_lsn)::bigint, checkpoint_time"
    " FROM pg_control_checkpoint()"
)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The mean in bytes a second since the counters began; None where ``reason`` says why."""

    rate: float | None = None
    since: datetime | None = None
    reason: str | None = None


def counted(source: Server) -> Counted:
    """What pg_stat_wal tells; it asks for one row."""
    try:
        if source.identity().version < _STATISTICS_SINCE:
            return Counted(reason="pg_stat_wal came with PostgreSQL 14")
        row = source.row(_COUNTED)
    except ServerError as error:
        return Counted(reason=error.message)
    if row is None or row[2] is None:
        return Counted(reason="pg_stat_wal does not tell since when it counts")
    if row[2] < _LEAST_SECONDS:
        return Counted(reason=f"pg_stat_wal was reset {row[2] / 60:.0f} min ago: too short to tell a mean")
    return Counted(rate=row[0] / row[2], since=row[1])


def estimates(source: Server, copy: Estimate | None) -> tuple[Estimate, ...]:
    """The mean rate, and what a slot holds at that rate for the time of the copy."""
    return told(counted(source), copy)


def told(found: Counted, copy: Estimate | None) -> tuple[Estimate, ...]:
    """The same of what was counted."""
    if found.rate is None:
        return (Estimate(name="wal_rate_counted", unit="B/s", reason=found.reason),)
    rate = Estimate(
        name="wal_rate_counted",
        unit="B/s",
        low=found.rate,
        high=found.rate,
        text=f"{human_bytes(found.rate)}/s in the mean since {found.since:%Y-%m-%d %H:%M %Z}",
        formula="pg_stat_wal: wal_bytes / (now - stats_reset)",
    )
    return (rate, *([_retained(found.rate, copy.low, copy.high)] if copy and copy.low and copy.high else []))


def _retained(rate: float, low: float, high: float) -> Estimate:
    return Estimate(
        name="wal_retained_counted",
        unit="B",
        low=rate * low,
        high=rate * high,
        text=f"a slot held for the copy grows to {human_bytes(rate * low)} to {human_bytes(rate * high)}",
        formula="wal_rate_counted * copy_time; a mean knows no busy hours",
    )


def checkpoint(source: Server) -> Estimate:
    """The WAL since the last checkpoint: a shutdown writes what it changed, a failover replays it."""
    try:
        row = source.row(_SINCE_CHECKPOINT)
    except ServerError as error:
        return Estimate(name="since_checkpoint", unit="B", reason=error.message)
    assert row is not None
    return Estimate(
        name="since_checkpoint",
        unit="B",
        low=float(row[0]),
        high=float(row[0]),
        text=f"{human_bytes(row[0])} of WAL since the checkpoint of {row[1]:%H:%M:%S %Z}: the more, the longer the"
        " restart",
        formula="pg_current_wal_lsn() - redo_lsn of pg_control_checkpoint(); a shutdown writes the pages it changed, a"
        " crash or failover replays it",
    )
