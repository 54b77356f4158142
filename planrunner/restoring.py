"""The restored copy of the source's RDS instance as the data plane sees it: a server that is made and taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws.restores import Restores
from planrunner.model import Side

if TYPE_CHECKING:
    from planrunner.postgres.connection import Server
    from planrunner.step import Run


@dataclass(frozen=True, kw_only=True)
class RestoredInstance:
    """Makes, finds and removes the instances that are restored for one plan."""

    run: Run
    restores: Restores

    def make(self, generation: int) -> Server:
        """A server that was restored for ``generation`` from a snapshot that is taken now, unless it is there."""
        return self._server(self.restores.make(generation, self.run.tell))

    def found(self, generation: int) -> Server | None:
        """The server that was restored for ``generation``, None while it does not answer. Reads only."""
        there = self.restores.found(generation)
        return None if there is None else self._server(there)

    def lacking(self) -> str | None:
        """Why none can be restored. Reads only."""
        return self.restores.lacking()

    def remove(self, last: int) -> None:
        """Delete those of the generations up to ``last``, each with its snapshot."""
        self.restores.remove(range(1, last + 1))

    def _server(self, place: tuple[str, int]) -> Server:
        return self.run.source.elsewhere(Side.REPLICA, *place)


def restorer(run: Run) -> RestoredInstance | None:
    """What restores the source's instance; None where the plan names none."""
    if run.cloud is None:
        return None
    return RestoredInstance(run=run, restores=Restores(run.cloud, run.plan_id))
