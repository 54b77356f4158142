"""Tasks of bulk work: values that travel to whoever performs them, and may be performed more than once.

A task holds secrets by reference alone. What is done of one that writes is committed with its row in the ledger, so that
the ledger decides: performed again it returns what is on record. One that only reads leaves nothing behind.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never

from planrunner.errors import QueryFailed, StepConflict
from planrunner.failpoints import failpoint
from planrunner.replication import building, regions, views
from planrunner.replication.courier import StreamSession, recorded
from planrunner.replication.lanes import Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.model import Endpoint
    from planrunner.replication.building import Build
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.jobs import Job
    from planrunner.replication.ledger import Copied
    from planrunner.replication.regions import Survey, Tract
    from planrunner.replication.views import View
    from planrunner.replication.workplace import Workplace

    Task: TypeAlias = "CopyTask | BuildTask | SurveyTask"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a process needs to know to work for a plan: both servers, and by what words its work is known.

    ``kind`` is what this sort of work is called, ``shift`` the word of this stretch of it. ``code`` is the digest of the
    program that asks; another one's tasks are not performed. Whoever knows no more than this has no right to write.
    """

    source: Endpoint
    target: Endpoint
    plan_id: str
    kind: str
    shift: str
    code: str = ""

    @property
    def crew(self) -> str:
        """What the sessions of its workers are called on the servers, after ``planrunner/``."""
        return f"{self.plan_id}/{self.kind}"


@dataclass(frozen=True, kw_only=True)
class LeasedSite(Site):
    """One to write at, as long as the lease's epoch is this one and the shift is not over (see ``shift``)."""

    epoch: int


@dataclass(frozen=True, kw_only=True)
class CopyTask:
    """Copy ``job`` as of a generation's instant, which is found by ``token`` (see ``instant.Instant``)."""

    site: LeasedSite
    generation: int
    token: str | Stand
    job: Job


@dataclass(frozen=True, kw_only=True)
class BuildTask:
    """Build what belongs to tables whose rows are in."""

    site: LeasedSite
    build: Build


@dataclass(frozen=True, kw_only=True)
class SurveyTask:
    """Digest ``tracts``, one after the other, each on both sides at the same time; as ``regions.survey``.

    ``view``: as of these snapshots, which another process holds; None: each as of now.
    """

    site: Site
    tracts: tuple[Tract, ...]
    moving: bool
    view: View | None = None


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


_writing: dict[str, Streams] = {}
_looking: dict[str, Lanes] = {}


@contextmanager
def present(shift: str, sessions: Streams | Lanes) -> Iterator[None]:
    """Tasks of ``shift`` are performed with ``sessions`` for the length of the block; they are closed at its end.

    Lanes do for those that only look.
    """
    if isinstance(sessions, Lanes):
        _looking[shift] = sessions
    else:
        _writing[shift] = sessions
    try:
        yield
    finally:
        _looking.pop(shift, None)
        _writing.pop(shift, None)
        sessions.close()


def perform(task: Task) -> Any:
    """Do it where ``present`` says; of a task that writes what is returned is committed.

    LeaseLost once the shift of such a one is over.
    """
    match task:
        case CopyTask():
            return _copied(task, _writing[task.site.shift])
        case BuildTask():
            return building.build(_writing[task.site.shift].place, task.build)
        case SurveyTask():
            return _surveyed(task, _looking[task.site.shift])
        case _:
            assert_never(task)


def _surveyed(task: SurveyTask, lanes: Lanes) -> tuple[Survey, ...]:
    with lanes.one() as lane, nullcontext() if task.view is None else views.entered(lane, task.view):
        found = tuple(regions.survey(lane, t.table, within=t.within, moving=task.moving) for t in task.tracts)
    failpoint("survey.read")
    return found


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
