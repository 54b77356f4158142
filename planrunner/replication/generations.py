"""Generations: one slot and snapshot each; what one has copied stays its own, the rest goes to the next.

A lost snapshot costs the table in hand, never a finished one: its slot keeps the WAL for what it copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import StepFailed
from planrunner.replication import drift, publications, slots, subscriptions
from planrunner.replication.snapshot import capture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.workspace import Workspace

MOST = 8


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Which generation copies what is left, and those that hold a slot or publication for nothing."""

    next: int
    useless: tuple[int, ...]
    finished: tuple[int, ...]


def outlook(workspace: Workspace) -> Outlook:
    """Compare ledger and source: which generations have finished tables, which are left from a lost snapshot."""
    finished = workspace.ledger.generations()
    seen = set(publications.existing(workspace.source, workspace.names))
    seen |= set(slots.existing(workspace.source, workspace.names))
    held = workspace.snapshot
    if held is not None and held.alive():
        return Outlook(next=held.generation, useless=(), finished=finished)
    following = max(finished, default=0) + 1
    return Outlook(next=following, useless=tuple(sorted(seen - set(finished))), finished=finished)


def begin(workspace: Workspace, tables: Sequence[Table]) -> None:
    """Start the generation that copies ``tables``: clear useless ones, then publication, slot, snapshot.

    StepFailed beyond the eighth: each slot decodes all WAL of the source.
    """
    workspace.let_go()
    now = outlook(workspace)
    for generation in now.useless:
        clear(workspace, generation)
    if now.next > MOST:
        raise StepFailed(
            f"the snapshot was lost {MOST} times; each costs the source a slot that decodes all its WAL",
            remedy="Find out what ends the runner's sessions, `planrunner cleanup` this plan, and run again.",
        )
    drift.refuse(workspace)
    publications.create(workspace.source, workspace.names, now.next, tables)
    _barrier_on_target(workspace, now.next)
    workspace.snapshot = capture(workspace, now.next)
    drift.remember(workspace)
    workspace.tell(
        f"generation {now.next}: slot and snapshot hold {len(tables)} tables",
        {"generation": now.next, "tables": len(tables)},
    )


def _barrier_on_target(workspace: Workspace, generation: int) -> None:
    table = publications.barrier_table(workspace.names, generation)
    with workspace.writing() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(table)


def clear(workspace: Workspace, generation: int) -> None:
    """Remove a generation from both servers: subscription, slot, publication, barrier tables."""
    subscriptions.drop(workspace, generation)
    slots.drop(workspace, generation)
    publications.drop(workspace.source, workspace.names, generation)
    publications.drop_barrier(workspace.target, workspace.names, generation)


def left(workspace: Workspace) -> tuple[int, ...]:
    """Every generation of which either server still shows something."""
    found = set(publications.existing(workspace.source, workspace.names))
    found |= set(slots.existing(workspace.source, workspace.names))
    found |= set(subscriptions.existing(workspace.target, workspace.names))
    return tuple(sorted(found))
