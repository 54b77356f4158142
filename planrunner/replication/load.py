"""The copy of everything that is left, over several streams, the largest first.

The biggest tables are cut into chunks that all streams share; small ones travel in batches, one transaction for many.
A table whose last unit is in is handed on at once, so that its indexes are built while others still copy. A lost
connection or snapshot costs the units in hand: the rest goes on, under another generation where it must.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import (
    Interrupted,
    ServerError,
    ServerReplaced,
    SnapshotLost,
    SnapshotOutdated,
    ToolFailed,
)
from planrunner.failpoints import failpoint
from planrunner.replication import copy, generations, indexes, ranges, shift
from planrunner.replication.bulletin import Bulletin
from planrunner.replication.courier import mendable
from planrunner.replication.handing import Hands
from planrunner.replication.holders import Onlooker
from planrunner.replication.identities import table_name
from planrunner.replication.jobs import SMALL_BYTES, jobs_of
from planrunner.replication.throttle import Throttle
from planrunner.replication.units import Unit
from planrunner.replication.watch import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.generations import Division
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.tasks import LeasedSite
    from planrunner.replication.watch import Background
    from planrunner.replication.workspace import Workspace

# Over a slow line waiting costs no CPU, so small tables travel on more sessions than cores would bear.
SLOW_ROUND_TRIP_SECONDS = 0.005
SLOW_STREAMS = 16
MOST_FAILURES = 5
_AWAY_SECONDS = 300.0
# Each table in a query takes a lock and a level of the parser's stack.
_ASKED_AT_ONCE = 500
# An operator may raise the number of streams in mid-copy; threads are made as they are needed.
_MOST_STREAMS = 256
_LOOK_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How the copy goes: streams, and who is told of finished tables; ``check`` raises to stop, between blocks."""

    jobs: int
    division: Division
    finished: Callable[[Sequence[Table]], None]
    check: Callable[[], None]


def copy_everything(
    workspace: Workspace, tables: Sequence[Table], *, jobs: int, division: Division, terms: indexes.Terms
) -> None:
    """Copy what is left of ``tables`` over ``jobs`` streams, and build indexes of what is in meanwhile."""
    with indexes.Builder(workspace, terms, _never) as builder:
        ways = Ways(jobs=jobs, division=division, finished=builder.ready, check=builder.refuse_failed)
        copy_rest(workspace, tables, ways)


def _never() -> None:
    """No reason to stop."""


def copy_rest(workspace: Workspace, tables: Sequence[Table], ways: Ways) -> None:
    """Copy every unit of ``tables`` that is not copied yet, through losses of connections and snapshots.

    Raises the error itself when it is one that another attempt won't mend, or when five attempts in a row
    finished no unit. Finished units stay finished in every case.
    """
    failures = 0
    while todo := generations.remaining(workspace, tables):
        before = len(todo)
        try:
            _attempt(workspace, tables, ways)
        except (ServerError, ToolFailed, SnapshotLost) as error:
            still = _left_after(workspace, tables, error)
            failures = 0 if still < before else failures + 1
            outdated = isinstance(error, SnapshotOutdated)
            if not (mendable(error) or outdated) or failures == MOST_FAILURES:
                raise
            if outdated:
                workspace.let_go()
            workspace.tell(f"the copy goes on after: {error.message}", {"units_left": still})


def _attempt(workspace: Workspace, tables: Sequence[Table], ways: Ways) -> None:
    with shift.at_work(workspace, shift.Kind.COPY) as site:
        _attempt_at(site, workspace, tables, ways)


def _attempt_at(site: LeasedSite, workspace: Workspace, tables: Sequence[Table], ways: Ways) -> None:
    # Chunks of an attempt that broke off are begun anew: how a table is cut may have changed with its size.
    generations.truncate_begun(workspace, ranges.units(workspace, tables))
    if workspace.round is None or not workspace.round.alive():
        generations.begin(workspace, tables, ways.division)
    todo = generations.remaining(workspace, tables)
    refuse_rows(workspace, todo)
    assert workspace.round is not None
    with watching(workspace, (*workspace.ledger.generations(), *workspace.round.snapshots)) as watch:
        # Where the rows are read may have become known only now.
        at = replace(site, source=workspace.bulk.endpoint)
        Load(workspace, ways, todo, watch, at).run()


