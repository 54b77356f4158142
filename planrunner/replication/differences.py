"""Finds the rows of a table that differ between both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.replication import keyed, multisets

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg import sql

    from planrunner.postgres.catalog import Table
    from planrunner.replication.found import Outcome
    from planrunner.replication.lanes import Lane


def find(
    lane: Lane,
    table: Table,
    *,
    within: sql.Composed | None = None,
    barrier: Callable[[], None] | None = None,
    whole: bool = True,
) -> Outcome:
    """Every row of ``table`` (of a condition's rows) that differs; reads only.

    ``barrier`` waits until the target has what the source had when it was called, where changes stream;
    None where nothing does. Not ``whole``: of long values of rows with a key only what they are known by. QueryFailed
    when a side can't be read.
    """
    if table.key:
        return keyed.find(lane, table, within=within, barrier=barrier, whole=whole)
    return multisets.find(lane, table, within=within, barrier=barrier)
