"""What a shift hands to the pool: units to copy, and what is to be built."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from planrunner.replication import tasks
from planrunner.replication.errands import Errands
from planrunner.replication.feeds import Psql
from planrunner.replication.shift import Kind
from planrunner.replication.tasks import BuildTask, CopyTask, Streams
from planrunner.replication.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.replication.building import Build
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.tasks import LeasedSite
    from planrunner.replication.workspace import Workspace


class Hands:
    """Has the work of a shift done, copies under the workspace's round; ``check`` raises to stop."""

    def __init__(self, workspace: Workspace, site: LeasedSite, check: Callable[[], None]) -> None:
        self._workspace = workspace
        self._site = site
        self._errands = Errands(workspace, check)
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
                self._errands.settle()

    def copied(self, generation: int, job: Job) -> Mapping[str, Copied]:
        """Have it copied; what is returned is committed, with its rows in the ledger."""
        # Here a session that has entered the snapshot outlives whoever held it.
        token = self._instant(generation).token if self._workspace.pool.away else ""
        task = CopyTask(site=self._site, generation=generation, token=token, job=job)
        done: Mapping[str, Copied] = self._errands.done(task)
        if self._workspace.pool.away:
            self._workspace.pulse.add(sum(copied.bytes for copied in done.values()))
        return done

    def built(self, wanted: Build) -> None:
        """Have it built; QueryFailed when the server refuses."""
        self._errands.done(BuildTask(site=self._site, build=wanted))

    def fewer(self) -> None:
        """A job fewer is done at a time from now on."""
        self._streams.shed()

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
