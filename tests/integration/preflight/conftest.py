from __future__ import annotations

import itertools
import os
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Plan, Secret, SecretKind, SecretRef, Side, StepSpec
from planrunner.postgres.connection import Server
from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.rds_like import ReplicationRights
from planrunner.sandbox.servers import PostgresServer, wheel_bin
from planrunner.step import Held, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEBIAN = Path("/usr/lib/postgresql/15/bin")
PASSWORD = secrets.token_urlsafe(12)
_numbers = itertools.count(1)


@dataclass
class Place:
    """A database of its own on a shared server, and sessions to it."""

    server: PostgresServer
    database: str
    opened: list[Server] = field(default_factory=list)

    def execute(self, *statements: str) -> None:
        dsn = conninfo.make_conninfo(self.server.superuser_dsn, dbname=self.database)
        with psycopg.connect(dsn, autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def value(self, query: str) -> Any:
        dsn = conninfo.make_conninfo(self.server.superuser_dsn, dbname=self.database)
        with psycopg.connect(dsn, autocommit=True) as session:
            row = session.execute(query.encode()).fetchone()
        return row[0] if row else None

    def role(self, options: str = "LOGIN") -> str:
        name = f"r{next(_numbers)}"
        self.execute(f"CREATE ROLE {name} {options} PASSWORD '{PASSWORD}'")
        return name

    def connect(
        self,
        user: str | None = None,
        *,
        side: Side = Side.SOURCE,
        wrong: str | None = None,
        **endpoint: Any,
    ) -> Server:
        """A Server for ``user`` (the superuser when None); ``wrong`` is what it takes for the password."""
        secret = wrong or (PASSWORD if user else self.server.password)
        dsn = conninfo.make_conninfo(
            self.server.dsn(user or "postgres", self.database), **endpoint.pop("parameters", {})
        )
        endpoint.setdefault("password", SecretRef(kind=SecretKind.ENV, locator="TEST_PASSWORD"))
        server = Server(
            Endpoint(side=side, dsn=dsn, **endpoint),
            clock=SystemClock(),
            resolve=lambda _: Secret(secret),
            label="test",
        )
        self.opened.append(server)
        return server


def _needs_debian() -> None:
    if DEBIAN.exists():
        return
    if os.environ.get("CI"):
        pytest.fail("CI has no Debian PostgreSQL 15 (apt-get install postgresql-15): TLS is not tested")
    pytest.skip("needs Debian's PostgreSQL 15 with TLS: apt-get install postgresql-15")


@pytest.fixture(scope="session")
def logical_server() -> Iterator[PostgresServer]:
    """PostgreSQL 16 with wal_level=logical and RDS's rds_replication."""
    with PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}, max_life=7200) as server:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE ROLE rds_replication NOLOGIN")
        with ReplicationRights(server):
            yield server


@pytest.fixture(scope="session")
def plain_server() -> Iterator[PostgresServer]:
    """PostgreSQL 18 as it comes: wal_level=replica, no rds_replication."""
    with PostgresServer(wheel_bin(18), max_life=7200) as server:
        yield server


@pytest.fixture(scope="session")
def debian_server() -> Iterator[PostgresServer]:
    """PostgreSQL 15 with TLS (self-signed for localhost), dblink, and unencrypted sessions refused."""
    _needs_debian()
    server = PostgresServer(
        DEBIAN, settings={"ssl": "on", "ssl_cert_file": "tls.crt", "ssl_key_file": "tls.key"}, max_life=7200
    )
    try:
        _certify(server.data)
        (server.data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        unprivileged().own(server.data / "pg_hba.conf")
        server.start()
        yield server
    finally:
        server.close()


def _certify(data: Path) -> None:
    key, certificate = data / "tls.key", data / "tls.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    key.chmod(0o600)
    for path in (key, certificate):
        unprivileged().own(path)


@pytest.fixture
def place() -> Iterator[Callable[[PostgresServer], Place]]:
    made: list[Place] = []

    def make(server: PostgresServer) -> Place:
        name = f"db{next(_numbers)}"
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        made.append(Place(server=server, database=name))
        return made[-1]

    yield make
    for each in made:
        for server in each.opened:
            server.close()


@pytest.fixture
def source(place: Callable[[PostgresServer], Place], logical_server: PostgresServer) -> Place:
    return place(logical_server)


@pytest.fixture
def target(place: Callable[[PostgresServer], Place], plain_server: PostgresServer) -> Place:
    return place(plain_server)


@pytest.fixture
def make_run() -> Iterator[Callable[..., Run]]:
    """A Run of one step, as the engine gives it; ``snapshot`` are the options of the plan's snapshot step."""
    runs: list[Run] = []

    def make(
        source: Server,
        target: Server,
        uses: str = "validate",
        snapshot: dict[str, Any] | None = None,
        grant: dict[str, Any] | None = None,
        **options: Any,
    ) -> Run:
        spec = StepSpec(id="step", uses=uses, options=options)
        before = () if uses == "grant" else (StepSpec(id="grant", uses="grant", options=grant or {}),)
        copy = StepSpec(id="copy", uses="snapshot", options=snapshot or {})
        run = Run(
            plan=Plan(
                name="test",
                path=Path("plan.yaml"),
                digest="",
                source=source.endpoint,
                target=target.endpoint,
                steps=(*before, spec, copy),
            ),
            spec=spec,
            plan_id="0123abcd",
            source=source,
            target=target,
            cloud=None,
            clock=SystemClock(),
            held=Held(),
            tell=lambda _text, _fields: None,
        )
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.held.close()
