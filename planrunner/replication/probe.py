"""Short measurements on read-only sessions: how fast the source gives rows, the line, how much WAL is written.

A probe lasts about two seconds in all and leaves nothing. What could not be measured says why.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.errors import PlanrunnerError
from planrunner.postgres.wire import Wire
from planrunner.replication import copy
from planrunner.replication.feeds import Psql, SessionFeed
from planrunner.replication.snapshot import begin_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.jobs import Job

READ_SECONDS = 1.0
WAL_SECONDS = 1.0
# With less than this the sessions' beginnings are measured, not the rows.
LEAST_BYTES = 1 << 20
_LIMIT_MILLISECONDS = 1500
_FIRST_BLOCK = 16 << 10
_MOST_BLOCK = 4 << 20
_SEND_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A rate in bytes a second and what it was taken from; ``rate`` is None where ``reason`` says why."""

    rate: float | None = None
    bytes: int = 0
    seconds: float = 0.0
    streams: int = 1
    reason: str | None = None


@dataclass
class _Taken:
    """What one stream has read so far, in bytes and seconds of reading."""

    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One stream of the probe: a read-only session, psql beside it, and when to stop."""

    source: Server
    session: Session
    psql: Psql | None
    snapshot: str
    clock: Clock
    until: float

    def over(self) -> bool:
        return self.clock.monotonic() > self.until


def reading(source: Server, jobs: Sequence[Job], clock: Clock, *, streams: int) -> Measured:
    """Read ``jobs`` over several streams for a second, the largest first, by the way the copy takes."""
    if not jobs:
        return Measured(reason="there is nothing to copy")
    streams = min(streams, len(jobs))
    try:
        with source.session(read_only=True) as keeper, ThreadPoolExecutor(streams) as pool:
            keeper.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = keeper.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            psql = Psql.find(source)
            shares = [jobs[n::streams] for n in range(streams)]
            taken = list(pool.map(lambda mine: _stream(source, mine, psql, row[0], clock), shares))
    except PlanrunnerError as error:
        return Measured(reason=error.message)
    size, seconds = sum(t.bytes for t in taken), max(t.seconds for t in taken)
    if size < LEAST_BYTES:
        return Measured(reason=f"the probe read {size} bytes, too few to tell a rate")
    # Streams side by side: each has its own time, for one may have had little to read.
    rate = sum(t.bytes / t.seconds for t in taken if t.seconds > 0)
    return Measured(rate=rate, bytes=size, seconds=seconds, streams=streams)


def _stream(source: Server, jobs: Sequence[Job], psql: Psql | None, snapshot: str, clock: Clock) -> _Taken:
    taken = _Taken()
    with source.session(read_only=True) as session:
        begin_in(session, snapshot)
        line = _Line(
            source=source,
            session=session,
            psql=psql,
            snapshot=snapshot,
            clock=clock,
            until=clock.monotonic() + READ_SECONDS,
        )
        for job in jobs:
            for unit in job.units:
                if line.over():
                    return taken
                _read(line, copy.outgoing(unit, job.chunk), taken, large=job.bytes >= copy.PSQL_FROM_BYTES)
    return taken


def _read(line: _Line, statement: sql.Composed, taken: _Taken, *, large: bool) -> None:
    # A filter that few rows pass sends nothing for long: the server itself has to stop.
    limit = sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(_LIMIT_MILLISECONDS))
    if large and line.psql is not None:
        with line.psql.feed(line.source, line.snapshot, limit + sql.SQL("; ") + statement) as feed:
            if _drained(line, feed.blocks(), taken, begun=None) and not taken.bytes:
                feed.rows()  # raises what psql was told
        return
    line.session.execute(limit)
    feed_here = SessionFeed(Wire(line.session, lambda: None))
    try:
        if _drained(line, feed_here.blocks(statement), taken, begun=line.clock.monotonic()):
            feed_here.rows()
        else:
            line.session.close()
    except psycopg.errors.QueryCanceled:
        line.session.close()


def _drained(line: _Line, blocks: Iterator[bytes], taken: _Taken, *, begun: float | None) -> bool:
    """Read until the end, True, or until the time is over. Without ``begun`` it runs from the first block."""
    for block in blocks:
        now = line.clock.monotonic()
        if begun is None:
            # psql's own beginning is no part of the rate.
            begun = now
            continue
        taken.bytes += len(block)
        taken.seconds += now - begun
        begun = now
        if line.over():
            return False
    return True


def sending(target: Server, clock: Clock) -> Measured:
    """Send blocks of random bytes to the target in read-only queries; one connection, whose start is slow."""
    try:
        with target.session(read_only=True) as session:
            pauses = [_sent(session, 1, clock) for _ in range(3)]
            size = _FIRST_BLOCK
            while True:
                seconds = max(_sent(session, size, clock) - min(pauses), 1e-6)
                if size == _MOST_BLOCK or seconds * 4 > _SEND_SECONDS:
                    return Measured(rate=size / seconds, bytes=size, seconds=seconds)
                size *= 4
    except PlanrunnerError as error:
        return Measured(reason=error.message)


def _sent(session: Session, size: int, clock: Clock) -> float:
    # Random, so that a compressing line is not flattered.
    block = os.urandom(size)
    begun = clock.monotonic()
    session.execute("SELECT octet_length(%b::bytea)", [block])
    return clock.monotonic() - begun


def position(source: Server, clock: Clock) -> tuple[int, float] | str:
    """Where the source's WAL stands, in bytes, and when; why not, where it can't be told."""
    try:
        found = source.value("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")
    except PlanrunnerError as error:
        return error.message
    return int(found), clock.monotonic()


def writing(source: Server, since: tuple[int, float] | str, clock: Clock) -> Measured:
    """The WAL written since ``position`` was taken, at least a second ago."""
    if isinstance(since, str):
        return Measured(reason=since)
    rest = since[1] + WAL_SECONDS - clock.monotonic()
    if rest > 0:
        clock.sleep(rest)
    now = position(source, clock)
    if isinstance(now, str):
        return Measured(reason=now)
    size, seconds = now[0] - since[0], now[1] - since[1]
    return Measured(rate=size / seconds, bytes=size, seconds=seconds)
