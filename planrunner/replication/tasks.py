"""Tasks of bulk work: values that travel to whoever performs them, and may be performed more than once.

A task holds secrets by reference alone. What is done of it is committed with its row in the ledger, so that the ledger
decides: a task that is performed again returns what is on record.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from planrunner.errors import QueryFailed, StepConflict
from planrunner.replication import building
from planrunner.replication.courier import StreamSession, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.model import Endpoint
    from planrunner.replication.building import Build
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.workplace import Workplace

    Task: TypeAlias = "CopyTask | BuildTask"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a process needs to know to work for a plan: where rows come from and go to, the lease's epoch, its shift.

    ``kind`` is the word for shifts of this sort; there is one of each at a time.
    ``code`` is the digest of the program that asks; another one's tasks are not performed.
    """

    source: Endpoint
    target: Endpoint
    plan_id: str
    epoch: int
    kind: str
    shift: str
    code: str = ""


@dataclass(frozen=True, kw_only=True)
class CopyTask:
    """Copy ``job`` as of a generation's instant, which is found by ``token`` (see ``instant.Instant``)."""

    site: Site
    generation: int
    token: str | Stand
    job: Job


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """Build what belongs to tables whose rows are in."""

    site: Site
    build: Build


class Streams:
    """The sessions of a place that copy, each for one task at a time; those at rest keep their snapshot.

    ``instant`` finds what a generation is copied from, by its token.
    """

    def __init__(self, place: Workplace, instant: Callable[[int, str | Stand], Instant]) -> None:
        self.place = place
        self._instant = instant
        self._resting: list[tuple[tuple[int, str | Stand], StreamSession]] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self, generation: int, token: str | Stand) -> Iterator[StreamSession]:
        """One for the length of the block; it is closed when the block fails."""
        key = (generation, token)
        session = self._awakened(key) or StreamSession(self.place, self._instant(generation, token))
        try:
            yield session
        except BaseException:
            session.close()
            raise
        with self._lock:
            self._resting.append((key, session))

    def _awakened(self, key: tuple[int, str | Stand]) -> StreamSession | None:
        with self._lock:
            found = next((one for one in reversed(self._resting) if one[0] == key), None)
            # In the place of one for another snapshot: there are never more of them than tasks at a time.
            gone = None if found is not None or not self._resting else self._resting[0]
            for taken in (found, gone):
                if taken is not None:
                    self._resting.remove(taken)
        if gone is not None:
            gone[1].close()
        return None if found is None else found[1]

    def shed(self) -> None:
        """Close one that rests, if any does: a task fewer is performed at a time."""
        with self._lock:
            gone = self._resting.pop(0) if self._resting else None
        if gone is not None:
            gone[1].close()

    def close(self) -> None:
        """Close all that rest."""
        while self._resting:
            self.shed()


_present: dict[str, Streams] = {}


@contextmanager
def present(shift: str, streams: Streams) -> Iterator[None]:
    """Tasks of ``shift`` are performed with ``streams`` for the length of the block; they are closed at its end."""
    _present[shift] = streams
    try:
        yield
    finally:
        del _present[shift]
        streams.close()


def perform(task: Task) -> Any:
    """Do it where ``present`` says; what is returned is committed. LeaseLost once its shift is over."""
    streams = _present[task.site.shift]
    match task:
        case CopyTask():
            return _copied(task, streams)
        case BuildTask():
            return building.build(streams.place, task.build)
        case _:
            assert_never(task)


def _copied(task: CopyTask, streams: Streams) -> Mapping[str, Copied]:
    place = streams.place
    if place.away and (known := recorded(place.ledger, task.job)) is not None:
        return known
    try:
        with streams.one(task.generation, task.token) as session:
            return session.copied(task.job)
    except (StepConflict, QueryFailed):
        # Whoever was asked before us, and was believed to be lost, may have come to its end first.
        known = recorded(place.ledger, task.job) if place.away else None
        if known is None:
            raise
        return known
