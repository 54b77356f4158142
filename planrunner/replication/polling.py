"""Rounds: the target is brought, table by table, to what a snapshot of the source shows, without logical decoding.

A round asks each table for the rows that may have changed since its horizon, and now and then compares all of its rows
by digests, which finds what was deleted. Tables are independent: each has its own transaction on either side and its
own row in the ledger, so a round that breaks off costs the table in hand.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from psycopg import sql
from psycopg.errors import LockNotAvailable

from planrunner.errors import QueryFailed
from planrunner.failpoints import failpoint
from planrunner.replication import (
    followed,
    inside,
    lanes,
    polling_changes,
    polling_horizon,
    polling_ledger,
    polling_reconcile,
)
from planrunner.replication.identities import table_name
from planrunner.replication.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.inside import Inside
    from planrunner.replication.lanes import Lane
    from planrunner.replication.polling_horizon import Horizon
    from planrunner.replication.polling_ledger import Seen
    from planrunner.replication.workspace import Workspace

LANES = 2
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_UNIQUE = "23505"
_KEPT_SECONDS = 5.0
_FILE = "SELECT relfilenode::bigint FROM pg_class WHERE oid = %s"


@dataclass(frozen=True, kw_only=True)
class How:
    """How a round goes: ``compare`` every row of every table, or of those that are due.

    ``together``: all tables by one snapshot. ``timeout`` in seconds bounds each statement of both sides. ``fence`` reads
    the tables that somebody else waits for.
    """

    compare: bool = False
    together: bool = False
    timeout: float | None = None
    jobs: int = LANES
    fence: Inside | None = None


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a round did with one table, in ``asking`` seconds but for the comparison.

    ``rows`` is how many the source has, where all of them were compared and are equal now.
    """

    table: str
    horizon: Horizon
    brought: int = 0
    removed: int = 0
    asking: float = 0.0
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A whole round: every table's visit, and the seconds that it took, of them ``asking`` for changed rows."""

    visits: tuple[Visit, ...]
    seconds: float
    asking: float

    @property
    def brought(self) -> int:
        """Rows written to the target."""
        return sum(visit.brought for visit in self.visits)

    @property
    def removed(self) -> int:
        """Rows that the source has no more."""
        return sum(visit.removed for visit in self.visits)

    @property
    def compared(self) -> int:
        """How many tables were compared whole."""
        return sum(1 for visit in self.visits if visit.rows is not None)

    @property
    def horizon(self) -> Horizon | None:
        """The oldest of the snapshots that were read by."""
        return min((visit.horizon for visit in self.visits), key=lambda h: h.xmin, default=None)


def go_round(workspace: Workspace, how: How) -> Figures:
    """Go once through every followed table, the largest first; each is committed by itself.

    The first error stops the round at the next table and is raised; what is committed by then stays.
    """
    begun = workspace.clock.monotonic()
    tables = followed.tables(workspace)
    waiting: SimpleQueue[Table] = SimpleQueue()
    behind: SimpleQueue[Table] = SimpleQueue()
    for table in sorted(tables, key=lambda t: -t.bytes):
        waiting.put(table)
    workspace.lease  # noqa: B018  # taken once, before several threads write
    known = _Known(seen=polling_ledger.known(workspace), copied=polling_ledger.copied_at(workspace))
    count = 1 if how.together else max(1, min(how.jobs, len(tables)))
    with ThreadPoolExecutor(count, thread_name_prefix="poll") as pool:
        lanes = [
            pool.submit(_Going(workspace, how, known, tables).run, waiting, behind) for _ in range(count)
        ]
        try:
            visits = [visit for lane in lanes for visit in lane.result()]
        finally:
            # After an error, or a signal, no lane takes another table.
            for _ in _taken(waiting):
                pass
    if how.fence is not None and not behind.empty():
        rest = _spent(how, workspace.clock.monotonic() - begun)
        visits += _Going(workspace, rest, known, tables).run_inside(how.fence, behind)
    return Figures(
        visits=tuple(sorted(visits, key=lambda v: v.table)),
        seconds=workspace.clock.monotonic() - begun,
        asking=sum(visit.asking for visit in visits) / count,
    )


def _spent(how: How, seconds: float) -> How:
    return how if how.timeout is None else replace(how, timeout=how.timeout - seconds)


