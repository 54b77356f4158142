"""Preflight of what goes on at the source: open and prepared transactions, locks, maintenance, others at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.postgres.preflight_section import CAPACITY, Check, counted, some
from planrunner.units import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.model import Finding
    from planrunner.postgres.connection import Row, Server

WRITING = Check(
    code="PR0540",
    section=CAPACITY,
    title="No long writing transaction is open on the source",
    why="A slot begins where no transaction is open that wrote before it: making it waits for each of them, in every"
    " database of the server.",
)
PREPARED = Check(
    code="PR0541",
    section=CAPACITY,
    title="No prepared transaction is left over on the source",
    why="A prepared transaction stays open, over restarts too, until someone ends it by its name: making the slot waits"
    " for it, and what it wrote is carried only once it is committed.",
)
IDLE = Check(
    code="PR0542",
    section=CAPACITY,
    title="No session of the source idles in a transaction",
    why="It keeps its locks and its snapshot: dead rows pile up, and what needs a strong lock, such as the cutover's"
    " fence, waits for it and lets everyone else wait behind.",
)
LONG_QUERY = Check(
    code="PR0543",
    section=CAPACITY,
    title="No query of the source runs for hours",
    why="Like the copy itself it keeps dead rows from being removed, and it competes with the copy for the disk.",
)
LOCKED = Check(
    code="PR0544",
    section=CAPACITY,
    title="No table of the source is locked against reading",
    why="pg_dump and the copy wait for such a lock, and everyone who comes later waits behind them; after a minute"
    " pg_dump gives up.",
)
WAITING = Check(
    code="PR0545",
    section=CAPACITY,
    title="No session of the source waits for a lock",
    why="Where sessions already wait for each other, ours wait too, and lengthen the queue.",
)
MAINTENANCE = Check(
    code="PR0546",
    section=CAPACITY,
    title="No maintenance is at work on the source",
    why="CREATE INDEX CONCURRENTLY and the like wait for the copy's snapshot to end; a vacuum against wraparound lets"
    " no publication be made of its table; backups and rewrites take the disk that the copy reads from.",
)
VISIBLE = Check(
    code="PR0547",
    section=CAPACITY,
    title="The login sees what others do on the source",
    why="What is hidden can't be checked: an open transaction would be met only when the slot is made.",
)
WRAPAROUND = Check(
    code="PR0548",
    section=CAPACITY,
    title="The source is far from transaction wraparound",
    why="The copy's snapshot and the slot keep old transactions from being frozen; a server that comes too near to"
    " wraparound takes no more writes.",
)

# Ourselves are told by the session's own name, which all our sessions share.
_SESSIONS = """
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, a.backend_type), a.backend_xid IS NOT NULL,
       coalesce(a.state LIKE 'idle in transaction%', false),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8,
       a.backend_type, coalesce(regexp_replace(a.query, '\\s+', ' ', 'g'), ''), a.wait_event_type = 'Lock',
       a.query = '<insufficient privilege>'
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND a.application_name IS DISTINCT FROM current_setting('application_name')
  AND (a.backend_type IN ('client backend', 'walsender', 'autovacuum worker') OR a.backend_xid IS NOT NULL)
  AND (a.xact_start IS NOT NULL OR a.backend_type = 'walsender' OR a.query = '<insufficient privilege>')
ORDER BY a.xact_start
"""
_PREPARED = """
SELECT gid::text, database::text, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts ORDER BY prepared
"""
_LOCKED = """
SELECT format('%I.%I', n.nspname, c.relname), l.pid FROM pg_locks l
JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.granted AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
  AND n.nspname NOT IN ('information_schema', 'planrunner') ORDER BY 1
"""
_AGE = """
SELECT datname::text, age(datfrozenxid)::bigint FROM pg_database ORDER BY 2 DESC LIMIT 1
"""
_WRAPAROUND_XIDS = 1_200_000_000
_STEADY = (
    ("to prevent wraparound", "a vacuum against wraparound"),
    ("vacuum full", "VACUUM FULL"),
    ("vacuum (full", "VACUUM FULL"),
    ("cluster", "CLUSTER"),
    ("reindex", "REINDEX"),
    ("create index concurrently", "CREATE INDEX CONCURRENTLY"),
    ("create unique index concurrently", "CREATE INDEX CONCURRENTLY"),
    ("refresh materialized view", "REFRESH MATERIALIZED VIEW"),
)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """From what age on, in seconds, a transaction that wrote, one that idles and a query are told."""

    writing: float = 60.0
    idle: float = 60.0
    query: float = 3600.0


@dataclass(frozen=True, kw_only=True)
class _Session:
    """Another's session; ``age`` is how long its transaction is open, in seconds."""

    pid: int
    who: str
    wrote: bool
    idle: bool
    age: float
    kind: str
    query: str
    waits: bool
    hidden: bool

    @property
    def shown(self) -> str:
        return f"pid {self.pid} ({self.who}, open for {human_seconds(self.age)})"


def activity(source: Server, patience: Patience | None = None) -> Iterator[Finding]:
    """What others do on the source at this moment that the migration would wait for, or disturb."""
    patience = patience or Patience()
    sessions = [_session(row) for row in source.rows(_SESSIONS)]
    yield _visible(source, sessions)
    yield from _transactions(sessions, patience)
    yield from _prepared(source)
    yield from _locked(source, sessions)
    yield from _maintenance(sessions)
    yield from _wraparound(source)


def _session(row: Row) -> _Session:
    return _Session(
        pid=row[0],
        who=row[1],
        wrote=row[2],
        idle=row[3],
        age=row[4],
        kind=row[5],
        query=row[6],
        waits=bool(row[7]),
        hidden=bool(row[8]),
    )


