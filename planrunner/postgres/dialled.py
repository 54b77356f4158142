"""Statements by which one server dials another, for no longer than a while.

A server's own dialling (CREATE SUBSCRIPTION, dblink) heeds no ``connect_timeout``: libpq's ``PQconnectPoll``, which it
goes by, leaves the time to its caller. Where a connection is taken and never answered, it would wait for good.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from planrunner.errors import QueryFailed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.postgres.connection import Server, Session

SECONDS = 25.0
_LIMIT = "SELECT set_config('statement_timeout', %s, false)"


def place_of(dial: Mapping[str, str]) -> str:
    """Where libpq's parameters lead, as host:port."""
    return f"{dial.get('host') or 'localhost'}:{dial.get('port') or '5432'}"


@contextmanager
def bounded(server: Server, session: Session, place: str) -> Iterator[None]:
    """End each statement of the block after SECONDS, in which ``server`` dials ``place`` (host:port).

    QueryFailed then, as for a connection that failed (SQLSTATE 08006). The session is as before where the block
    succeeds; where it fails, the transaction is to be rolled back or the session closed.
    """
    clock = server.clock
    session.execute(_LIMIT, [f"{SECONDS * 1000:.0f}"])
    begun = clock.monotonic()
    try:
        yield
    except psycopg.errors.QueryCanceled:
        if clock.monotonic() - begun < SECONDS:
            raise
        raise QueryFailed(
            f"{server.side.value}: dialled {place} and got no answer within {SECONDS:.0f} s",
            remedy=f"On the {server.side.value}'s host: pg_isready -h {place.rpartition(':')[0]} -p"
            f" {place.rpartition(':')[2]}; look what takes connections there and says nothing (a proxy, a load"
            " balancer, a firewall that drops). Then run again.",
            sqlstate="08006",
        ) from None
    session.execute(_LIMIT, ["0"])
