"""Preflight of the servers' room: logical WAL, slots, senders, workers, connections, locks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import sessions
from planrunner.postgres.preflight_parameters import changing, read
from planrunner.postgres.preflight_section import CAPACITY, Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server
    from planrunner.postgres.preflight_parameters import Parameter
    from planrunner.postgres.preflight_section import Needs

WAL_LEVEL = Check(
    code="PR0505",
    section=CAPACITY,
    title="The source decodes its WAL",
    why="Only with wal_level = logical does the WAL hold what a subscription needs; changing it takes a restart.",
    never_ignored="nothing could be followed",
)
SLOTS = Check(
    code="PR0506",
    section=CAPACITY,
    title="Replication slots are free on the source",
    why="Each stream needs a slot of its own, and a verification one more; without a free one nothing can be followed.",
)
SENDERS = Check(
    code="PR0507",
    section=CAPACITY,
    title="WAL senders are free on the source",
    why="Each subscription is served by a WAL sender of the source; without a free one it can't connect.",
)
CONNECTIONS = Check(
    code="PR0508",
    section=CAPACITY,
    title="Connections are free",
    why="The copy opens one session a job on each side; where none is free the copy, or the application, is refused.",
)
CONNECTION_LIMIT = Check(
    code="PR0509",
    section=CAPACITY,
    title="No connection limit of the login or the database stands in the way",
    why="A limit of the role or the database refuses our sessions although the server itself has room.",
)
WORKERS = Check(
    code="PR0510",
    section=CAPACITY,
    title="Logical replication workers are free on the target",
    why="Each subscription is applied by a worker; without a free place it is created and never applies anything.",
)
PROCESSES = Check(
    code="PR0511",
    section=CAPACITY,
    title="Background workers are free on the target",
    why="Apply workers and their launcher take places of max_worker_processes, which extensions and parallel queries"
    " share; without one a subscription never applies anything.",
)
ORIGINS = Check(
    code="PR0512",
    section=CAPACITY,
    title="Replication origins are free on the target",
    why="Each subscription remembers by an origin how far it is; without a free one its worker ends with an error.",
)
LOCKS = Check(
    code="PR0513",
    section=CAPACITY,
    title="The lock table holds the whole schema",
    why="The schema is read in one transaction and made in one: each table, toast table and sequence takes a lock in"
    " it. A lock table that is full ends it, and whoever else needs a lock then, with 'out of shared memory'.",
)

_SOURCE_USE = """
SELECT (SELECT count(*) FROM pg_replication_slots WHERE NOT starts_with(slot_name::text, %(owned)s)),
       (SELECT count(*) FROM pg_stat_replication s WHERE NOT EXISTS (
          SELECT FROM pg_replication_slots o WHERE o.active_pid = s.pid AND starts_with(o.slot_name::text, %(owned)s)))
"""
# Of other background workers only their number matters: they take places of max_worker_processes.
_TARGET_USE = """
SELECT (SELECT count(*) FROM pg_stat_subscription
        WHERE pid IS NOT NULL AND NOT starts_with(subname::text, %(owned)s)),
       (SELECT count(*) FROM pg_replication_origin o WHERE NOT EXISTS (
          SELECT FROM pg_stat_subscription s
          WHERE o.roname = 'pg_' || s.subid AND starts_with(s.subname::text, %(owned)s))),
       (SELECT count(*) FROM pg_stat_activity a WHERE a.backend_type NOT IN
          ('client backend', 'walsender', 'walreceiver', 'walwriter', 'walsummarizer', 'checkpointer', 'startup',
           'background writer', 'archiver', 'autovacuum launcher', 'autovacuum worker', 'slotsync worker',
           'standalone backend', 'logger', 'io worker', 'logical replication launcher', 'parallel worker')
          AND NOT EXISTS (SELECT FROM pg_stat_subscription s WHERE s.pid = a.pid
                          AND starts_with(s.subname::text, %(owned)s)))
