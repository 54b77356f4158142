"""The copy that AWS makes of the source's storage as the data plane sees it: a server that is made and taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws.clones import Clones
from planrunner.aws.clusters import AURORA
from planrunner.aws.restores import Restores
from planrunner.model import Side
from planrunner.replication.workspace import Way

if TYPE_CHECKING:
    from datetime import datetime

    from planrunner.aws.rds import Rds
    from planrunner.postgres.connection import Server
    from planrunner.step import Run


@dataclass(frozen=True, kw_only=True)
class CopiedInstance:
    """Makes, finds and removes the instances that are made of the source's for one plan.

    A snapshot is restored where the source's instance stands alone, a clone made where it is an Aurora cluster's.
    """

    run: Run
    rds: Rds

    def way(self) -> Way:
        """CLONE for the member of a cluster, as AWS tells now. Reads only."""
        return Way.RESTORE if self.rds.describe().cluster is None else Way.CLONE

    def make(self, way: Way, generation: int, since: datetime) -> Server:
        """A server with the source's data for ``generation``, what was committed by ``since`` too, unless it is there."""
        if way is Way.CLONE:
            return self._server(self._clones.make(generation, self.run.tell, since))
        return self._server(self._restores.make(generation, self.run.tell))

    def found(self, generation: int) -> Server | None:
        """The server that was made for ``generation``, None while it is not there. Reads only."""
        # Either way it is the instance of that name.
        there = self._restores.found(generation)
        return None if there is None else self._server(there)

    def lacking(self) -> str | None:
        """Why none can be made. Reads only."""
        own = self.rds.describe()
        if own.cluster is None or own.engine == AURORA:
            return None
        return (
            f"instance {own.identifier} is a member of {own.cluster}, a Multi-AZ DB cluster: AWS clones Aurora's only,"
            " and its snapshots are restored as whole clusters, which is not carried"
        )

    def remove(self, way: Way, last: int) -> None:
        """Delete those of the generations up to ``last``, each with what it stands on."""
        made = self._clones if way is Way.CLONE else self._restores
        made.remove(range(1, last + 1))

    @property
    def _restores(self) -> Restores:
        return Restores(self.rds, self.run.plan_id)

    @property
    def _clones(self) -> Clones:
        return Clones(self.rds, self.run.plan_id)

    def _server(self, place: tuple[str, int]) -> Server:
        return self.run.source.elsewhere(Side.REPLICA, *place)


def restorer(run: Run) -> CopiedInstance | None:
    """What copies the source's instance; None where the plan names none. Asks AWS nothing yet."""
    return None if run.cloud is None else CopiedInstance(run=run, rds=run.cloud)
