"""Passwords that change while we work, with secrets as RDS keeps them: one more look, and not a second."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import boto3
import psycopg
import pytest
from moto.server import ThreadedMotoServer
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.errors import ConnectionFailed, ToolFailed
from planrunner.model import Endpoint, RdsInstance, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.replication import generations, indexes, load, restore, verify
from planrunner.replication.feeds import Psql
from planrunner.replication.generations import Division
from planrunner.replication.schema_dump import Wishes
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from planrunner.secrets import SecretResolver
from tests.integration.replication.stage import Pair, assert_equal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.server

LOGIN = "rotated"
REFUSED = f'password authentication failed for user "{LOGIN}"'
TABLES = """
CREATE TABLE wide (id int PRIMARY KEY, t text);
INSERT INTO wide SELECT i, repeat('w', 900) FROM generate_series(1, 30000) i;
CREATE TABLE small (id int PRIMARY KEY, t text);
INSERT INTO small SELECT i, 'row ' || i FROM generate_series(1, 500) i;
"""


@pytest.fixture(autouse=True)
def _aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="module")
def endpoint_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}, max_life=900) as source,
        PostgresServer(wheel_bin(18), max_life=900) as target,
    ):
        with psycopg.connect(source.superuser_dsn, autocommit=True) as session:
            session.execute(f"CREATE ROLE {LOGIN} LOGIN SUPERUSER".encode())
        yield source, target


@dataclass
class Rotation:
    """A secret as RDS writes it, and its rotation at the very moment between a look at it and the login."""

    server: PostgresServer
    access: RdsInstance
    reads: int = 0
    armed: bool = False
    name: str = field(default_factory=lambda: f"rds!db-{uuid4()}")
    _lock: Any = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._service = boto3.client("secretsmanager", endpoint_url=self.access.endpoint_url)
        self._service.create_secret(Name=self.name, SecretString="{}")
        self.rotate()

    def rotate(self, *, stored: str | None = None) -> None:
        """A new password, as RDS does it; ``stored`` is put into the secret in its place."""
        password = f"p'w {uuid4()}"
        with psycopg.connect(self.server.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(LOGIN), password))
        told = {"username": LOGIN, "password": stored or password, "host": "127.0.0.1", "port": 5432}
        self._service.put_secret_value(SecretId=self.name, SecretString=json.dumps(told))

    def resolve(self, endpoint: Endpoint) -> Secret | None:
        """The runner's own resolver; what it found is rotated away when that was wished for."""
        with self._lock:
            self.reads += 1
            found = SecretResolver({}).resolve(endpoint)
            if self.armed:
                self.armed = False
                self.rotate()
            return found

    def source(self, database: str = "postgres", label: str = "test") -> Server:
        ref = SecretRef(kind=SecretKind.AWS_SECRETSMANAGER, locator=self.name)
        endpoint = Endpoint(
            side=Side.SOURCE, dsn=self.server.dsn(LOGIN, database), password=ref, rds=self.access
        )
        return Server(endpoint, clock=SystemClock(), resolve=self.resolve, label=label)

    def refusals(self) -> int:
        return self.server.log.read_text().count(REFUSED)


@pytest.fixture
def rotation(servers: tuple[PostgresServer, PostgresServer], endpoint_url: str) -> Rotation:
    return Rotation(servers[0], RdsInstance(instance="x", region="us-east-1", endpoint_url=endpoint_url))


def by_session(_: Rotation, server: Server) -> None:
    server.open(read_only=True).close()


def by_child(rotation: Rotation, server: Server) -> None:
    psql = Psql(program=wheel_bin(16) / "psql", version=160000)
    with psycopg.connect(rotation.server.superuser_dsn) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        row = holder.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        with psql.feed(server, row[0], sql.SQL("COPY (SELECT 7) TO STDOUT")) as feed:
            assert b"".join(feed.blocks()) == b"7\n"
            assert feed.rows() == 1