"""
_LIMITS = """
SELECT me.rolname::text, CASE WHEN me.rolsuper THEN -1 ELSE me.rolconnlimit END,
       (SELECT count(*) FROM pg_stat_activity WHERE usesysid = me.oid)::int,
       d.datname::text, CASE WHEN me.rolsuper THEN -1 ELSE d.datconnlimit END
FROM pg_roles me, pg_database d WHERE me.rolname = current_user AND d.datname = current_database()
"""
# What a transaction that makes every relation locks: the relation, its toast table and that one's index.
_RELATIONS = """
SELECT count(*) FILTER (WHERE relkind IN ('r', 'p', 'S', 'f', 'm')),
       count(*) + 2 * count(*) FILTER (WHERE reltoastrelid <> 0)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE relkind IN ('r', 'p', 'S', 'f', 'm', 'v') AND relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'planrunner') AND n.nspname NOT LIKE 'pg\\_%'
"""
# Every process that may hold locks; the table is as large as this many times max_locks_per_transaction.
_LOCKERS = (
    "max_connections",
    "max_prepared_transactions",
    "max_worker_processes",
    "max_wal_senders",
    "autovacuum_max_workers",
)
_PER_LOCKER = "max_locks_per_transaction"
_SOURCE_NAMES = (
    "wal_level",
    "max_replication_slots",
    "max_wal_senders",
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
)
_TARGET_NAMES = (
    "max_logical_replication_workers",
    "max_worker_processes",
    "max_replication_slots",
    "max_active_replication_origins",
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
)
# The lease, the reader, the heartbeat, two keepers of the snapshot, the replication session.
_OWN_SESSIONS = 6
# Others lock, too.
_SHARE_OF_LOCKS = 0.7


@dataclass(frozen=True, kw_only=True)
class _Place:
    """What the plan takes of a server's limited places, and how many others have taken."""

    what: str
    setting: str
    used: int
    need: int


def source(server: Server, needs: Needs) -> Iterator[Finding]:
    """wal_level, replication slots, WAL senders, connections."""
    known = read(server, _SOURCE_NAMES)
    row = server.row(_SOURCE_USE, {"owned": needs.owned})
    assert row is not None
    slots, senders = row
    if not needs.polled:
        yield from _streaming(server, known, needs, (slots, senders))
    yield from _connections(server, known, needs)


def _streaming(
    server: Server, known: Mapping[str, Parameter], needs: Needs, used: tuple[int, int]
) -> Iterator[Finding]:
    slots, senders = used
    yield _wal_level(server, known["wal_level"])
    # The streams', and the one by which a verification sees what changes meanwhile.
    need = needs.streams + 1
    place = _Place(what="replication slots", setting="max_replication_slots", used=slots, need=need)
    yield _room(SLOTS, server, known, place)
    place = _Place(what="WAL senders", setting="max_wal_senders", used=senders, need=need)
    yield _room(SENDERS, server, known, place)


def target(server: Server, needs: Needs) -> Iterator[Finding]:
    """Logical replication workers, background workers, origins, connections."""
    known = read(server, _TARGET_NAMES)
    row = server.row(_TARGET_USE, {"owned": needs.owned})
    assert row is not None
    workers, origins, processes = row
    tracked = next(name for name in _TARGET_NAMES[3:1:-1] if name in known)
    places = (
        (WORKERS, "replication workers", _TARGET_NAMES[0], workers),
        # One more for the launcher of the replication workers.
        (PROCESSES, "background workers", _TARGET_NAMES[1], processes + 1),
        (ORIGINS, "replication origins", tracked, origins),
    )
    for check, what, setting, used in () if needs.polled else places:
        place = _Place(what=what, setting=setting, used=used, need=needs.streams)
        yield _room(check, server, known, place)
    yield from _connections(server, known, needs)


def _wal_level(server: Server, parameter: Parameter) -> Finding:
    if parameter.value == "logical":
        return WAL_LEVEL.passed("Source's wal_level is logical")
    rds = server.endpoint.rds
    remedy = (
        changing(server, parameter, "logical")
        if rds is None
        else "Set rds.logical_replication=1 in the instance's own parameter group, then reboot: aws rds"
        " modify-db-parameter-group --db-parameter-group-name GROUP --parameters"
        " ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot; aws rds"
        f" reboot-db-instance --db-instance-identifier {rds.instance}"
    )
    text = f"Source's wal_level must be logical, it is {parameter.value}"
    return WAL_LEVEL.failed(text, remedy, mended_by="enable_logical")