def _taken(waiting: SimpleQueue[Table]) -> Iterator[Table]:
    with suppress(Empty):
        while True:
            yield waiting.get_nowait()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the ledger says: how each table stands, and by which horizon it was copied."""

    seen: Mapping[str, Seen]
    copied: Mapping[str, int]

    def since(self, table: Table) -> int | None:
        """From where its rows are asked for; None where nothing is known, as of a table that came later."""
        before = self.seen.get(table.qualified)
        return self.copied.get(table.qualified) if before is None else before.horizon


class _Going:
    """One lane of a round."""

    def __init__(self, workspace: Workspace, how: How, known: _Known, tables: Sequence[Table]) -> None:
        self._workspace = workspace
        self._how = how
        self._known = known
        self._tables = tables
        self._idle: dict[str, Seen] = {}
        self._kept_at = workspace.clock.monotonic()

    def run(self, waiting: SimpleQueue[Table], behind: SimpleQueue[Table]) -> list[Visit]:
        """Take tables until there is none; those that somebody waits for who waits for the fence go to ``behind``."""
        throttle = Throttle(self._workspace, self._workspace.source, None, "polling")
        visits: list[Visit] = []
        with _lane(self._workspace, self._how) as lane:
            if self._how.together:
                _enter(lane.ours, self._tables)
            for table in _taken(waiting):
                # Inside a pause nobody waits for an operator.
                if self._how.timeout is None:
                    throttle.wait()
                if not self._how.together and not self._entered(lane.ours, table):
                    behind.put(table)
                    continue
                with self._workspace.source.translated(f"read {table.qualified}"):
                    visits.append(self._visited(lane, table))
                if not self._how.together:
                    lane.ours.execute("COMMIT")
                self._keep_idle(every=_KEPT_SECONDS)
        self._keep_idle(every=0.0)
        return visits

    def _entered(self, reader: Session, table: Table) -> bool:
        try:
            _enter(reader, [table])
        except LockNotAvailable:
            if self._how.fence is None:
                raise
            reader.execute("ROLLBACK")
            return False
        return True

    def run_inside(self, fence: Inside, behind: SimpleQueue[Table]) -> list[Visit]:
        """The same of what is left, read by the fence's session, which has its locks already."""
        source = self._workspace.source
        timeout = self._how.timeout or 0.0
        with (
            _lane(self._workspace, self._how) as lane,
            source.translated("read in the fence"),
            fence.reading(timeout) as session,
        ):
            visits = [self._visited(replace(lane, ours=session), table) for table in _taken(behind)]
        self._keep_idle(every=0.0)
        return visits

    def _visited(self, lane: Lane, table: Table) -> Visit:
        clock = self._workspace.clock
        begun = clock.monotonic()
        visit, seen, due = self._asked(lane.ours, table)
        visit = replace(visit, asking=clock.monotonic() - begun)
        if not (due or self._how.compare):
            return visit
        done = polling_reconcile.level(self._workspace, lane, table)
        self._idle[table.qualified] = replace(
            seen,
            compared=clock.now().timestamp(),
            brought=seen.brought + done.brought,
            removed=seen.removed + done.removed,
        )
        return replace(visit, brought=visit.brought + done.brought, removed=done.removed, rows=done.rows)

    def _asked(self, reader: Session, table: Table) -> tuple[Visit, Seen, bool]:
        """Bring what may have changed; with how the table stands then, and whether it is to be compared whole."""
        name = table.qualified
        before, since = self._known.seen.get(name), self._known.since(table)
        horizon = polling_horizon.now(reader)
        seen = self._standing(reader, table, horizon)
        visit = Visit(table=name, horizon=horizon)
        if since is None or not horizon.reaches(since):
            return visit, seen, True
        due = before is None or before.file != seen.file or self._is_due(before)
        if not polling_changes.addressable(table):
            self._idle[name] = seen
            return visit, seen, due

        def keep(writer: Session, rows: int) -> None:
            polling_ledger.record(self._workspace, writer, name, replace(seen, brought=seen.brought + rows))
            failpoint("polling.recorded")

        try:
            rows = polling_changes.bring(self._workspace, reader, table, since, keep)
        except QueryFailed as error:
            if error.sqlstate != _UNIQUE:
                raise
            # A row that is gone from the source still holds the value: the comparison takes it away first.
            return visit, seen, True
        seen = replace(seen, brought=seen.brought + rows)
        if not rows:
            self._idle[name] = seen
        return replace(visit, brought=rows), seen, due

    def _is_due(self, before: Seen) -> bool:
        pace = self._workspace.terms.pace
        assert pace is not None
        return self._workspace.clock.now().timestamp() - before.compared >= pace.reconcile

    def _standing(self, reader: Session, table: Table, horizon: Horizon) -> Seen:
        row = reader.execute(_FILE, [table.oid]).fetchone()
        return polling_ledger.after(
            self._known.seen.get(table.qualified),
            horizon=horizon.xmin,
            file=0 if row is None else int(row[0]),
            at=self._workspace.clock.now().timestamp(),
        )

    def _keep_idle(self, *, every: float) -> None:
        """Put down, many at a time, the tables of which nothing else was written."""
        now = self._workspace.clock.monotonic()
        if not self._idle or now - self._kept_at < every:
            return
        with self._workspace.writing() as writer:
            for name, seen in self._idle.items():
                polling_ledger.record(self._workspace, writer, name, seen)
            failpoint("polling.before_kept")
        failpoint("polling.kept")
        self._idle = {}
        self._kept_at = now


def _enter(reader: Session, tables: Sequence[Table]) -> None:
    """Begin a transaction on the source: the locks first, so that none of them is rewritten after its snapshot."""
    reader.execute(BEGIN)
    if tables:
        reader.execute(locking(tables))


def locking(tables: Sequence[Table]) -> sql.Composed:
    """What keeps the tables as they are while they are read; it holds back DDL and nothing else."""
    names = sql.SQL(", ").join([sql.SQL("ONLY {}").format(table_name(table)) for table in tables])
    return sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(names)


@contextmanager
def _lane(workspace: Workspace, how: How) -> Iterator[Lane]:
    with lanes.lane(workspace.source, workspace.target) as lane:
        if how.timeout is not None:
            inside.limit(lane.ours, how.timeout, how.fence)
            inside.limit(lane.theirs, how.timeout, None)
        yield lane
