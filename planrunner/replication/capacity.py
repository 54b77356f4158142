"""How many streams the copy takes by default: what both servers have room for and this machine can feed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from planrunner.postgres import sessions

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server

MOST = 8
_ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
       current_setting('max_parallel_workers')::int
"""


def jobs(source: Server, target: Server, *, away: bool = False) -> int:
    """Streams for a plan that names no number: at least 2, at most 8.

    Two for each core of this machine, no more than either server runs parallel workers (the only figure that
    follows a server's cores which SQL shows), and never more than a quarter of its free connections. Where other
    machines feed them (``away``) only the servers count, however many workers there are.
    """
    bounds = [] if away else [MOST, 2 * (os.cpu_count() or 1)]
    for server in (source, target):
        row = server.row(_ROOM)
        assert row is not None
        places, workers = row
        bounds += [(places - sessions.clients(server)[0]) // 4, workers]
    return max(2, min(bounds))
