"""What the data plane of one run shares: both servers, names, ledger, lease and the held snapshot."""

from __future__ import annotations

import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Protocol

from planrunner.failpoints import failpoint
from planrunner.replication import selection_record
from planrunner.replication.choices import Choices
from planrunner.replication.ledger import Lease, Ledger, lease_lost
from planrunner.replication.names import Names
from planrunner.replication.pulse import Pulse
from planrunner.replication.selection import EVERYTHING, Selection
from planrunner.replication.takeover import take_over
from planrunner.replication.terms import Terms
from planrunner.replication.threads import Threads
from planrunner.steering import unsteered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from datetime import datetime

    from planrunner.model import Json, Secret, Side
    from planrunner.ports import Clock, Pool
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.instant import Instant
    from planrunner.replication.sampling import Totals
    from planrunner.replication.schema_dump import Schema
    from planrunner.steering import Steering


@dataclass(frozen=True, kw_only=True)
class Round:
    """The generations that were begun together: what each is copied from, and which of them copies which unit."""

    snapshots: Mapping[int, Instant]
    generation_of: Mapping[str, int]

    def alive(self) -> bool:
        """False when what any of them is copied from is gone."""
        return all(snapshot.alive() for snapshot in self.snapshots.values())


class Way(Enum):
    """How a server comes to stand still: a standby is paused or promoted, or the source's storage is copied.

    A plan says ``restore`` of either copy; which one it is, a snapshot that is restored or an Aurora cluster's clone, is
    the source's to tell.
    """

    PAUSE = "pause"
    PROMOTE = "promote"
    RESTORE = "restore"
    CLONE = "clone"


class Restorer(Protocol):
    """Makes the server that rows are copied from."""

    def way(self) -> Way:
        """Whether a snapshot of the source is restored or its cluster cloned; reads only."""
        ...

    def make(self, way: Way, generation: int, since: datetime) -> Server:
        """Make one for ``generation`` from the source as it is now, after ``since``; the same one when it is there."""
        ...

    def found(self, generation: int) -> Server | None:
        """The one that is there; reads only."""
        ...

    def lacking(self) -> str | None:
        """Why none can be made; reads only."""
        ...

    def remove(self, way: Way, last: int) -> None:
        """Take those of the generations up to ``last`` away, which were made in that way."""
        ...


@dataclass(frozen=True, kw_only=True)
class Freezing:
    """The server that rows are copied from, and how it is frozen; ``server`` is None before it is restored."""

    server: Server | None
    way: Way
    restorer: Restorer | None = None


_LEASE_SECONDS = 1.0


