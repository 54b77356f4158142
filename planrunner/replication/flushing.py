"""Whether the target's disk lets it keep up: it flushes each transaction it applies, one after the other.

Where it can't, and nothing else is what holds it up, the slots would fill the source's disk. So its workers go on
without a flush then, as PostgreSQL's default is, and that is told.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import subscriptions
from planrunner.units import human_bytes

if TYPE_CHECKING:
    from planrunner.replication.health import Health
    from planrunner.replication.workspace import Workspace

_WINDOW_SECONDS = 16.0
# It would take so long to catch up at the pace of the window.
_LONG_SECONDS = 600.0
# The share of looks at which a worker waits for its disk, where that is what holds it up.
_SHARE = 0.5
# WALSync before 17, WalSync since.
_WAITING = """
SELECT count(*)::int FROM pg_stat_activity WHERE pid = ANY (%s) AND lower(wait_event) = 'walsync'
"""


@dataclass(frozen=True, kw_only=True)
class _Look:
    at: float
    behind: int
    waits: bool


class Flushing:
    """Looks at the workers while a run waits for them; up to ``allowed`` bytes behind nothing is wrong."""

    def __init__(self, workspace: Workspace, allowed: int) -> None:
        self._workspace = workspace
        self._allowed = allowed
        self._looks: deque[_Look] = deque()

    def see(self, health: Health) -> None:
        """Take in one more look; where the plan leaves it open, let the workers flush later if they can't keep up."""
        flushing = {g: s for g, s in health.subscriptions.items() if s.enabled and s.synchronous}
        if self._workspace.terms.synchronous is not None or not flushing or health.behind <= self._allowed:
            self._looks.clear()
            return
        pids = [s.pid for s in flushing.values() if s.pid is not None]
        waits = bool(self._workspace.target.value(_WAITING, [pids]))
        self._looks.append(_Look(at=health.at, behind=health.behind, waits=waits))
        if not self._hopeless():
            return
        for generation in flushing:
            subscriptions.commit_otherwise(self._workspace, generation, synchronous=False)
        self._workspace.tell(
            f"warning: the target's disk can't flush as many transactions as the source commits"
            f" ({human_bytes(health.behind)} behind): from here on it applies without a flush for each. A crash of it"
            " may then lose some, which the comparison before the cutover finds. Once it keeps up: synchronous_commit:"
            " true in the sync step, and run with --rerun",
            {"lag_bytes": health.behind, "generations": sorted(flushing)},
        )
        self._looks.clear()

    def _hopeless(self) -> bool:
        first, last = self._looks[0], self._looks[-1]
        passed = last.at - first.at
        if passed < _WINDOW_SECONDS:
            return False
        shrunk = (first.behind - last.behind) / passed
        waits = sum(look.waits for look in self._looks) >= _SHARE * len(self._looks)
        self._looks.popleft()
        return waits and last.behind > shrunk * _LONG_SECONDS
