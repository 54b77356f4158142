"""What runs in a worker's process: it reaches the servers by itself, with secrets that are found on its machine."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.authorities import Authorities
from planrunner.clock import SystemClock
from planrunner.errors import PlanrunnerError
from planrunner.pools.likeness import refuse_another
from planrunner.postgres.connection import Server
from planrunner.postgres.heartbeat import watched
from planrunner.replication import shift, tasks
from planrunner.replication.feeds import Psql
from planrunner.replication.frozen import Still
from planrunner.replication.lanes import Lanes
from planrunner.replication.ledger import Ledger, lease_lost
from planrunner.replication.shift import Kind
from planrunner.replication.snapshot import NamedSnapshot
from planrunner.replication.tasks import LeasedSite, Streams
from planrunner.replication.workplace import Workplace
from planrunner.secrets import SecretResolver

if TYPE_CHECKING:
    from planrunner.model import Endpoint
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.tasks import Site, Task

# A session at rest holds its snapshot, and with it what the source can't clean up.
REST_SECONDS = 10.0
_LOOK_SECONDS = 2.0


def perform(task: Task) -> Any:
    """Do ``task`` on this machine; what is returned of one that writes is committed.

    PoolUnfit when another program asks, SecretUnavailable and ConnectionFailed as this machine is.
    """
    refuse_another(task.site.code)
    with _camp.at(task.site):
        return tasks.perform(task)


class Camp:
    """The places at which this process works, by their sites; one that nobody works at is given up soon."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[Site, _Post] = {}
        self._keeper: threading.Thread | None = None

    def at(self, site: Site) -> _Post:
        """The place of ``site``, made now if it is not there."""
        with self._lock:
            post = self._places.get(site)
            if post is None:
                post = self._places[site] = _Post(site)
            post.busy += 1
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="rest", daemon=True)
                self._keeper.start()
        return post

    def _keep(self) -> None:
        pause = threading.Event()
        while True:
            pause.wait(_LOOK_SECONDS)
            with self._lock:
                idle = [site for site, post in self._places.items() if post.idle_for(REST_SECONDS)]
                given_up = [self._places.pop(site) for site in idle]
                if not self._places:
                    self._keeper = None
            for post in given_up:
                post.close()
            if self._keeper is None:
                return


class _Post:
    """One place: its servers, watched, and its sessions. A context manager: in use for the length of the block."""

    def __init__(self, site: Site) -> None:
        self.busy = 0
        self._rested_at = time.monotonic()
        self._opened = False
        self._site = site
        self._stack = ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        try:
            with self._lock:
                if not self._opened:
                    self._open()
                    self._opened = True
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.busy -= 1
            self._rested_at = time.monotonic()

    def idle_for(self, seconds: float) -> bool:
        return self.busy == 0 and time.monotonic() - self._rested_at > seconds

    def close(self) -> None:
        with suppress(PlanrunnerError, psycopg.Error):
            self._stack.close()

    def _open(self) -> None:
        site = self._site
        clock, secrets = SystemClock(), SecretResolver(os.environ)
        authority = Authorities(os.environ, clock).file

        def server(endpoint: Endpoint) -> Server:
            made = Server(
                endpoint,
                clock=clock,
                resolve=secrets.resolve,
                label=f"planrunner/{site.crew}",
                authority=authority,
            )
            self._stack.callback(made.close)
            return made

        with ExitStack() as undo:
            undo.push(self._stack)
            source, target = server(site.source), server(site.target)
            for one in (source, target):
                self._stack.enter_context(watched(one))
            # Lanes are read-only by the server's own word, so nothing has to be asked before one is opened.
            made = _streams(site, source, target) if isinstance(site, LeasedSite) else Lanes(source, target)
            self._stack.enter_context(tasks.present(site.shift, made))
            undo.pop_all()


def _streams(site: LeasedSite, source: Server, target: Server) -> Streams:
    """Sessions that write for whoever holds the lease; none is opened once it or the shift is over."""

    def fence() -> None:
        # Without its FOR SHARE, which a session that only reads may not say.
        if target.row(shift.look(site)) is None:
            raise lease_lost()

    source.fence = target.fence = fence
    place = Workplace(
        source=source,
        target=target,
        ledger=Ledger(target, site.plan_id),
        clock=target.clock,
        epoch=site.epoch,
        hold=shift.hold(site),
        psql=Psql.find(source) if site.kind == Kind.COPY.value else None,
        moved=lambda _: None,
        check=lambda: None,
        away=True,
    )
    return Streams(place, lambda number, token: _instant(source, number, token))


def _instant(source: Server, generation: int, token: str | Stand) -> Instant:
    if isinstance(token, str):
        return NamedSnapshot(server=source, generation=generation, name=token)
    return Still(source, generation, token)


_camp = Camp()
