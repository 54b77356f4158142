"""Subscriptions on the target: one a generation, on the slot that the copy began with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from psycopg import conninfo, sql

from planrunner import remains
from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import quiet
from planrunner.postgres.dialled import bounded, place_of
from planrunner.replication import logins, origins, slots
from planrunner.replication.names import SCHEMA, STOP_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.connection import Row, Server, Session
    from planrunner.postgres.lsn import Lsn
    from planrunner.replication.names import Names
    from planrunner.replication.ranges import Owned
    from planrunner.replication.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A subscription as the server shows it: ``pid`` of its apply worker while that runs.

    ``errors`` counts failed applies (0 before PostgreSQL 15, which does not count), ``conflicts`` what
    apply met and passed over by kind (empty before 18). ``publications`` is its list, as an option of
    pgoutput; ``slot`` is None when someone has taken the slot away from it.
    """

    oid: int
    name: str
    enabled: bool
    slot: str | None
    publications: str
    pid: int | None
    errors: int
    conflicts: Mapping[str, int]
    # When its worker last received anything; None while it applies or dials.
    received: str | None = None
    # It neither waits for changes nor dials: it is at work, be it against a slow disk or a lock.
    applies: bool = False
    synchronous: bool = True


# A worker for parallel apply has a row of its own (leader_pid, since 16), a table's first copy one with relid.
_SUBSCRIPTIONS: LiteralString = """
SELECT s.oid::bigint, s.subname::text, s.subenabled, s.subslotname::text,
       (SELECT string_agg(quote_ident(p), ',') FROM unnest(s.subpublications) p), w.pid, {counters},
       (SELECT coalesce(w.last_msg_receipt_time::text, 'never') FROM pg_stat_activity a
        WHERE a.pid = w.pid AND a.wait_event = 'LogicalApplyMain'),
       EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = w.pid AND a.backend_start IS NOT NULL
               AND lower(coalesce(a.wait_event, '')) NOT SIMILAR TO 'logicalapplymain|libpqwalreceiver%%'),
       s.subsynccommit <> 'off'
FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
LEFT JOIN pg_stat_subscription w ON w.subid = s.oid AND w.relid IS NULL AND to_jsonb(w) ->> 'leader_pid' IS NULL
{statistics}
WHERE starts_with(s.subname::text, %s)
"""


def following_back(workspace: Workspace) -> bool:
    """True while the source is subscribed to the target."""
    made = shown(workspace.source, workspace.names.back).get(workspace.names.back)
    return made is not None and made.enabled


def existing(target: Server, names: Names) -> dict[int, Subscription]:
    """Our subscriptions by generation, in one query."""
    found = shown(target, names.prefix)
    return {g: made for made in found.values() if (g := names.generation(made.name)) is not None}


def shown(server: Server, prefix: str) -> dict[str, Subscription]:
    """The subscriptions of this database whose names begin with ``prefix``, by name."""
    counted = server.version() >= 150000
    query = sql.SQL(_SUBSCRIPTIONS).format(
        counters=sql.SQL("to_jsonb(e)" if counted else "NULL::jsonb"),
        statistics=sql.SQL("LEFT JOIN pg_stat_subscription_stats e ON e.subid = s.oid" if counted else ""),
    )
    found = {made.name: made for made in map(_subscription, server.rows(query, [prefix]))}
    remains.seen(server.side.value, "subscription", prefix, found)
    return found


def _subscription(row: Row) -> Subscription:
    counters: Mapping[str, int] = row[6] or {}
    return Subscription(
        oid=row[0],
        name=row[1],
        enabled=row[2],
        slot=row[3],
        publications=row[4],
        pid=row[5],
        errors=counters.get("apply_error_count", 0),
        conflicts={
            name.removeprefix("confl_"): count
            for name, count in counters.items()
            if name.startswith("confl_") and count
        },
        received=row[7],
        applies=row[8],
        synchronous=row[9],
    )


