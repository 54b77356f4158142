"""Two servers with one database each, a PgBouncer before the first, and what a switch knows of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.sandbox.servers import HOST, PostgresServer, wheel_bin
from planrunner.switching.hooks import Surroundings
from planrunner.switching.terms import PgBouncerTerms, Places
from tests.bouncer import ADMIN_PASSWORD, Bouncer, entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.model import Json

FENCE_FUNCTION = "fence_0a1b2c3d"
FENCE_TRIGGER = "planrunner_fence"


@dataclass
class Scene:
    """What a test works with; ``told`` holds the news."""

    source: PostgresServer
    target: PostgresServer
    bouncer: Bouncer
    told: list[str] = field(default_factory=list)

    def surroundings(self, budget: float = 5.0) -> Surroundings:
        return Surroundings(
            source=server(self.source, Side.SOURCE),
            target=server(self.target, Side.TARGET),
            fence_trigger=FENCE_TRIGGER,
            fence_function=FENCE_FUNCTION,
            budget=budget,
            clock=SystemClock(),
            resolve=lambda _: Secret(ADMIN_PASSWORD),
            tell=self._tell,
        )

    def terms(self, **more: Any) -> PgBouncerTerms:
        given: dict[str, Any] = {
            "admin": self.bouncer.admin,
            "password": SecretRef(kind=SecretKind.ENV, locator="X"),
            "database": "app",
            "config": self.bouncer.config,
            "command": (),
            "places": Places(),
            "timeout": 5.0,
        }
        return PgBouncerTerms(**{**given, **more})

    def asked(self, query: str, database: str = "app") -> Any:
        """The first value of an answer that came through the pooler."""
        with psycopg.connect(self.bouncer.dsn(database), autocommit=True) as session:
            row = session.execute(query.encode()).fetchone()
            assert row is not None
            return row[0]

    def _tell(self, text: str, _fields: Mapping[str, Json]) -> None:
        self.told.append(text)


def server(made: PostgresServer, side: Side) -> Server:
    dsn = conninfo.make_conninfo(host=HOST, port=made.port, user="postgres", dbname="app", sslmode="disable")
    return Server(
        Endpoint(side=side, dsn=dsn),
        clock=SystemClock(),
        resolve=lambda _: Secret(made.password),
        label="planrunner/0a1b2c3d",
    )


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    # An entry's password goes for both sides.
    made: dict[str, Any] = {"password": "one for both", "max_life": 1800.0}
    with PostgresServer(wheel_bin(16), **made) as source, PostgresServer(wheel_bin(18), **made) as target:
        for each in (source, target):
            with psycopg.connect(each.superuser_dsn, autocommit=True) as session:
                session.execute("CREATE DATABASE app")
            with psycopg.connect(each.dsn("postgres", "app", password=each.password)) as session:
                session.execute("CREATE TABLE t (n int)")
                session.execute("CREATE SCHEMA planrunner")
        yield source, target


@pytest.fixture
def scene(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[Scene]:
    source, target = servers
    databases = {"app": entry(source, "app"), "other": entry(source, "app")}
    with Bouncer(databases, settings={"query_wait_timeout": "20"}) as bouncer:
        yield Scene(source=source, target=target, bouncer=bouncer)
        for each in servers:
            with psycopg.connect(each.dsn("postgres", "app", password=each.password)) as session:
                session.execute(f"DROP FUNCTION IF EXISTS planrunner.{FENCE_FUNCTION}() CASCADE".encode())
