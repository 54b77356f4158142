"""Joins the streams of several generations at one commit, so that what lost snapshots divided is whole again.

Streams that follow ranges of one table may wait for each other for ever once it has a second unique index: each
wants to insert a row whose former self the other has yet to delete. So they are joined before such an index
is built: a further slot is made; one transaction on the source writes a stop marker to every stream; a trigger
on the target disables each subscription in the very transaction that brings its marker, so each has applied
all up to that commit and nothing after it. The new slot is advanced to that commit's end, and in one
transaction on the target the new subscription takes the place of the old ones, with the ledger saying so. A slot's
advance is lost in a crash of the source before its next checkpoint, so the new subscription's origin is moved there too.
Until that transaction commits everything can be undone by enabling the old subscriptions again.

A join that was broken off leaves markers behind that a slow stream takes in only later. So each join has a token of its
own: nothing else stops a stream, and one counts as stopped only where it shows that token.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn
from planrunner.replication import barrier, generations, logins, ranges, slots, subscriptions
from planrunner.replication.health import observe
from planrunner.replication.names import SCHEMA, STOP_TRIGGER
from planrunner.replication.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.subscriptions import Subscription
    from planrunner.replication.units import Unit
    from planrunner.replication.workspace import Workspace

STOP_SECONDS = 300.0
_STOPPABLE = "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgname = %s AND tgrelid = to_regclass(%s))"


def merge(workspace: Workspace, tables: Sequence[Table], *, streams: int) -> None:
    """Let ``streams`` new generations follow what all present ones follow; nothing of the old ones is left.

    Every present generation is subscribed and has caught up. StepFailed when a stream does not stop within
    five minutes; the old streams go on then.
    """
    old = workspace.ledger.generations()
    # The streams that are waited for must be able to dial, and the new one takes its login inside a transaction.
    logins.ready(workspace, workspace.source)
    undo(workspace)
    first = max(old) + 1
    copied = workspace.ledger.units()
    mine = [unit for unit in ranges.units(workspace, tables) if unit.id in copied]
    groups = generations.grouped(mine, range(first, first + streams), generations.writes(workspace.source))
    also: dict[int, tuple[str, ...]] = {}
    for generation, units in groups.items():
        also[generation] = generations.create_publications(workspace, generation, units)
        generations.barrier_on_target(workspace, generation)
    ranges.tell_truncates_to(workspace, (*old, *groups))
    for generation in groups:
        slots.create_plain(workspace, generation)
    failpoint("merge.slots_made")
    try:
        _take_over(workspace, groups, old, also)
    except BaseException:
        undo(workspace)
        raise
    for generation in groups:
        subscriptions.enable(workspace, generation)
    # From here on the new streams have a position of their own on the target, which no crash of the source takes back.
    barrier.wait(workspace, tuple(groups), timeout=STOP_SECONDS)
    for generation in old:
        generations.clear(workspace, generation)
    workspace.tell(
        f"joined {len(old)} streams into {', '.join(map(workspace.names.stream, groups))}",
        {"former": list(old), "generations": list(groups)},
    )


def undo(workspace: Workspace) -> None:
    """Bring back the old streams of a merge that did not come to its end; nothing happens without one."""
    owning = set(workspace.ledger.generations())
    for generation in sorted(owning):
        _let_go_on(workspace, generation)
    for generation, subscription in subscriptions.existing(workspace.target, workspace.names).items():
        if generation in owning and not subscription.enabled:
            subscriptions.enable(workspace, generation)
    for generation in generations.left(workspace):
        if generation not in owning:
            generations.clear(workspace, generation)


def _let_go_on(workspace: Workspace, generation: int) -> None:
    """Take the trigger away before its marker comes, where a join has left one."""
    table = workspace.names.barrier(generation)
    if workspace.target.value(_STOPPABLE, [STOP_TRIGGER, f"{SCHEMA}.{table}"]):
        with workspace.writing() as session:
            session.execute("SET LOCAL client_min_messages = warning")
            session.execute(subscriptions.letting_go(workspace.names, generation))
            failpoint("merge.before_let_go")


def _take_over(
    workspace: Workspace,
    groups: Mapping[int, Sequence[Unit]],
    old: Sequence[int],
    also: Mapping[int, Sequence[str]],
) -> None:
    token = uuid.uuid4()
    with workspace.writing() as session:
        for generation in old:
            for statement in _stopping(workspace, generation, token):
                session.execute(statement)
    failpoint("merge.stoppable")
    _start_stopped(workspace, old)
    # The new slots' streams have to show the marker's transaction too, and leave empty ones out.
    xid = _stop(workspace, (*old, *groups), token)
    failpoint("merge.stopped")
    _wait_stopped(workspace, old, token)
    ends: dict[int, Lsn] = {}
    for generation in groups:
        name = workspace.names.stream(generation)
        with workspace.source.session() as session:
            ends[generation] = end = _commit_end(session, name, xid)
            session.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [name, str(end)])
    failpoint("merge.advanced")
    with workspace.writing() as session:
        for generation in old:
            subscriptions.drop_in(workspace, session, generation)
        for generation, units in groups.items():
            workspace.ledger.give_units(session, [unit.id for unit in units], generation)
            numbers = {
                ranges.recorded(workspace)[u.table.qualified].number for u in units if u.part is not None
            }
            owned = ranges.Owned(wholes=tuple(sorted(numbers)), parts=())
            subscriptions.create_in(
                workspace, session, generation, owned, also=also[generation], begins=ends[generation]
            )
    failpoint("merge.taken_over")


def _start_stopped(workspace: Workspace, old: Sequence[int]) -> None:
    """Start what a former join's marker has stopped since those were undone; from now on none of them stops anything."""
    found = subscriptions.existing(workspace.target, workspace.names)
    for generation in old:
        if not found[generation].enabled:
            with workspace.writing() as session:
                session.execute(subscriptions.starting(workspace.names.stream(generation)))
                failpoint("merge.before_start")


