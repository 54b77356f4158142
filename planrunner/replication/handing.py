"""Handing tasks to the pool and waiting for them; a worker that is lost with one costs it once."""

from __future__ import annotations

from concurrent.futures import wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from planrunner.errors import WorkerLost
from planrunner.replication import tasks
from planrunner.replication.feeds import Psql
from planrunner.replication.shift import Kind
from planrunner.replication.tasks import BuildTask, CopyTask, Streams
from planrunner.replication.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future

    from planrunner.replication.building import Build
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.tasks import Site, Task
    from planrunner.replication.workspace import Workspace

_LOOK_SECONDS = 1.0


class Hands:
    """Has the work of a shift done, copies under the workspace's round; ``check`` raises to stop."""

    def __init__(self, workspace: Workspace, site: Site, check: Callable[[], None]) -> None:
        self._workspace = workspace
        self._site = site
        self._check = check
        self._begun: set[Future[Any]] = set()
        reading = site.kind == Kind.COPY.value
        self._streams = Streams(here(workspace, check, reading=reading), self._instant)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """For the length of the block; what this process does for it has ended then, and its sessions are closed."""
        if self._workspace.pool.away:
            # What others do is ended with the shift.
            yield
            return
        with tasks.present(self._site.shift, self._streams):
            try:
                yield
            finally:
                # A signal may have called whoever waited away.
                wait(self._begun)

    def copied(self, generation: int, job: Job) -> Mapping[str, Copied]:
        """Have it copied; what is returned is committed, with its rows in the ledger."""
        # Here a session that has entered the snapshot outlives whoever held it.
        token = self._instant(generation).token if self._workspace.pool.away else ""
        task = CopyTask(site=self._site, generation=generation, token=token, job=job)
        done: Mapping[str, Copied] = self._handed(task)
        if self._workspace.pool.away:
            self._workspace.pulse.add(sum(copied.bytes for copied in done.values()))
        return done

    def built(self, wanted: Build) -> None:
        """Have it built; QueryFailed when the server refuses."""
        self._handed(BuildTask(site=self._site, build=wanted))

    def fewer(self) -> None:
        """A job fewer is done at a time from now on."""
        self._streams.shed()

    def _handed(self, task: Task) -> Any:
        try:
            return self._awaited(task)
        except WorkerLost as error:
            self._workspace.tell(f"{error.message}: it is given to another", {})
        return self._awaited(task)

    def _awaited(self, task: Task) -> Any:
        future: Future[Any] = self._workspace.pool.submit(task)
        self._begun.add(future)
        try:
            # In this process the task itself asks whether to stop.
            while not wait([future], timeout=_LOOK_SECONDS).done:
                if self._workspace.pool.away:
                    self._check()
        except BaseException:
            future.cancel()
            raise
        self._begun.discard(future)
        try:
            return future.result()
        except Exception as error:
            told = self._workspace.pool.failure(error)
            if told is error:
                raise
            raise told from error

    def _instant(self, generation: int, _token: str | Stand = "") -> Instant:
        held = self._workspace.round
        assert held is not None
        return held.snapshots[generation]


def here(workspace: Workspace, check: Callable[[], None], *, reading: bool = True) -> Workplace:
    """This process as a place to work at; with psql where the source is read and nobody else does it."""
    lease = workspace.lease
    alone = reading and not workspace.pool.away
    return Workplace(
        source=workspace.bulk,
        target=workspace.target,
        ledger=workspace.ledger,
        clock=workspace.clock,
        epoch=lease.epoch,
        hold=lease.statement(),
        psql=Psql.find(workspace.bulk) if alone else None,
        moved=workspace.pulse.add,
        check=check,
    )