def _room(check: Check, server: Server, known: Mapping[str, Parameter], place: _Place) -> Finding:
    limit, side = known[place.setting].number, server.side.value
    free = max(limit - place.used, 0)
    if free >= place.need:
        return check.passed(f"{free} of {limit} {place.what} free on the {side}")
    return check.failed(
        f"{free} of {limit} {place.what} free on the {side}, {place.need} needed",
        f"{changing(server, known[place.setting], str(place.used + place.need))} Or remove what is not used any"
        " more.",
        mended_by="enable_logical" if server.side is Side.SOURCE else None,
    )


def _connections(server: Server, known: Mapping[str, Parameter], needs: Needs) -> Iterator[Finding]:
    side, need = server.side.value, needs.jobs + _OWN_SESSIONS
    everywhere, here = sessions.clients(server)
    reserved = [
        known[name].number
        for name in ("superuser_reserved_connections", "reserved_connections")
        if name in known
    ]
    limit = known["max_connections"].number - sum(reserved)
    free = max(limit - everywhere, 0)
    if free >= need:
        yield CONNECTIONS.passed(f"{free} of {limit} connections free on the {side}")
    else:
        more = str(known["max_connections"].number + need - free)
        yield CONNECTIONS.warned(
            f"{free} of {limit} connections free on the {side}, {need} wanted for jobs: {needs.jobs}",
            "Give the snapshot step fewer jobs, close sessions, or have more connections."
            f" {changing(server, known['max_connections'], more)}",
        )
    row = server.row(_LIMITS)
    assert row is not None
    yield from _limits(side, row, here, need)


def _limits(side: str, row: Row, database_used: int, need: int) -> Iterator[Finding]:
    role, of_role, role_used, database, of_database = row
    found = (
        ("ALTER ROLE", f"login {role}", role, of_role, role_used),
        ("ALTER DATABASE", f"database {database}", database, of_database, database_used),
    )
    narrow = False
    for command, what, name, limit, used in found:
        # Our own session is among those that are counted.
        if limit < 0 or limit - used + 1 >= need:
            continue
        narrow = True
        verb = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {};")
        if command == "ALTER DATABASE":
            verb = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {};")
        statement = verb.format(sql.Identifier(name), sql.Literal(used + need)).as_string()
        text = f"The {side}'s {what} is limited to {limit} connections, {used} are open and {need} wanted"
        remedy = f"Run on the {side} as an administrator: {statement}"
        # What others have open may be closed by then.
        yield (CONNECTION_LIMIT.failed if limit < need else CONNECTION_LIMIT.warned)(text, remedy)
    if not narrow:
        yield CONNECTION_LIMIT.passed(f"No connection limit on the {side} is too narrow")


def locks(source: Server, target: Server) -> Iterator[Finding]:
    """Whether both lock tables hold the source's schema."""
    row = source.row(_RELATIONS)
    assert row is not None
    for server, need in ((source, int(row[0])), (target, int(row[1]))):
        yield _lock_table(server, need)


def _lock_table(server: Server, need: int) -> Finding:
    known = read(server, (*_LOCKERS, _PER_LOCKER))
    lockers = sum(known[name].number for name in _LOCKERS if name in known)
    limit, side = lockers * known[_PER_LOCKER].number, server.side.value
    text = f"{side.capitalize()}'s lock table holds {limit} locks, one transaction of ours takes about {need}"
    if need <= limit * _SHARE_OF_LOCKS:
        return LOCKS.passed(text)
    enough = int(need / (lockers * _SHARE_OF_LOCKS)) + 1
    remedy = changing(server, known[_PER_LOCKER], str(enough))
    return LOCKS.failed(text, remedy) if need > limit else LOCKS.warned(text, remedy)
