"""Preflight of who else replicates from the source: others' slots, standbys, and what a failover would leave of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres.preflight_parameters import changing, read
from planrunner.postgres.preflight_section import CAPACITY, Check, counted, some
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Server
    from planrunner.postgres.preflight_section import Needs

OTHER_SLOTS = Check(
    code="PR0550",
    section=CAPACITY,
    title="No slot of others holds WAL for nobody",
    why="An inactive slot keeps WAL without end, beside what ours keeps during the copy: together they fill the disk,"
    " and a full disk stops the source.",
)
FAILOVER = Check(
    code="PR0551",
    section=CAPACITY,
    title="The slot outlives a failover of the source, or everyone knows that it does not",
    why="A slot exists on the primary alone unless it is synchronized: after a failover to a standby the stream can't go"
    " on, and the copy begins anew. A Multi-AZ instance of RDS keeps its slots.",
)
SYNCHRONIZED = Check(
    code="PR0552",
    section=CAPACITY,
    title="No missing standby holds the stream back",
    why="A slot made for failover sends nothing that the standbys of synchronized_standby_slots have not confirmed; one"
    " that is away stops the stream.",
)

_SLOTS = """
SELECT slot_name::text, slot_type = 'physical', active, restart_lsn IS NOT NULL,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint
FROM pg_replication_slots WHERE NOT starts_with(slot_name::text, %(owned)s) ORDER BY 5 DESC, 1
"""
# Subscribers of logical slots are no standbys; who streams without a slot is one.
_STANDBYS = """
SELECT count(*)::int FROM pg_stat_replication s WHERE NOT EXISTS (
  SELECT FROM pg_replication_slots o WHERE o.active_pid = s.pid AND o.slot_type = 'logical')
  AND s.application_name NOT IN ('pg_basebackup', 'pg_receivewal')
"""
_FAILOVER_SINCE = 17


@dataclass(frozen=True, kw_only=True)
class _Slot:
    """A slot that is not ours; ``held`` is the WAL it keeps, in bytes."""

    name: str
    physical: bool
    active: bool
    reserved: bool
    held: int


def neighbours(source: Server, needs: Needs) -> Iterator[Finding]:
    """Others' inactive slots, standbys, synchronized_standby_slots."""
    slots = [
        _Slot(name=row[0], physical=row[1], active=row[2], reserved=row[3], held=row[4])
        for row in source.rows(_SLOTS, {"owned": _ours(needs)})
    ]
    yield _inactive(slots)
    yield from _failover(source, needs)
    if needs.failover:
        yield from _synchronized(source, slots)


def _ours(needs: Needs) -> str:
    # A verification's slot is the plan's own too, and no generation's.
    return needs.owned.removesuffix("g")


def _inactive(slots: Sequence[_Slot]) -> Finding:
    idle = [slot for slot in slots if not slot.active and slot.reserved]
    if not idle:
        return OTHER_SLOTS.passed("No slot of others holds WAL for nobody")
    names = [f"{slot.name} ({human_bytes(slot.held)})" for slot in idle]
    drops = " ".join(
        sql.SQL("SELECT pg_drop_replication_slot({});").format(sql.Literal(slot.name)).as_string()
        for slot in idle[:6]
    )
    return OTHER_SLOTS.warned(
        f"{counted(len(idle), 'inactive slot')} of others, holding WAL for nobody: {some(names)}",
        f"Start what reads them. Those that nobody reads any more: run on the source: {drops}",
    )


def _failover(source: Server, needs: Needs) -> Iterator[Finding]:
    standbys = int(source.value(_STANDBYS))
    able = source.identity().major >= _FAILOVER_SINCE
    shown = "1 standby streams" if standbys == 1 else f"{standbys} standbys stream"
    if needs.failover and not able:
        yield FAILOVER.warned(
            f"The plan asks for failover: true, and the source is older than PostgreSQL {_FAILOVER_SINCE}: its slots stay"
            " on the primary",
            "Take failover out of the sync step, and let no failover be planned while the migration runs.",
        )
    elif standbys and able and not needs.failover:
        yield FAILOVER.warned(
            f"{shown} from the source, and the plan's slots stay on the primary",
            "If a failover is to be survived: set failover: true in the sync step, and on the standby"
            " sync_replication_slots = on.",
        )
    elif standbys and not able:
        yield FAILOVER.passed(
            f"{shown} from the source; before PostgreSQL 17 a failover to it ends the stream"
        )
    else:
        yield FAILOVER.passed("No standby of the source would lack the slot after a failover")


def _synchronized(source: Server, slots: Sequence[_Slot]) -> Iterator[Finding]:
    parameter = read(source, ["synchronized_standby_slots"]).get("synchronized_standby_slots")
    if parameter is None or not parameter.value:
        return
    wanted = [name.strip().strip('"') for name in parameter.value.split(",")]
    streaming = {slot.name for slot in slots if slot.physical and slot.active}
    away = [name for name in wanted if name not in streaming]
    if away:
        left = ", ".join(name for name in wanted if name in streaming)
        yield SYNCHRONIZED.failed(
            f"The stream would wait for standbys that are not there: {some(away)} of synchronized_standby_slots",
            f"Start them, or take them out. {changing(source, parameter, left)}",
        )
    else:
        yield SYNCHRONIZED.passed(f"All standbys of synchronized_standby_slots stream ({some(wanted)})")
