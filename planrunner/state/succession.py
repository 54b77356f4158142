"""Which state may follow which: the same lineage, a higher serial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.errors import LockedByAnother, StateUnfit

if TYPE_CHECKING:
    from planrunner.state.record import State

BACKUPS = 5


def refuse_unrelated(before: State | None, after: State, place: str) -> None:
    """StateUnfit when ``after`` is of another migration than ``before``, or not newer."""
    if before is None:
        return
    if before.lineage != after.lineage:
        raise StateUnfit(
            f"{place} belongs to another migration (lineage {before.lineage}, this is {after.lineage})",
            remedy="Name this migration's own state with --state.",
        )
    if after.serial <= before.serial:
        raise StateUnfit(
            f"{place} holds serial {before.serial}, which serial {after.serial} can't follow",
            remedy="Run again: the state is then read anew.",
        )


def refuse_older(loaded: State, newest: State | None, place: str, restoring: str) -> None:
    """StateUnfit when the newest backup is newer than what it is the backup of: an older copy was put back."""
    if newest is None or newest.lineage != loaded.lineage or newest.serial <= loaded.serial:
        return
    raise StateUnfit(
        f"{place} is an older copy: it holds serial {loaded.serial}, its newest backup {newest.serial}",
        remedy=restoring,
    )


def overtaken(place: str) -> LockedByAnother:
    """The error of a state that somebody else wrote after it was read here."""
    return LockedByAnother(
        f"another process has written {place} since it was read here; nothing was overwritten",
        remedy="See who works on the plan: planrunner status PLAN. Then run again: it goes on from what is there.",
    )
