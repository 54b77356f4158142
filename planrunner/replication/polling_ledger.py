"""What is known of each polled table: from which horizon its rows are asked for next, and when it was compared.

One row a table in the ledger, written by the transaction that brings what the round found: after a crash a round is
begun again from where the table really stands.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.postgres.connection import Session
    from planrunner.replication.polling_horizon import Horizon
    from planrunner.replication.workspace import Workspace

STEP = "polling"
SNAPSHOTS = "polling snapshot"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How a table stands: its next ``horizon``, its file on the source, and counts since the copy.

    ``at`` and ``compared`` are seconds since 1970 by the runner's clock: of the last round, and of the last time that
    all rows were compared, 0 where they never were. ``brought`` counts rows written, ``removed`` those taken away.
    """

    horizon: int
    file: int
    at: float
    compared: float = 0.0
    rounds: int = 0
    brought: int = 0
    removed: int = 0


def known(workspace: Workspace) -> dict[str, Seen]:
    """Every table that a round has been through, by its qualified name."""
    return {name: Seen(**detail) for name, detail in workspace.ledger.effects(STEP).items()}


def record(workspace: Workspace, session: Session, table: str, seen: Seen) -> None:
    """Put it down in the caller's transaction."""
    workspace.ledger.record_effect(session, STEP, table, asdict(seen))


def remember(workspace: Workspace, generation: int, horizon: Horizon) -> None:
    """Put down by which snapshot a generation copies; one of the same number that was lost may have been earlier."""
    before = _snapshots(workspace).get(str(generation))
    lowest = horizon.xmin if before is None else min(horizon.xmin, int(before["horizon"]))
    workspace.done(SNAPSHOTS, str(generation), {"horizon": lowest})


def copied_at(workspace: Workspace) -> Mapping[str, int]:
    """The horizon of the snapshot by which each table was copied, by its qualified name."""
    taken = {int(number): int(detail["horizon"]) for number, detail in _snapshots(workspace).items()}
    units = workspace.ledger.units()
    return {name: taken[unit.generation] for name, unit in units.items() if unit.generation in taken}


def _snapshots(workspace: Workspace) -> dict[str, Any]:
    return workspace.ledger.effects(SNAPSHOTS)


def after(before: Seen | None, *, horizon: int, file: int, at: float) -> Seen:
    """The table after one more round."""
    if before is None:
        return Seen(horizon=horizon, file=file, at=at, rounds=1)
    return replace(before, horizon=horizon, file=file, at=at, rounds=before.rounds + 1)