class Workspace:
    """Lives as long as the process. The lease is taken at the first write, not before.

    ``schema`` is the source's schema as it was dumped under the round's snapshot, ``analyzed`` the tables whose
    statistics this process has gathered on the target, ``choices`` what the plan says of tables that can't be
    followed as they are, ``shield`` what holds back a signal meanwhile, ``steering`` what operators ask for now,
    ``freezing`` the standby that the rows come from, None where they come from the source,
    ``logins`` the passwords that this process gave to the roles of its subscriptions, ``pool`` who performs the tasks
    of bulk work. ``may_give_up``: who waits for
    the streams may drop them above the plan's budget of WAL; not inside a pause, nor for a command that only looks.
    """

    def __init__(  # noqa: PLR0913  # what a run is made of, each by its name
        self,
        *,
        source: Server,
        target: Server,
        plan_id: str,
        clock: Clock,
        tell: Callable[[str, Mapping[str, Json]], None],
        selection: Selection = EVERYTHING,
        terms: Terms | None = None,
    ) -> None:
        self.source = source
        self.target = target
        self.clock = clock
        self.tell = tell
        self.terms = terms or Terms()
        self.pulse = Pulse(clock, tell)
        self.choices = Choices()
        self.shield: Callable[[], AbstractContextManager[None]] = nullcontext
        self.steering: Steering = unsteered
        self.freezing: Freezing | None = None
        self.names = Names(plan_id=plan_id)
        self.ledger = Ledger(target, plan_id)
        self._wished = selection
        self._selection: Selection | None = None
        self.round: Round | None = None
        self.schema: Schema | None = None
        self.analyzed: set[str] = set()
        self.totals: Totals | None = None
        self.logins: dict[Side, Secret] = {}
        self.pool: Pool = Threads()
        self.may_give_up = False
        self._lease: Lease | None = None
        self._checked = clock.monotonic()
        self._taking = threading.Lock()

    @property
    def bulk(self) -> Server:
        """Where the rows are copied from: the source, or the standby that is frozen for it."""
        return self.source if self.freezing is None else self.freezing.server or self.source

    @property
    def selection(self) -> Selection:
        """What the plan selects, its time windows as instants; StepConflict as ``selection_record.settled``."""
        # Kept: whoever asks in this process gets the same instants, on record or not yet.
        if self._selection is None:
            self._selection = selection_record.settled(self.ledger, self._wished, self.clock.now())
        return self._selection

    @selection.setter
    def selection(self, selection: Selection) -> None:
        self._selection = selection

    @property
    def streamed(self) -> bool:
        """True where logical decoding carries the changes; False where the source is polled for them."""
        return self.terms.pace is None

    @property
    def lease(self) -> Lease:
        """The lease, taken now if it was not; a former runner's sessions on both sides are ended."""
        # Several threads may need it first: taken twice, the second would fence off the first.
        with self._taking:
            if self._lease is None:
                self._refuse_latecomer()
                lease = take_over(self.source, self.target, self.names.plan_id, self.clock)
                for server in {self.source, self.bulk, self.target}:
                    server.fence = partial(self._refuse_zombie, lease)
                self._lease = lease
            return self._lease

    def rest(self, seconds: float) -> None:
        """Sleep, between two looks at what is waited for; LeaseLost, once a second, when another runner has taken over.

        Whoever only waits writes nothing that would tell it, and what it waits for may never come then.
        """
        self.clock.sleep(seconds)
        now = self.clock.monotonic()
        if self._lease is not None and now - self._checked > _LEASE_SECONDS:
            self._refuse_zombie(self._lease)
            self._checked = now

    def _refuse_latecomer(self) -> None:
        # Before anybody's sessions are ended: they may be those of the runner that took over from this one.
        if Lease.is_anothers(self.target, self.names.plan_id):
            raise lease_lost()

    def _refuse_zombie(self, lease: Lease) -> None:
        # A ledger that we have removed ourselves knows nobody, until another makes it anew.
        if not self.ledger.removed:
            lease.check(self.target)
        elif Lease.is_anothers(self.target, self.names.plan_id):
            raise lease_lost()

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction on the target that holds the lease."""
        lease = self.lease
        with self.target.transaction() as session:
            lease.hold(session)
            yield session

    @contextmanager
    def writing_to(self, server: Server) -> Iterator[Session]:
        """A transaction on either side; the target's holds the lease, the source knows none."""
        if server is self.target:
            with self.writing() as session:
                yield session
            return
        self.lease  # noqa: B018  # taken before anything is changed anywhere
        with server.transaction() as session:
            yield session

    def done(self, step: str, name: str, detail: Mapping[str, Json] | None = None) -> None:
        """Record an effect in a transaction of its own."""
        self.all_done(step, {name: detail or {}})

    def all_done(self, step: str, details: Mapping[str, Mapping[str, Json]]) -> None:
        """Record effects, by name, in one transaction of their own."""
        with self.writing() as session:
            for name, detail in details.items():
                self.ledger.record_effect(session, step, name, detail)
            failpoint("ledger.before_effect")
        failpoint("ledger.effect_recorded")

    @contextmanager
    def giving_up(self) -> Iterator[None]:
        """Hold to the budget of WAL for the length of the block, as while copying and following."""
        self.may_give_up = True
        try:
            yield
        finally:
            self.may_give_up = False

    def let_go(self) -> None:
        """Give the snapshots back; harmless when there are none."""
        if self.round is not None:
            for snapshot in self.round.snapshots.values():
                snapshot.close()
        self.round = None

    def close(self) -> None:
        """Give back what the process holds."""
        self.let_go()
        self.pool.close()
        if (
            self.freezing is not None
            and self.freezing.restorer is not None
            and self.freezing.server is not None
        ):
            self.freezing.server.close()
