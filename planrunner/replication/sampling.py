"""How far the data plane is, for whoever watches a run: a query or two on each server, none of them heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import ranges, slots, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json
    from planrunner.replication.workspace import Workspace

# What there is to copy changes slowly, and telling it reads the whole catalogue.
TOTALS_SECONDS = 60.0
_PROGRESS_SINCE = 140000
_COPIED = """
WITH unit AS (SELECT rows, bytes FROM planrunner.unit WHERE plan_id = %(plan)s),
     chunk AS (SELECT rows, bytes FROM planrunner.chunk WHERE plan_id = %(plan)s)
SELECT (SELECT count(*) FROM unit), (SELECT count(*) FROM chunk),
       coalesce((SELECT sum(rows) FROM (SELECT rows FROM unit UNION ALL SELECT rows FROM chunk) u), 0)::bigint,
       coalesce((SELECT sum(bytes) FROM (SELECT bytes FROM unit UNION ALL SELECT bytes FROM chunk) u), 0)::bigint
"""
_MOVING = """
SELECT coalesce(sum(p.bytes_processed), 0)::bigint, coalesce(sum(p.tuples_processed), 0)::bigint, count(*)
FROM pg_stat_progress_copy p JOIN pg_stat_activity a ON a.pid = p.pid
WHERE p.datname = current_database() AND p.command = 'COPY FROM' AND starts_with(a.application_name, %(label)s)
"""
_BUILDING = """
SELECT c.relname::text, p.phase, round(100.0 * p.blocks_done / nullif(p.blocks_total, 0))::int
FROM pg_stat_progress_create_index p JOIN pg_class c ON c.oid = p.relid
WHERE p.datname = current_database() ORDER BY 1
"""
_LAG = """
SELECT max(extract(epoch FROM r.replay_lag))::float8
FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid
WHERE starts_with(s.slot_name::text, %s)
"""


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What there is to copy: ``units``, and ``bytes`` as COPY will count them; as of ``at``, monotonic seconds."""

    at: float
    units: int
    bytes: int


def sample(workspace: Workspace, totals: Totals | None) -> tuple[Mapping[str, Json], Totals]:
    """What is copied, what is on its way, and how the streams do; with the totals to be given back next time.

    Bytes are those that crossed the line; ``bytes_total`` is an estimate: the source tells only what pages hold.
    """
    now = workspace.clock.monotonic()
    if totals is None or now - totals.at > TOTALS_SECONDS:
        totals = _totals(workspace, now)
    return {**_copied(workspace, totals), **_streams(workspace)}, totals


def _totals(workspace: Workspace, now: float) -> Totals:
    units = ranges.units(workspace, verify.followed_tables(workspace))
    done = workspace.ledger.units()
    whole = sum(unit.bytes for unit in units)
    pages = sum(unit.bytes for unit in units if unit.id in done)
    copied = sum(done[unit.id].bytes for unit in units if unit.id in done)
    left = whole - pages
    # The rest is taken to be as dense as what is copied.
    return Totals(
        at=now, units=len(units), bytes=copied + (left * copied // pages if pages and copied else left)
    )


def _copied(workspace: Workspace, totals: Totals) -> dict[str, Json]:
    found: dict[str, Json] = {"units": totals.units, "bytes_total": totals.bytes}
    target = workspace.target
    if workspace.ledger.exists():
        row = target.row(_COPIED, {"plan": workspace.names.plan_id})
        assert row is not None
        found |= {"units_done": row[0], "chunks_done": row[1], "rows": row[2], "bytes": row[3]}
    else:
        found |= {"units_done": 0, "chunks_done": 0, "rows": 0, "bytes": 0}
    if target.version() >= _PROGRESS_SINCE:
        moving = target.row(_MOVING, {"label": f"planrunner/{workspace.names.plan_id}"})
        assert moving is not None
        found |= {"moving_bytes": moving[0], "moving_rows": moving[1], "copying": moving[2]}
    building: list[Json] = [
        f"{name}: {phase}" + (f" {share} %" if share else "") for name, phase, share in target.rows(_BUILDING)
    ]
    return found | ({"building": building} if building else {})


def _streams(workspace: Workspace) -> dict[str, Json]:
    there = slots.shown(workspace.source, workspace.names.plan_prefix)
    found: dict[str, Json] = {
        "lag_bytes": max((slot.behind for slot in there.values()), default=0),
        "lag_seconds": workspace.source.value(_LAG, [workspace.names.plan_prefix]) if there else None,
        "retained_bytes": max((slot.retained for slot in there.values()), default=0),
    }
    streams: dict[str, Json] = {
        name: {
            "slot": slot.lost or slot.wal_status,
            "retained_bytes": slot.retained,
            "lag_bytes": slot.behind,
            **({} if slot.room is None else {"room_bytes": slot.room}),
        }
        for name, slot in there.items()
    }
    return {**found, "streams": streams}