def _left_after(workspace: Workspace, tables: Sequence[Table], error: Exception) -> int:
    """Wait until the servers answer again; the number of units that are left."""
    deadline = workspace.clock.monotonic() + _AWAY_SECONDS
    while True:
        try:
            workspace.bulk.value("SELECT 1")
            return len(generations.remaining(workspace, tables))
        except ServerReplaced:
            raise
        except ServerError as away:
            if workspace.clock.monotonic() > deadline or not mendable(error):
                raise error from away
            workspace.clock.sleep(1)


def refuse_rows(workspace: Workspace, units: Sequence[Unit]) -> None:
    """StepConflict when the target already holds rows of units that were never copied; one query for many."""
    wholes = {unit.table.oid: Unit(table=unit.table) for unit in units}
    filled = {unit.table.oid for unit in _filled(workspace, list(wholes.values()))}
    # Some ranges of a table may be copied and others not; mostly none is.
    found = _filled(workspace, [unit for unit in units if unit.table.oid in filled])
    if found:
        raise copy.occupied(sorted({unit.table.qualified for unit in found}))


def _filled(workspace: Workspace, units: Sequence[Unit]) -> list[Unit]:
    """Those of which the target holds rows."""
    found: list[Unit] = []
    for place in range(0, len(units), _ASKED_AT_ONCE):
        asked = units[place : place + _ASKED_AT_ONCE]
        looks = sql.SQL(" UNION ALL ").join([_look(number, unit) for number, unit in enumerate(asked)])
        found += [asked[row[0]] for row in workspace.target.rows(looks)]
    return found


def _look(number: int, unit: Unit) -> sql.Composed:
    within = sql.SQL(" WHERE {}").format(unit.part.predicate()) if unit.part else sql.SQL("")
    return sql.SQL("SELECT {}::int WHERE EXISTS (SELECT FROM ONLY {}{})").format(
        sql.Literal(number), table_name(unit.table), within
    )


