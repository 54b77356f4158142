"""Streams as a run leaves them after the copy: slot, subscription, ledger; made by hand, a database each."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import drift, publications, shape, subscriptions
from planrunner.replication.ledger import Copied
from planrunner.replication.ranges import NOTHING
from planrunner.replication.terms import Terms
from planrunner.replication.units import Unit
from planrunner.replication.workspace import Workspace
from planrunner.sandbox.servers import PostgresServer, wheel_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.model import Json

DEBIAN = Path("/usr/lib/postgresql/15/bin")
TABLES = (
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
    "CREATE TABLE orders (id int PRIMARY KEY, note text, code text UNIQUE, m mood)",
    "CREATE TABLE lines (id int PRIMARY KEY, n int)",
    "CREATE TABLE bare (a int, b text)",
    "ALTER TABLE bare REPLICA IDENTITY FULL",
)
_numbers = itertools.count(1)


def bin_of(major: int) -> Path:
    """The programs of a major version; a missing 15 fails in CI and skips elsewhere."""
    if major != 15:
        return wheel_bin(major)
    if not (DEBIAN / "postgres").exists():
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL 15 of Debian is missing: .ci/run installs it")
        pytest.skip("needs Debian's postgresql-15 (apt-get install postgresql-15)")
    return DEBIAN


@dataclass
class Streams:
    """A plan's streams between two databases, and what was told of them."""

    servers: tuple[PostgresServer, PostgresServer]
    space: Workspace
    told: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first generation's publication, slot and subscription."""
        return self.space.names.stream(1)

    def source(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute on the source as a stranger would."""
        return self._execute(self.space.source, *statements)

    def target(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute on the target as a stranger would."""
        return self._execute(self.space.target, *statements)

    def _execute(self, server: Server, *statements: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(dsn_of(server), autocommit=True) as session:
            for statement in statements:
                cursor = session.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fill_wal(self, megabytes: int) -> None:
        """Write that much WAL on the source."""
        self.source(*["SELECT pg_logical_emit_message(false, 'x', repeat('x', 1 << 20))"] * megabytes)

    def wait_until(self, true: Callable[[], Any]) -> None:
        """Wait for something that must come; fails after a minute."""
        deadline = self.space.clock.monotonic() + 60
        while not true():
            assert self.space.clock.monotonic() < deadline, "did not happen within a minute"
            self.space.clock.sleep(0.05)


def dsn_of(server: Server) -> str:
    """The DSN of a server's database as its superuser."""
    password = server.password()
    return conninfo.make_conninfo(server.endpoint.dsn, password=password.reveal() if password else "")


def connected(server: PostgresServer, database: str, side: Side) -> Server:
    """A Server of the superuser on a database."""
    dsn = conninfo.make_conninfo(server.dsn("postgres", database), sslmode="disable")
    endpoint = Endpoint(side=side, dsn=dsn)
    return Server(
        endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="planrunner/test"
    )


@pytest.fixture(scope="session")
def old_server() -> Iterator[PostgresServer]:
    """A source of PostgreSQL 15, the target of the tests that need one."""
    with PostgresServer(bin_of(15), settings={"wal_level": "logical"}, max_life=7200) as server:
        yield server


@pytest.fixture(scope="session")
def source_server() -> Iterator[PostgresServer]:
    """A source of PostgreSQL 16 on which transactions can be prepared."""
    settings = {"wal_level": "logical", "max_prepared_transactions": "8"}
    with PostgresServer(wheel_bin(16), settings=settings, max_life=7200) as server:
        yield server


@pytest.fixture(scope="session")
def target_server() -> Iterator[PostgresServer]:
    """A target of PostgreSQL 18 that retries as often as it can be told to."""
    settings = {"wal_retrieve_retry_interval": "500ms", "wal_level": "logical"}
    with PostgresServer(wheel_bin(18), settings=settings, max_life=7200) as server:
        yield server


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A source of PostgreSQL 16 and a target of 18, of the module alone, where it makes none of its own."""
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        yield source, target


@pytest.fixture
def streams() -> Iterator[Callable[..., Streams]]:
    """Makes Streams between two servers: tables on both sides, generation 1 copied, ``following`` or not."""
    made: list[Streams] = []

    def make(
        source: PostgresServer, target: PostgresServer, *, following: bool = True, terms: Terms | None = None
    ) -> Streams:
        number = next(_numbers)
        sides = (_database(source, f"s{number}", Side.SOURCE), _database(target, f"t{number}", Side.TARGET))
        told: list[str] = []

        def tell(text: str, _fields: Mapping[str, Json]) -> None:
            told.append(text)

        space = Workspace(
            source=sides[0],
            target=sides[1],
            plan_id=f"{number:08x}",
            clock=SystemClock(),
            tell=tell,
            terms=terms or Terms(poll=0.5, check_every=0.5),
        )
        made.append(Streams(servers=(source, target), space=space, told=told))
        _copied(made[-1])
        if following:
            subscriptions.create(space, 1, NOTHING)
            subscriptions.enable(space, 1)
            made[-1].wait_until(lambda: subscriptions.existing(space.target, space.names)[1].pid)
        return made[-1]

    yield make
    for each in made:
        _taken_away(each)


def _database(server: PostgresServer, name: str, side: Side) -> Server:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return connected(server, name, side)


def _copied(streams: Streams) -> None:
    space = streams.space
    streams.source(*TABLES)
    streams.target(*TABLES)
    tables = catalog.stored_tables(space.source)
    publications.create(space.source, space.names, 1, [Unit(table=table) for table in tables])
    streams.source(f"SELECT pg_create_logical_replication_slot('{streams.name}', 'pgoutput')")
    with space.writing() as session:
        session.execute(publications.barrier_table(space.names, 1))
        copied = {table.qualified: Copied(generation=1, rows=0, bytes=0, seconds=0.0) for table in tables}
        session.execute(space.ledger.unit_statement(copied, space.lease.epoch))
    space.done(drift.STEP, drift.SOURCE_SHAPE, shape.to_json(shape.read(space.source)))


def _taken_away(streams: Streams) -> None:
    space = streams.space
    source, target = streams.servers
    names = {source: "", target: ""}
    if target.running:
        names[target] = space.target.identity().database
        for generation in subscriptions.existing(space.target, space.names):
            subscriptions.drop(space, generation)
    if source.running:
        names[source] = space.source.identity().database
    for each in (space, space.source, space.target):
        each.close()
    for server, database in names.items():
        if database:
            _dropped(server, database)


def _dropped(server: PostgresServer, database: str) -> None:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
        )
        session.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s AND NOT active",
            [database],
        )
        session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
