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
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.snapshot import Snapshot
    from planrunner.replication.tasks import Site
    from planrunner.replication.workspace import Workspace

_LOOK_SECONDS = 1.0


def handed(workspace: Workspace, task: Any, check: Callable[[], None]) -> Any:
    """What the pool has made of ``task``; ``check`` raises to stop waiting for another process."""
    try:
        return _awaited(workspace, task, check)
    except WorkerLost as error:
        workspace.tell(f"{error.message}: it is given to another", {})
    return _awaited(workspace, task, check)


def _awaited(workspace: Workspace, task: Any, check: Callable[[], None]) -> Any:
    pool = workspace.pool
    future: Future[Any] = pool.submit(task)
    # In this process the task itself asks, and is waited for: its sessions are ours.
    while not wait([future], timeout=_LOOK_SECONDS).done and pool.away:
        try:
            check()
        except BaseException:
            future.cancel()
            raise
    try:
        return future.result()
    except Exception as error:
        told = pool.failure(error)
        if told is error:
            raise
        raise told from error


class Hands:
    """Has the work of a shift done, copies under the workspace's round; ``check`` raises to stop."""

    def __init__(self, workspace: Workspace, site: Site, check: Callable[[], None]) -> None:
        self._workspace = workspace
        self._site = site
        self._check = check
        reading = site.kind == Kind.COPY.value
        self._streams = Streams(here(workspace, check, reading=reading), self._snapshot)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """For the length of the block; what this process holds for it is given back."""
        with tasks.present(self._site.shift, self._streams):
            yield

    def copied(self, generation: int, job: Job) -> Mapping[str, Copied]:
        """Have it copied; what is returned is committed, with its rows in the ledger."""
        # Here a session that has entered the snapshot outlives whoever held it.
        name = self._snapshot(generation).name if self._workspace.pool.away else ""
        task = CopyTask(site=self._site, generation=generation, snapshot=name, job=job)
        done: Mapping[str, Copied] = handed(self._workspace, task, self._check)
        if self._workspace.pool.away:
            self._workspace.pulse.add(sum(copied.bytes for copied in done.values()))
        return done

    def built(self, wanted: Build) -> None:
        """Have it built; QueryFailed when the server refuses."""
        handed(self._workspace, BuildTask(site=self._site, build=wanted), self._check)

    def fewer(self) -> None:
        """A job fewer is done at a time from now on."""
        self._streams.shed()

    def _snapshot(self, generation: int, _name: str = "") -> Snapshot:
        held = self._workspace.round
        assert held is not None
        return held.snapshots[generation]


def here(workspace: Workspace, check: Callable[[], None], *, reading: bool = True) -> Workplace:
    """This process as a place to work at; with psql where the source is read and nobody else does it."""
    lease = workspace.lease
    alone = reading and not workspace.pool.away
    return Workplace(
        source=workspace.source,
        target=workspace.target,
        ledger=workspace.ledger,
        clock=workspace.clock,
        epoch=lease.epoch,
        hold=lease.statement(),
        psql=Psql.find(workspace.source) if alone else None,
        moved=workspace.pulse.add,
        check=check,
    )
