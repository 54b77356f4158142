"""The pool that a plan names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication.threads import Threads

if TYPE_CHECKING:
    from planrunner.model import DaskPool
    from planrunner.ports import Pool


def pool_of(named: DaskPool | None) -> Pool:
    """Threads of this process where it names none; nobody is dialled yet."""
    if named is None:
        return Threads()
    # Late: only such a plan waits for what workers need.
    from planrunner.pools.cluster import Cluster  # noqa: PLC0415

    return Cluster(named)
