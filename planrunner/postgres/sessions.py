"""How many clients a server has, for a login too that may not look into others' sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server

# Of a hidden session only process, database and user are shown. A client has both, and so have a sender and an apply
# worker, which everyone sees elsewhere; a hidden parallel worker is taken for a client.
_CLIENTS = """
SELECT count(*)::int, count(*) FILTER (WHERE datname = current_database())::int FROM pg_stat_activity
WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL AND usesysid IS NOT NULL
  AND pid NOT IN (SELECT pid FROM pg_stat_replication)
  AND pid NOT IN (SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL)
"""


def clients(server: Server) -> tuple[int, int]:
    """The clients of the whole server and of our database, our own session among them."""
    row = server.row(_CLIENTS)
    assert row is not None
    return row[0], row[1]