def dial_parameters(server: Server) -> dict[str, str]:
    """The connection string's parts as the other side's subscription uses them, without the password."""
    return server.parameters_elsewhere()


def statement(
    dial: Mapping[str, str],
    names: Names,
    generation: int,
    *,
    others: Sequence[str] = (),
    failover: bool = False,
    synchronous: bool = True,
) -> sql.Composed:
    """CREATE SUBSCRIPTION on the generation's slot: no second slot, no second copy, not yet enabled.

    ``dial`` is its connection string, in parts. ``others`` are the publications it follows besides the
    generation's own. ``failover`` is the slot's: without it, creating the subscription would take it from the slot.
    """
    name = names.stream(generation)
    return sql.SQL(
        "CREATE SUBSCRIPTION {name} CONNECTION {dial} PUBLICATION {publications}"
        " WITH (create_slot = false, copy_data = false, enabled = false, slot_name = {slot},"
        " {commits}{failover})"
    ).format(
        name=sql.Identifier(name),
        dial=sql.Literal(conninfo.make_conninfo("", **dial)),
        publications=sql.SQL(", ").join(map(sql.Identifier, (name, *others))),
        slot=sql.Literal(name),
        commits=committing(synchronous=synchronous),
        failover=sql.SQL(", failover = true" if failover else ""),
    )


def committing(*, synchronous: bool) -> sql.SQL:
    """The option of a subscription that says whether its worker flushes each transaction before it goes on.

    PostgreSQL's default is off, and its manual calls that safe: what a crash takes is sent again. It is not when the
    worker was started anew shortly before: a new worker confirms everything up to where it begins, flushed or not.
    """
    return sql.SQL("synchronous_commit = on") if synchronous else sql.SQL("synchronous_commit = off")


def create(workspace: Workspace, generation: int, owned: Owned, *, also: Sequence[str] = ()) -> None:
    """Create the generation's subscription, disabled, with what a TRUNCATE of its ranges does on the target.

    ``also`` are further publications that it names.
    """
    logins.ready(workspace, workspace.source)
    with workspace.writing() as session:
        create_in(workspace, session, generation, owned, also=also)
        failpoint("subscription.before_create")
    failpoint("subscription.created")


def create_in(
    workspace: Workspace,
    session: Session,
    generation: int,
    owned: Owned,
    *,
    also: Sequence[str] = (),
    begins: Lsn | None = None,
) -> None:
    """The same in the caller's transaction; ``logins.ready`` was called before it.

    ``begins`` is where its slot was advanced to, if it was.
    """
    known = logins.credentials(workspace, workspace.source)
    slot = slots.existing(workspace.source, workspace.names).get(generation)
    session.execute("SET LOCAL client_min_messages = warning")
    for trigger in owned.truncating(workspace.names, generation):
        session.execute(trigger)
    dial = dial_parameters(workspace.source)
    made = statement(
        {**dial, **known},
        workspace.names,
        generation,
        others=(*owned.publications(workspace.names), *also),
        failover=slot is not None and slot.failover,
        synchronous=workspace.terms.synchronous is not False,
    )
    with bounded(workspace.target, session, place_of(dial)), quiet.unrecorded(session):
        session.execute(made)
    session.execute(owning(workspace.names, workspace.names.stream(generation)))
    origins.made(workspace, session, workspace.names.stream(generation), begins)
    # Should someone drop it, a second one would apply again what the first had applied.
    workspace.ledger.record_effect(session, "sync", subscribed(generation), {})


def subscribed(generation: int) -> str:
    """The name of the effect, of step sync, that says the generation's subscription was created."""
    return f"subscribed {generation}"


def enable(workspace: Workspace, generation: int) -> None:
    """Start the generation's apply worker; a stop marker that is still on its way stops it no more."""
    origins.settle_wished(workspace, workspace.target, workspace.names.stream(generation))
    _enable(workspace, generation, synchronous=workspace.terms.synchronous)


