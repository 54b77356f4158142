"""Two servers, a database pair for each test, and the data plane driven without the engine."""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.replication import barrier, generations, indexes, load, merge, restore, verify
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.workspace import Workspace
from tests.acceptance.helpers import contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.replication.generations import Division
    from planrunner.sandbox.servers import PostgresServer

# As the server says it, or as libpq does where it could not say it any more.
BROKEN = r"^source: the (server ended the session|session broke)"


@dataclass
class Pair:
    """A database on either side, and a workspace on them; ``news`` holds what was told."""

    source: PostgresServer
    target: PostgresServer
    name: str
    on_news: Callable[[str, Mapping[str, Any]], None] = lambda _message, _fields: None
    news: list[str] = field(default_factory=list)

    def dsn(self, server: PostgresServer) -> str:
        return server.dsn("postgres", self.name, password=server.password)

    @property
    def plan_id(self) -> str:
        # Slots belong to the whole server, so each pair of databases is a plan of its own.
        return hashlib.sha256(self.name.encode()).hexdigest()[:8]

    @property
    def ours(self) -> str:
        return self.dsn(self.source)

    @property
    def theirs(self) -> str:
        return self.dsn(self.target)

    def create(self, script: str) -> None:
        for server in (self.source, self.target):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.name)))
        self.execute(script)

    def execute(self, script: str) -> None:
        with psycopg.connect(self.ours, autocommit=True) as session:
            session.execute(sql.SQL(script))  # type: ignore[arg-type]

    def _opened(self, server: PostgresServer, side: Side) -> Server:
        parts = conninfo.conninfo_to_dict(self.dsn(server))
        parts.pop("password")
        endpoint = Endpoint(side=side, dsn=conninfo.make_conninfo("", **{**parts, "sslmode": "disable"}))
        label = f"planrunner/{self.plan_id}"
        return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label=label)

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        sides = self._opened(self.source, Side.SOURCE), self._opened(self.target, Side.TARGET)
        space = Workspace(
            source=sides[0], target=sides[1], plan_id=self.plan_id, clock=SystemClock(), tell=self._tell
        )
        try:
            yield space
        finally:
            space.close()
            for side in sides:
                side.close()

    def _tell(self, message: str, fields: Mapping[str, Any]) -> None:
        self.news.append(message)
        self.on_news(message, fields)

    def lose_snapshot(self) -> None:
        """End every session of the runner on the source: keepers, exporter, readers."""
        with psycopg.connect(self.source.superuser_dsn, autocommit=True) as session:
            # A keeper that lives on a moment longer may have been followed by another.
            for _ in range(5):
                session.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s"
                    " AND application_name LIKE 'planrunner/%%'",
                    [self.name],
                )


def copy_all(space: Workspace, *, division: Division, jobs: int = 2) -> None:
    """What the step snapshot does, from schema to indexes."""
    tables = verify.followed_tables(space)
    wishes = Wishes()
    if generations.remaining(space, tables):
        generations.begin(space, tables, division)
    if restore.PRE_DATA not in space.ledger.effects(restore.STEP):
        restore.pre_data(space, wishes)
    terms = indexes.Terms(jobs=2, memory="64MB", wishes=wishes)
    load.copy_everything(space, tables, jobs=jobs, division=division, terms=terms)
    space.let_go()
    with indexes.Builder(space, terms, lambda: None) as builder:
        builder.everything_else(foreign_keys=len(space.ledger.generations()) <= 1)


def follow_all(space: Workspace, *, streams: int = 1) -> None:
    """What the step sync does: subscribe every generation, catch up, join them, build what was withheld."""
    tables = verify.followed_tables(space)
    for generation in space.ledger.generations():
        generations.follow(space, tables, generation)
    barrier.wait(space, space.ledger.generations(), timeout=120)
    merge.undo(space)
    if len(space.ledger.generations()) > streams:
        merge.merge(space, tables, streams=streams)
        barrier.wait(space, space.ledger.generations(), timeout=120)
    with indexes.Builder(
        space, indexes.Terms(jobs=2, memory="64MB", wishes=Wishes()), lambda: None
    ) as builder:
        builder.withheld()
    barrier.wait(space, space.ledger.generations(), timeout=120)


def assert_equal(pair: Pair) -> None:
    """Every table's rows agree, by SQL of the test's own."""
    assert contents(pair.ours) == contents(pair.theirs)


class Churn:
    """Writes to the source until it is stopped: each of ``moves`` by chance, a transaction each."""

    def __init__(self, dsn: str, moves: list[str], *, seed: int = 0) -> None:
        self._dsn = dsn
        self._moves = moves
        self._chance = random.Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.done = 0
        self.failed: list[str] = []

    def __enter__(self) -> Churn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        assert not self.failed, self.failed[:3]

    def _write(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as session:
            while not self._ended.is_set():
                move = self._chance.choice(self._moves)
                values = {"a": self._chance.randrange(20_000), "b": self._chance.randrange(1 << 40)}
                try:
                    session.execute(move, values)  # type: ignore[arg-type]
                    self.done += 1
                except psycopg.Error as error:
                    self.failed.append(f"{move}: {error}")
                    return


def end_who(dsn: str, words: str) -> None:
    """End the session whose last statement is such a one, as soon as there is one."""
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query ~ %s AND pid <> %s"
    )
    with psycopg.connect(dsn, autocommit=True) as session:
        for _ in range(3000):
            if session.execute(ended, [f"^{words}", session.info.backend_pid]).fetchone():
                return
            SystemClock().sleep(0.01)
    raise AssertionError(words)