def _stopping(workspace: Workspace, generation: int, token: uuid.UUID) -> tuple[sql.Composed, ...]:
    names = workspace.names
    function = sql.Identifier(SCHEMA, names.stop_function(generation))
    body = (
        sql.SQL("BEGIN ALTER SUBSCRIPTION {} DISABLE; RETURN NULL; END")
        .format(sql.Identifier(names.stream(generation)))
        .as_string()
    )
    return (
        sql.SQL(
            "CREATE OR REPLACE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS {}"
        ).format(function, sql.Literal(body)),
        subscriptions.letting_go(names, generation),
        sql.SQL(
            "CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW WHEN (NEW.stop AND NEW.token = {token})"
            " EXECUTE FUNCTION {function}(); ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"
        ).format(
            trigger=sql.Identifier(STOP_TRIGGER),
            table=sql.Identifier(SCHEMA, names.barrier(generation)),
            function=function,
            token=sql.Literal(str(token)),
        ),
    )


def _stop(workspace: Workspace, streams: Sequence[int], token: uuid.UUID) -> int:
    """Write the stop marker to every stream in one transaction; its id as the stream tells it, 32 bits."""
    with workspace.source.transaction() as session:
        for generation in streams:
            table = sql.Identifier(SCHEMA, workspace.names.barrier(generation))
            session.execute(sql.SQL("INSERT INTO {} (token, stop) VALUES (%s, true)").format(table), [token])
        row = session.execute("SELECT pg_current_xact_id()::text::numeric % 4294967296").fetchone()
    assert row is not None
    return int(row[0])


def _wait_stopped(workspace: Workspace, old: Sequence[int], token: uuid.UUID) -> None:
    deadline = workspace.clock.monotonic() + STOP_SECONDS
    watch = Watch(workspace, old, following=True, acting=True, stopping=True)
    while True:
        found = subscriptions.existing(workspace.target, workspace.names)
        going = [workspace.names.stream(g) for g in old if not _is_stopped(workspace, found.get(g), g, token)]
        if not going:
            return
        if workspace.clock.monotonic() > deadline:
            raise StepFailed(
                f"target: {', '.join(going)} did not come to the marker within {STOP_SECONDS:.0f} s"
                f" ({barrier.standing(workspace, observe(workspace))}); all streams go on",
                remedy="Look at the target's log for what holds it up, then run again.",
            )
        # What never comes to the marker is told when it breaks, not when the time is over.
        watch.poll()
        workspace.rest(0.02)


def _is_stopped(workspace: Workspace, found: Subscription | None, generation: int, token: uuid.UUID) -> bool:
    if found is None or found.enabled or found.pid is not None:
        return False
    if barrier.arrived(workspace.target, workspace.names.barrier(generation), token):
        return True
    # Whoever else has disabled it has not waited for the marker, and it would never come.
    raise StepFailed(
        f"target: subscription {found.name} was disabled by somebody before it came to the marker at which the streams"
        " are joined; all streams go on",
        remedy="Find out who disables subscriptions there, and run again.",
    )


def _commit_end(session: Session, slot: str, xid: int) -> Lsn:
    """Where the commit of transaction ``xid`` ends, as the slot's own stream tells it.

    pgoutput's Begin is ``B``, final LSN (8 bytes), time (8), xid (4); its Commit ``C``, flags (1), LSN of the
    commit (8), end of the commit (8): PostgreSQL's documentation, "Logical Replication Message Formats".
    """
    rows = session.execute(
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', %s) WHERE get_byte(data, 0) IN (66, 67)",
        [slot, slot],
    )
    current = None
    for (data,) in rows:
        if data[:1] == b"B":
            current = int.from_bytes(data[17:21])
        elif current == xid:
            return Lsn(int.from_bytes(data[10:18]))
    raise StepFailed(f"source: slot {slot} does not show the marker's transaction {xid}")
