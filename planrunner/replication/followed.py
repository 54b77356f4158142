"""Which of the source's tables the migration carries, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.postgres import catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.workspace import Workspace


def tables(workspace: Workspace) -> tuple[Table, ...]:
    """The source's tables whose rows the migration carries, each with the filter of its rows."""
    return divided(workspace, catalog.tables(workspace.source))[0]


def unsized(workspace: Workspace) -> tuple[Table, ...]:
    """The same where their sizes don't matter."""
    return divided(workspace, catalog.unsized_tables(workspace.source))[0]


def divided(workspace: Workspace, tables: Sequence[Table]) -> tuple[tuple[Table, ...], tuple[Table, ...]]:
    """Of all the source's ``tables``, those whose rows are followed and those copied inside the cutover's pause."""
    late = {t.oid for t in tables if workspace.choices.late(t)}
    # Late ones are chosen by the same filters; those would leave an unlogged table out.
    coming = workspace.selection.followed(
        [replace(t, unlogged=False) if t.oid in late else t for t in tables]
    )
    return tuple(t for t in coming if t.oid not in late), tuple(t for t in coming if t.oid in late)
