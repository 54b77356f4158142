"""How much a live comparison may ask of the servers, and waiting while the publisher is busy with others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication.buckets import BUCKET_BYTES

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

_OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend'
AND pid <> pg_backend_pid() AND application_name NOT LIKE 'planrunner/%'
"""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """``jobs`` sessions a side; above ``max_load`` active sessions of others the next round waits (None: never).

    ``bucket_bytes`` is what a bucket should hold.
    """

    jobs: int = 2
    max_load: int | None = None
    bucket_bytes: int = BUCKET_BYTES


class Throttle:
    """Looks at the publisher between rounds; what it waits for is told once."""

    def __init__(self, workspace: Workspace, server: Server, max_load: int | None) -> None:
        self._workspace = workspace
        self._server = server
        self._max_load = max_load
        self._told = False

    def wait(self) -> None:
        """Return once no more than ``max_load`` sessions of others are active."""
        while self._max_load is not None:
            busy = int(self._server.value(_OTHERS))
            if busy <= self._max_load:
                return
            if not self._told:
                self._workspace.tell(
                    f"live comparison waits: {busy} sessions are active on the {self._server.side.value},"
                    f" max_load is {self._max_load}",
                    {"active": busy, "max_load": self._max_load},
                )
                self._told = True
            self._workspace.clock.sleep(1.0)
