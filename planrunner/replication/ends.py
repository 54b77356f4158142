"""The two ends of a replication that is compared: who publishes, who subscribes, and how the one waits for the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import barrier, subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.postgres.connection import Server
    from planrunner.replication.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Forward the source publishes; after the cutover, for the way back, the target does.

    ``publications`` are all that the streams carry. ``wait`` writes a marker on the publisher and returns when the
    subscriber has it, at most so many seconds later, with the seconds it took; StepFailed when it does not come.
    """

    publisher: Server
    subscriber: Server
    publications: tuple[str, ...]
    wait: Callable[[float], float]

    @classmethod
    def forward(cls, workspace: Workspace) -> Ends:
        """Source to target; where nothing is subscribed any more there is nothing to wait for."""
        followed = subscriptions.existing(workspace.target, workspace.names)
        published = sorted({name for s in followed.values() for name in s.publications.split(",")})

        def wait(timeout: float) -> float:
            generations = workspace.ledger.generations()
            if not generations or not followed:
                return 0.0
            return barrier.wait(workspace, generations, timeout=timeout, poll=0.002)

        return cls(
            publisher=workspace.source,
            subscriber=workspace.target,
            publications=tuple(published),
            wait=wait,
        )
