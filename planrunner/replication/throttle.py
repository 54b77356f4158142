"""How much bulk work may ask of the servers, and waiting while a server is busy with others or an operator pauses."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication.buckets import BUCKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace

_OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = 'client backend'
AND pid <> pg_backend_pid() AND application_name NOT LIKE 'planrunner%'
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
    """Looks at ``server`` between rounds of ``what``; what it waits for is told once.

    An operator's ``max_load`` stands for the plan's. Several threads may wait: one of them looks.
    """

    def __init__(
        self, workspace: Workspace, server: Server, max_load: int | None, what: str = "live comparison"
    ) -> None:
        self._workspace = workspace
        self._server = server
        self._max_load = max_load
        self._what = what
        self._told = False
        self._looking = threading.Lock()

    def wait(self, check: Callable[[], None] | None = None) -> None:
        """Return once nobody asks for a pause and no more than ``max_load`` sessions of others are active."""
        while self._holds():
            if check is not None:
                check()
            self._workspace.clock.sleep(0.5)

    def _holds(self) -> bool:
        steer = self._workspace.steering()
        if steer.paused:
            return True
        limit = self._max_load if steer.max_load is None else steer.max_load
        return limit is not None and self._busy(limit)

    def _busy(self, limit: int) -> bool:
        with self._looking:
            active = int(self._server.value(_OTHERS))
            if active > limit and not self._told:
                self._told = True
                self._workspace.tell(
                    f"{self._what} waits: {active} sessions are active on the {self._server.side.value},"
                    f" max_load is {limit}",
                    {"active": active, "max_load": limit},
                )
        return active > limit