def _visible(source: Server, sessions: Sequence[_Session]) -> Finding:
    hidden = [one for one in sessions if one.hidden]
    if not hidden:
        return VISIBLE.passed("Login sees what others do on the source")
    role = sql.Identifier(str(source.value("SELECT current_user::text")))
    statement = sql.SQL("GRANT pg_read_all_stats TO {};").format(role).as_string()
    return VISIBLE.warned(
        f"Login can't see what {counted(len(hidden), 'other session')} of the source "
        f"{'does' if len(hidden) == 1 else 'do'}: open transactions are not told",
        f"Run on the source as the master user or a superuser: {statement}",
    )


def _transactions(sessions: Sequence[_Session], patience: Patience) -> Iterator[Finding]:
    writing = [one for one in sessions if one.wrote and one.age >= patience.writing]
    idle = [one for one in sessions if one.idle and not one.wrote and one.age >= patience.idle]
    clients = [one for one in sessions if one.kind == "client backend" and not one.idle and not one.wrote]
    long = [one for one in clients if one.age >= patience.query]
    if writing:
        yield WRITING.warned(
            f"{counted(len(writing), 'open writing transaction')}, for which the slot will have to wait:"
            f" {some([one.shown for one in writing])}",
            _ending(writing),
        )
    else:
        yield WRITING.passed("No long writing transaction is open on the source")
    if idle:
        yield IDLE.warned(
            f"{counted(len(idle), 'session')} in a transaction and idle: {some([one.shown for one in idle])}",
            _ending(idle),
        )
    if long:
        yield LONG_QUERY.warned(
            f"{counted(len(long), 'query')[:-1]}{'ies' if len(long) > 1 else 'y'} at work for long:"
            f" {some([one.shown for one in long])}",
            f"Let them end first, or cancel them. {_ending(long, 'pg_cancel_backend')}",
        )


def _ending(sessions: Sequence[_Session], function: str = "pg_terminate_backend") -> str:
    # A name of a function of the server, chosen above; pids are numbers.
    calls = " ".join(f"SELECT {function}({one.pid});" for one in sessions[:6])
    return f"Let them commit, or run on the source as their owner or a superuser: {calls}"


def _prepared(source: Server) -> Iterator[Finding]:
    rows = source.rows(_PREPARED)
    if not rows:
        yield PREPARED.passed("No prepared transaction is left over on the source")
        return
    names = [f"{row[0]!r} of {row[2]} in {row[1]}, {human_seconds(row[3])} old" for row in rows]
    ends = " ".join(
        sql.SQL("ROLLBACK PREPARED {};").format(sql.Literal(str(row[0]))).as_string() for row in rows[:6]
    )
    yield PREPARED.warned(
        f"{counted(len(rows), 'prepared transaction')}, for which the slot will have to wait: {some(names)}",
        "Let the application's transaction manager end them, by COMMIT PREPARED where they are to hold. Those that nobody"
        f" remembers: run in their database as their owner or a superuser: {ends}",
    )


def _locked(source: Server, sessions: Sequence[_Session]) -> Iterator[Finding]:
    rows = source.rows(_LOCKED)
    if rows:
        names = [f"{row[0]} by {f'pid {row[1]}' if row[1] else 'a prepared transaction'}" for row in rows]
        pids = dict.fromkeys(int(row[1]) for row in rows if row[1])
        calls = " ".join(f"SELECT pg_terminate_backend({pid});" for pid in list(pids)[:6])
        yield LOCKED.warned(
            f"{counted(len(rows), 'table')} locked against reading: {some(names)}",
            f"Wait until that has ended, or run on the source as their owner or a superuser: {calls}",
        )
    waiting = [one for one in sessions if one.waits]
    if waiting:
        pids_of = " ".join(f"SELECT pg_blocking_pids({one.pid});" for one in waiting[:6])
        yield WAITING.warned(
            f"{counted(len(waiting), 'session')} waiting for a lock: {some([one.shown for one in waiting])}",
            f"To see whom they wait for, run on the source: {pids_of}",
        )
    if not rows and not waiting:
        yield LOCKED.passed("No table of the source is locked against reading, nobody waits for a lock")


def _maintenance(sessions: Sequence[_Session]) -> Iterator[Finding]:
    found = [f"{what} by pid {one.pid}" for one in sessions if (what := _work(one)) is not None]
    if found:
        yield MAINTENANCE.warned(
            f"Maintenance is at work on the source: {some(found)}",
            "Begin once it has ended. To see how far it is, run on the source: SELECT pid, xact_start, query FROM"
            " pg_stat_activity WHERE state = 'active';",
        )
    else:
        yield MAINTENANCE.passed("No maintenance is at work on the source")


def _work(session: _Session) -> str | None:
    query = session.query.lower()
    if session.kind == "walsender":
        return "a base backup" if query.startswith("base_backup") else None
    if session.who == "pg_dump":
        return "pg_dump"
    if session.idle or session.hidden:
        return None
    for beginning, what in _STEADY:
        if query.startswith(beginning) or (beginning.startswith("to prevent") and beginning in query):
            return what
    return None


def _wraparound(source: Server) -> Iterator[Finding]:
    row = source.row(_AGE)
    assert row is not None
    name, age = row
    if age >= _WRAPAROUND_XIDS:
        yield WRAPAROUND.warned(
            f"The source's database {name} is {age:,} transactions old; at 2,100,000,000 the server takes no more"
            " writes",
            "Freeze it before the migration. Run in that database as a superuser: VACUUM (FREEZE);",
        )
    else:
        yield WRAPAROUND.passed(f"Oldest transactions of the source are {age:,} old, far from wraparound")
