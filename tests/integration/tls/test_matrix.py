"""Every TLS mode against good and bad certificates: only the right ones connect, and never in plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.errors import ConnectionFailed, QueryFailed, ToolFailed
from planrunner.replication.feeds import Psql
from planrunner.replication.subscriptions import dial_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.postgres.connection import Server
    from tests.integration.tls.conftest import Scene

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("hostile_shell")]

CERTIFICATES = (
    "good",
    "self-signed",
    "other CA",
    "expired",
    "not yet valid",
    "other name",
    "revoked",
    "for clients only",
)
EVERY = frozenset(CERTIFICATES)


@dataclass(frozen=True)
class Mode:
    """A way of asking for TLS, and the certificates that it is to accept."""

    parameters: dict[str, str]
    accepts: frozenset[str]
    self_signed: bool = False
    verifies: bool = False


MODES = {
    "disable": Mode({"sslmode": "disable"}, frozenset()),
    "require": Mode({"sslmode": "require"}, EVERY),
    "verify-ca": Mode({"sslmode": "verify-ca"}, frozenset({"good", "other name"}), verifies=True),
    "verify-full": Mode({"sslmode": "verify-full"}, frozenset({"good"}), verifies=True),
    "the default": Mode({}, frozenset({"good"}), verifies=True),
    "allow_self_signed_certs": Mode({}, EVERY, self_signed=True),
}
REASONS = {
    "self-signed": "does not vouch for",
    "other CA": "does not vouch for",
    "expired": "has expired",
    "not yet valid": "is not valid yet",
    "other name": "another host name",
    "revoked": "was revoked",
    "for clients only": "not made for a server",
}


def _server(scene: Scene, mode: Mode, label: str) -> Server:
    files = {"sslrootcert": str(scene.root), "sslcrl": str(scene.revoked)} if mode.verifies else {}
    return scene.connect({**mode.parameters, **files}, label=label, self_signed=mode.self_signed)


def by_session(scene: Scene, server: Server, label: str) -> None:
    """The runner's own connection."""
    session = server.open(read_only=True)
    try:
        assert scene.seen(label) == [(True, "TLSv1.3")]
    finally:
        session.close()


def by_child(scene: Scene, server: Server, label: str) -> None:
    """A psql child, as rows are copied by."""
    psql = Psql(program=scene.server.bin_dir / "psql", version=150000)
    with scene.behind() as holder:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        row = holder.execute("SELECT pg_export_snapshot()").fetchone()
        assert row is not None
        query = sql.SQL("COPY (SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) TO STDOUT")
        with psql.feed(server, row[0], query) as feed:
            told = b"".join(feed.blocks())
            assert feed.rows() == 1
    assert told == b"t\tTLSv1.3\n", label


def by_subscription(scene: Scene, server: Server, label: str) -> None:
    """The server's own libpq, as a subscription dials the other side."""
    dial = conninfo.make_conninfo(
        "", **dial_parameters(server), password="open sesame", application_name=label
    )
    statement = sql.SQL(
        "CREATE SUBSCRIPTION probe CONNECTION {} PUBLICATION p"
        " WITH (create_slot = false, enabled = false, slot_name = NONE)"
    ).format(sql.Literal(dial))
    with scene.behind() as session, session.transaction(force_rollback=True):
        session.execute("SET LOCAL client_min_messages = error")
        session.execute(statement)


ROADS: dict[str, Callable[[Scene, Any, str], None]] = {
    "session": by_session,
    "psql": by_child,
    "subscription": by_subscription,
}
REFUSALS = (ConnectionFailed, ToolFailed, QueryFailed, psycopg.OperationalError)


@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("road", ROADS)
def test_only_the_right_ones_connect_and_all_encrypted(
    tls_server: Scene, road: str, mode: str, certificate: str
) -> None:
    tls_server.show(certificate)
    # A label of its own: a session of the test before may not be gone yet.
    label = f"{road} {mode} {certificate}"
    server = _server(tls_server, MODES[mode], label)
    before = len(tls_server.let_in())

    if certificate in MODES[mode].accepts:
        ROADS[road](tls_server, server, label)
        assert len(tls_server.let_in()) > before
    else:
        with pytest.raises(REFUSALS):
            ROADS[road](tls_server, server, label)
        assert len(tls_server.let_in()) == before
    assert all("SSL enabled" in how for how in tls_server.let_in())


@pytest.mark.parametrize("certificate", REASONS)
def test_each_refusal_says_what_is_wrong_with_the_certificate(tls_server: Scene, certificate: str) -> None:
    tls_server.show(certificate)
    server = _server(tls_server, MODES["the default"], "told")

    with pytest.raises(ConnectionFailed, match=REASONS[certificate]) as caught:
        server.open(read_only=True).close()
    assert f"localhost:{tls_server.server.port}" in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("mode", [name for name in MODES if name != "disable"])
@pytest.mark.parametrize("road", ROADS)
def test_a_server_without_tls_is_never_spoken_to_in_plain_text(
    plain_server: Scene, road: str, mode: str
) -> None:
    server = _server(plain_server, MODES[mode], "matrix")

    with pytest.raises(REFUSALS):
        ROADS[road](plain_server, server, "matrix")
    assert plain_server.let_in() == []


@pytest.mark.parametrize("mode", ["prefer", "allow"])
def test_a_mode_that_falls_back_does_not(plain_server: Scene, mode: str) -> None:
    server = plain_server.connect({"sslmode": mode})

    with pytest.raises(ConnectionFailed, match="does not support TLS"):
        server.open(read_only=True).close()
    assert plain_server.let_in() == []