def _enable(workspace: Workspace, generation: int, *, synchronous: bool | None) -> None:
    with workspace.writing() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        for made in enabling(workspace.names, generation, synchronous=synchronous):
            session.execute(made)
        failpoint("subscription.before_enable")
    failpoint("subscription.enabled")


def enabling(names: Names, generation: int, *, synchronous: bool | None) -> tuple[sql.Composed, ...]:
    """What ``enable`` executes; ``synchronous`` None leaves the subscription's way to commit as it is."""
    stream = names.stream(generation)
    setting = sql.SQL("ALTER SUBSCRIPTION {} SET ({})")
    return (
        letting_go(names, generation),
        *(
            []
            if synchronous is None
            else [setting.format(sql.Identifier(stream), committing(synchronous=synchronous))]
        ),
        starting(stream),
    )


def letting_go(names: Names, generation: int) -> sql.Composed:
    """What takes away the trigger that stops the generation's stream at a marker; nothing happens without one."""
    return sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(
        sql.Identifier(STOP_TRIGGER), sql.Identifier(SCHEMA, names.barrier(generation))
    )


def commit_otherwise(workspace: Workspace, generation: int, *, synchronous: bool) -> None:
    """Stop the generation's apply worker, and let it flush each transaction from then on, or not.

    One that still runs would go on without flushing, and its successor confirm that: so it has to end before. The
    next run goes on where this is broken off.
    """
    name = workspace.names.stream(generation)
    with workspace.writing() as session:
        session.execute(dropping(name)[0])
    failpoint("subscription.stopped")
    _wait_ended(workspace, workspace.target, name)
    _enable(workspace, generation, synchronous=synchronous)


def starting(subscription: str) -> sql.Composed:
    """What starts a subscription's apply worker."""
    return sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(subscription))


def owning(names: Names, subscription: str) -> sql.Composed:
    """The mark on a subscription that says whose it is."""
    return sql.SQL("COMMENT ON SUBSCRIPTION {} IS {}").format(
        sql.Identifier(subscription), sql.Literal(names.owner_mark)
    )


def drop(workspace: Workspace, generation: int) -> None:
    """Disable the subscription, wait for its worker to end, drop it; its slot is left to ``slots.drop``."""
    drop_named(workspace, workspace.target, workspace.names.stream(generation))


def drop_named(workspace: Workspace, server: Server, name: str) -> None:
    """The same for subscription ``name`` on either side; nothing happens when it is gone."""
    if not shown(server, name):
        return
    with workspace.writing_to(server) as session:
        session.execute(dropping(name)[0])
    failpoint("subscription.disabled")
    _wait_ended(workspace, server, name)
    with workspace.writing_to(server) as session:
        _drop_disabled(session, name)
    failpoint("subscription.dropped")


def _wait_ended(workspace: Workspace, server: Server, name: str) -> None:
    for _ in range(300):
        if shown(server, name)[name].pid is None:
            return
        workspace.rest(0.05)
    raise StepFailed(
        f"{server.side.value}: the apply worker of {name} does not end",
        remedy=f"Look at pg_stat_subscription on the {server.side.value}; run again to go on.",
    )


def drop_in(workspace: Workspace, session: Session, generation: int) -> None:
    """Drop a disabled subscription in the caller's transaction; its slot is left as it is."""
    _drop_disabled(session, workspace.names.stream(generation))


def _drop_disabled(session: Session, subscription: str) -> None:
    for statement in dropping(subscription)[1:]:
        session.execute(statement)


def dropping(subscription: str) -> tuple[sql.Composed, ...]:
    """What disables a subscription, and, once its worker has ended, drops it without its slot."""
    name = sql.Identifier(subscription)
    return (
        sql.SQL("ALTER SUBSCRIPTION {} DISABLE").format(name),
        sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(name),
        sql.SQL("DROP SUBSCRIPTION {}").format(name),
    )
