"""Which cluster answers at an endpoint's address: learnt from the first session, held against every later one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from planrunner.errors import ConnectionFailed, ServerReplaced

if TYPE_CHECKING:
    from planrunner.model import Side

_STARTING = "57P03"


class Occupant:
    """The cluster behind an address. A name that is moved, or a port that another server took, is noticed by it.

    A copy of the cluster's files (a promoted standby, a restored backup) has the same identifier: that one is told
    by what it lacks, our slots, and by its timeline.
    """

    def __init__(self, *, side: Side) -> None:
        self._side = side
        self._system: str | None = None
        self._writes = False
        self._lock = threading.Lock()

    def recognise(self, system: str | None, *, recovering: bool) -> None:
        """Compare who answers now with who did: ServerReplaced for another cluster.

        ConnectionFailed, which is worth another attempt, for a standby where there was a primary. ``system`` is its
        ``system_identifier``, None where it does not tell.
        """
        with self._lock:
            self._system = self._system or system
            self._writes = self._writes or not recovering
            known, writes = self._system, self._writes
        if system is not None and system != known:
            raise ServerReplaced(
                f"{self._side.value}: another server answers at its address: it is cluster {system}, until now it was"
                f" {known}; nothing was done there",
                remedy=f"Find out who moved the name, the port or the failover address of connections.{self._side.value},"
                " and lead it back to the former server; then run again. A migration of the other server is another"
                " one: it needs a state file of its own (--state).",
            )
        if writes and recovering:
            raise ConnectionFailed(
                f"{self._side.value}: a standby answers at its address, until now it was a primary: a failover is going"
                " on, or the address leads to a reader",
                remedy="Wait until the failover is over, or lead the address to the primary; then run again.",
                sqlstate=_STARTING,
            )