ROADS: dict[str, Callable[[Rotation, Server], None]] = {"session": by_session, "psql": by_child}


@pytest.mark.parametrize("road", ROADS)
def test_a_password_rotated_between_the_look_and_the_login_is_looked_up_once_more(
    rotation: Rotation, road: str
) -> None:
    before = rotation.refusals()
    rotation.armed = True

    ROADS[road](rotation, rotation.source())

    assert (rotation.reads, rotation.refusals() - before) == (2, 1)


@pytest.mark.parametrize("road", ROADS)
def test_a_wrong_password_is_tried_twice_and_told(rotation: Rotation, road: str) -> None:
    before = rotation.refusals()
    rotation.rotate(stored="an old one")

    with pytest.raises((ConnectionFailed, ToolFailed), match=r"password") as caught:
        ROADS[road](rotation, rotation.source())

    assert "an old one" not in str(caught.value)
    assert (rotation.reads, rotation.refusals() - before) == (2, 2)


def test_a_login_that_is_refused_for_another_reason_is_not_tried_again(rotation: Rotation) -> None:
    with pytest.raises(ConnectionFailed, match="no database"):
        by_session(rotation, rotation.source("nowhere"))
    assert rotation.reads == 1


@dataclass
class Rotated(Pair):
    """A pair whose source is reached with the secret that is rotated."""

    rotation: Rotation | None = None

    def _opened(self, server: PostgresServer, side: Side) -> Server:
        if side is Side.TARGET or self.rotation is None:
            return super()._opened(server, side)
        return self.rotation.source(self.name, f"planrunner/{self.plan_id}")


@contextmanager
def _armed(rotation: Rotation) -> Iterator[None]:
    """Whatever looks the password up next in the block is refused with it."""
    before, rotation.armed = rotation.refusals(), True
    yield
    assert not rotation.armed
    assert rotation.refusals() - before >= 1


def test_a_copy_of_many_connections_outlives_rotations(
    servers: tuple[PostgresServer, PostgresServer], rotation: Rotation
) -> None:
    pair = Rotated(*servers, name=f"rotated{uuid4().hex[:8]}", rotation=rotation)
    pair.create(TABLES)
    division = Division(chunk_above=4 << 20)
    terms = indexes.Terms(jobs=2, memory="64MB", wishes=Wishes())
    with pair.workspace() as space:
        tables = verify.followed_tables(space)
        generations.begin(space, tables, division)
        with _armed(rotation):
            # pg_dump is the next to log in.
            restore.pre_data(space, Wishes())
        with _armed(rotation):
            load.copy_everything(space, tables, jobs=4, division=division, terms=terms)
        assert rotation.reads > 6
    assert_equal(pair)


def test_a_token_is_made_for_every_login(
    servers: tuple[PostgresServer, PostgresServer], endpoint_url: str
) -> None:
    access = RdsInstance(instance="x", region="eu-central-1", endpoint_url=endpoint_url)
    own = Endpoint(side=Side.SOURCE, dsn=servers[0].dsn(LOGIN, "postgres"), rds_iam=True, rds=access)
    tokens: list[str] = []

    def resolve(endpoint: Endpoint) -> Secret | None:
        made = SecretResolver({}).resolve(endpoint)
        assert made is not None
        tokens.append(made.reveal())
        with psycopg.connect(servers[0].superuser_dsn, autocommit=True) as session:
            # The server takes this token and no other, as RDS takes one for a quarter of an hour.
            session.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(LOGIN), tokens[-1]))
        return made

    server = Server(own, clock=SystemClock(), resolve=resolve, label="test")
    server.open(read_only=True).close()
    assert len(tokens) == 1
    assert f"127.0.0.1:{servers[0].port}/?Action=connect&DBUser={LOGIN}&" in tokens[0]
    assert "eu-central-1%2Frds-db" in tokens[0]
    server.open(read_only=True).close()
    assert len(tokens) == 2