class Load:
    """One attempt at ``units`` under the workspace's round of snapshots."""

    def __init__(
        self, workspace: Workspace, ways: Ways, units: Sequence[Unit], watch: Background, site: LeasedSite
    ) -> None:
        self._workspace = workspace
        self._watch = watch
        self._ways = ways
        self._stopped = threading.Event()
        self._cause: BaseException | None = None
        self._lock = threading.Lock()
        self._units_left = Counter(unit.table.qualified for unit in units)
        self._hands = Hands(workspace, site, self._check)
        self._throttle = Throttle(workspace, workspace.bulk, None, "the copy")
        self._bulletin = Bulletin(workspace.clock, workspace.tell)
        self._slow = _slow(workspace)
        self._onlooker = Onlooker(workspace, workspace.target)
        self._spent: dict[int, bool] = {}
        self._work = self._divided(units)
        self._chunks_left = Counter(
            job.units[0].id for jobs in self._work.values() for job in jobs if job.chunk is not None
        )

    def _divided(self, units: Sequence[Unit]) -> dict[int, deque[Job]]:
        held = self._workspace.round
        assert held is not None
        version = self._workspace.source.identity().version
        return {
            generation: deque(
                jobs_of(
                    [unit for unit in units if held.generation_of[unit.id] == generation],
                    streams=self._streams(),
                    chunk_above=self._ways.division.chunk_above,
                    version=version,
                )
            )
            for generation in held.snapshots
        }

    def run(self) -> None:
        """Copy them all; the first error stops the others at their next block and is raised."""
        with (
            self._hands.ready(),
            ThreadPoolExecutor(_MOST_STREAMS, thread_name_prefix="copy") as pool,
        ):
            running: dict[int, Future[None]] = {}
            try:
                while self._more(pool, running):
                    # Woken now and then: an operator may have raised the number of streams.
                    done, _ = wait(running.values(), timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                    self._bulletin.tend()
                    for number in [n for n, future in running.items() if future in done]:
                        running.pop(number).result()
            except Interrupted:
                self._stopped.set()
                # It may have been stopped because of another stream's error, which takes a moment longer to come here.
                wait(running.values())
                if self._cause is not None:
                    raise self._cause from None
                raise
            except BaseException:
                self._stopped.set()
                raise
            finally:
                self._bulletin.end()

    def _more(self, pool: ThreadPoolExecutor, running: dict[int, Future[None]]) -> bool:
        """Begin the streams that are missing; False when none is at work and nothing is left."""
        left = sum(map(len, self._work.values()))
        for number in range(min(self._streams(), left + len(running))):
            if number not in running and not self._is_spent(number):
                running[number] = pool.submit(self._stream, number)
        return bool(running)

    def _is_spent(self, number: int) -> bool:
        # What found no small job any more may find a large one, now that there are more streams for those.
        return number in self._spent and not (self._spent[number] and number < self._jobs())

    def _jobs(self) -> int:
        asked = self._workspace.steering().jobs
        return max(1, min(self._ways.jobs if asked is None else asked, _MOST_STREAMS))

    def _streams(self) -> int:
        """The plan's or the operator's number of streams, or more where the line is slow: waiting costs no CPU."""
        jobs = self._jobs()
        # Fewer than the plan's were asked for because of the servers, whatever the line.
        return max(jobs, SLOW_STREAMS) if self._slow and jobs >= self._ways.jobs else jobs

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("the copy was stopped; the units in hand are rolled back")
        self._onlooker.look()
        self._watch.check()
        self._ways.check()

    def _stream(self, number: int) -> None:
        try:
            self._copy_all(number)
        finally:
            self._hands.fewer()

    def _copy_all(self, number: int) -> None:
        generations_here = list(self._work)
        first = number % len(generations_here)
        try:
            for generation in generations_here[first:] + generations_here[:first]:
                if not self._copy_of(generation, number):
                    return  # one too many now; it may be begun again
            self._spent[number] = number >= self._jobs()
        except BaseException as error:
            if not isinstance(error, Interrupted):
                self._cause = self._cause or error
            self._stopped.set()
            raise

    def _copy_of(self, generation: int, number: int) -> bool:
        """Copy what is left of that generation; False when the stream is one too many before the end."""
        while self._may_go_on(number):
            job = self._take(generation, number)
            if job is None:
                return True
            self._finished(job, self._hands.copied(generation, job))
        return False

    def _may_go_on(self, number: int) -> bool:
        """Wait as long as nothing new may begin; False when the stream is one too many."""
        self._throttle.wait(self._check)
        while self._watch.paused():
            self._check()
            self._workspace.clock.sleep(0.5)
        self._check()
        return number < self._streams()

    def _take(self, generation: int, number: int) -> Job | None:
        # Streams beyond the number of jobs wait for the line, not for a core: they take small batches only.
        small_only = number >= self._jobs()
        with self._lock:
            jobs = self._work[generation]
            if not jobs or (small_only and len(jobs[-1].units) == 1 and jobs[-1].bytes >= SMALL_BYTES):
                return None
            return jobs.pop() if small_only else jobs.popleft()

    def _finished(self, job: Job, done: Mapping[str, Copied]) -> None:
        if job.chunk is not None:
            done = self._joined(job.units[0])
        if not done:
            return
        self._bulletin.copied(done)
        with self._lock:
            self._units_left.subtract(unit.table.qualified for unit in job.units if unit.id in done)
            # Several ranges of one table may travel in one job.
            complete = {
                u.table.qualified: u.table for u in job.units if not self._units_left[u.table.qualified]
            }
        if complete:
            self._ways.finished(list(complete.values()))

    def _joined(self, unit: Unit) -> dict[str, Copied]:
        with self._lock:
            self._chunks_left[unit.id] -= 1
            if self._chunks_left[unit.id]:
                return {}
        with self._workspace.writing() as session:
            whole = self._workspace.ledger.join_chunks(session, unit.id)
        assert whole is not None
        failpoint("copy.joined")
        return {unit.id: whole}


def _slow(workspace: Workspace) -> bool:
    slowest = max(_round_trip(workspace, server) for server in (workspace.bulk, workspace.target))
    return slowest > SLOW_ROUND_TRIP_SECONDS


def _round_trip(workspace: Workspace, server: Server) -> float:
    # The least of several: a busy machine's delays are no line's.
    def once() -> float:
        begun = workspace.clock.monotonic()
        server.value("SELECT 1")
        return workspace.clock.monotonic() - begun

    return min(once() for _ in range(5))
