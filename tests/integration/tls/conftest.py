from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.connection import Server
from planrunner.sandbox.account import unprivileged
from planrunner.sandbox.servers import PostgresServer
from tests.integration.tls.certificates import Authority, Pair, self_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

DEBIAN = Path("/usr/lib/postgresql/15/bin")
USER = "migrator"
_NETWORK = re.compile(r"connection authorized: user=migrator (?P<rest>.*)$", re.MULTILINE)


@dataclass
class Scene:
    """A server with TLS whose certificate can be swapped, and the way to look at it from behind."""

    server: PostgresServer
    root: Path
    revoked: Path
    pairs: dict[str, Pair]
    shown: str = ""
    # Opened before a test changes the shell.
    watcher: psycopg.Connection[Any] | None = None
    opened: list[Server] = field(default_factory=list)

    def show(self, name: str) -> None:
        """Let the server show that certificate from now on."""
        if name == self.shown:
            return
        for kind in ("crt", "key"):
            made = self.pairs[name].certificate if kind == "crt" else self.pairs[name].key
            shutil.copyfile(made, self.server.data / f"tls.{kind}")
        self.reload()
        self.shown = name

    def reload(self) -> None:
        with self.behind() as session:
            before = session.execute("SELECT pg_conf_load_time()").fetchone()
            session.execute("SELECT pg_reload_conf()")
            while session.execute("SELECT pg_conf_load_time()").fetchone() == before:
                session.execute("SELECT pg_sleep(0.005)")

    def behind(self) -> psycopg.Connection[Any]:
        """The superuser, by the socket: what it sees is not what is tested."""
        return psycopg.connect(
            host=str(self.server.folder),
            port=self.server.port,
            user="postgres",
            password=self.server.password,
            dbname="postgres",
            autocommit=True,
            # Nothing of the shell that the tests run in.
            hostaddr="",
            options="",
        )

    def seen(self, label: str) -> list[tuple[bool, str | None]]:
        """Whether each session of that name is encrypted, and how, as the server sees it."""
        if self.watcher is None:
            self.watcher = self.behind()
        return self.watcher.execute(
            "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE starts_with(application_name, %s)",
            [label],
        ).fetchall()

    def let_in(self) -> list[str]:
        """How the server's log says that the sessions of the migrator came in, in order."""
        return [match["rest"] for match in _NETWORK.finditer(self.server.log.read_text())]

    def connect(self, parameters: dict[str, str], *, label: str = "test", **endpoint: Any) -> Server:
        dsn = {"host": "localhost", "hostaddr": "127.0.0.1", "port": str(self.server.port)}
        dsn |= {"user": USER, "dbname": "postgres", **parameters}
        text = endpoint.pop("dsn", None) or conninfo.make_conninfo("", **dsn)
        server = Server(
            Endpoint(
                side=endpoint.pop("side", Side.SOURCE),
                dsn=text,
                password=SecretRef(kind=SecretKind.ENV, locator="X"),
                **endpoint,
            ),
            clock=SystemClock(),
            resolve=lambda _: Secret("open sesame"),
            label=label,
        )
        self.opened.append(server)
        return server


def needs_debian() -> None:
    if not DEBIAN.exists():
        if os.environ.get("CI"):
            pytest.fail("CI has no Debian PostgreSQL 15 (apt-get install postgresql-15): TLS is not tested")
        pytest.skip("needs Debian's PostgreSQL 15 with TLS: apt-get install postgresql-15")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, dict[str, Pair]]:
    folder = tmp_path_factory.mktemp("ca")
    own, other = Authority(folder, "own"), Authority(folder, "other")
    made = {
        "good": own.pair("good"),
        "self-signed": self_signed(folder),
        "other CA": other.pair("strange"),
        "expired": own.pair("expired", dates=("20200101000000Z", "20210101000000Z")),
        "not yet valid": own.pair("early", dates=("20900101000000Z", "20910101000000Z")),
        "other name": own.pair("other", san="DNS:elsewhere.example.com"),
        "revoked": own.pair("revoked"),
        "for clients only": own.pair("client", usage="clientAuth"),
    }
    own.revoke(made["revoked"])
    return own, made


@pytest.fixture(scope="session")
def tls_server(pairs: tuple[Authority, dict[str, Pair]]) -> Iterator[Scene]:
    """PostgreSQL 15 that takes nothing but TLS from the network."""
    needs_debian()
    own, made = pairs
    server = PostgresServer(
        DEBIAN,
        settings={
            "ssl": "on",
            "ssl_cert_file": "tls.crt",
            "ssl_key_file": "tls.key",
            "log_connections": "on",
            "wal_level": "logical",
        },
        max_life=900,
    )
    try:
        for name, source in (("tls.crt", made["good"].certificate), ("tls.key", made["good"].key)):
            shutil.copyfile(source, server.data / name)
            (server.data / name).chmod(0o600)
            unprivileged().own(server.data / name)
        _rules(server, "hostssl")
        server.start()
        for readable in (own.root, own.revoked):
            copy = server.folder / readable.name
            shutil.copyfile(readable, copy)
            unprivileged().own(copy)
        scene = Scene(
            server=server,
            root=server.folder / own.root.name,
            revoked=server.folder / own.revoked.name,
            pairs=made,
            shown="good",
        )
        _login(scene)
        scene.seen("")
        yield scene
    finally:
        server.close()


@pytest.fixture(scope="session")
def plain_server() -> Iterator[Scene]:
    """PostgreSQL 15 without TLS that lets everybody in by password."""
    needs_debian()
    with PostgresServer(DEBIAN, settings={"log_connections": "on"}, max_life=900) as server:
        scene = Scene(server=server, root=Path("/nonexistent"), revoked=Path("/nonexistent"), pairs={})
        _login(scene)
        yield scene


def _rules(server: PostgresServer, kind: str) -> None:
    path = server.data / "pg_hba.conf"
    path.write_text(f"local all all scram-sha-256\n{kind} all all 127.0.0.1/32 scram-sha-256\n")
    unprivileged().own(path)


def _login(scene: Scene) -> None:
    with scene.behind() as session:
        session.execute(f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD 'open sesame'".encode())


@pytest.fixture(autouse=True)
def _close(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("tls_server", "plain_server"):
        if name in request.fixturenames:
            scene: Scene = request.getfixturevalue(name)
            for server in scene.opened:
                server.close()
            scene.opened.clear()


@pytest.fixture
def hostile_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that would have libpq do without TLS, and go elsewhere."""
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)


SHELL = {
    "PGSSLMODE": "disable",
    "PGSSLROOTCERT": "/nonexistent/root.crt",
    "PGGSSENCMODE": "disable",
    "PGHOSTADDR": "127.0.0.2",
    "PGPORT": "1",
    "PGOPTIONS": "-c application_name=overruled",
}
