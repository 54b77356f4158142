"""A big table's survey in portions, so that several workers read one table at the same time.

Portions are ranges of the primary key. All of them are read under one view, so that together they tell what one reading
would have told: a row whose key changes meanwhile is in exactly one of them.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from planrunner.replication import buckets, regions, views
from planrunner.replication.regions import Survey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg import sql

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.replication.buckets import Cut
    from planrunner.replication.regions import Tract
    from planrunner.replication.surveys import Surveyors
    from planrunner.replication.views import View
    from planrunner.replication.workspace import Workspace

# To hand over less costs more than to read it; more, and a worker that is lost costs too much.
LEAST_BYTES = 8 << 20
_MOST_BYTES = 256 << 20
# So many for each that reads at a time: whoever is done first takes another.
_TURNS = 4
# Of more of them, what differs would make a condition costlier than the rows it spares.
_NARROWED_AT_MOST = 8


def size_of(tables: Iterable[Table], jobs: int) -> int:
    """How much of ``tables`` a portion should hold where ``jobs`` are read at a time."""
    whole = sum(table.data_bytes for table in tables)
    return min(_MOST_BYTES, max(LEAST_BYTES, whole // (_TURNS * jobs)))


def cut_of(source: Server, target: Server, table: Table, size: int) -> Cut | None:
    """How ``table`` is cut into about ``size`` bytes each.

    None where it is no bigger, or a range of its key can't be read on both sides without reading much of the rest.
    """
    if table.data_bytes <= size:
        return None
    cut = buckets.cut(source, table, table.key, bucket_bytes=size)
    if not _apart(cut) or not _apart(buckets.cut(target, table, table.key, bucket_bytes=size)):
        return None
    return cut


def _apart(cut: Cut) -> bool:
    return cut.count > 1 and cut.ordered


class Portions:
    """A table whose portions are surveyed, each once; the view is held from the first to the last. To be closed."""

    def __init__(self, workspace: Workspace, cut: Cut, tract: Tract) -> None:
        self.count = cut.count
        self._workspace = workspace
        self._cut = cut
        self._tract = tract
        self._found: dict[int, Survey] = {}
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._view: View | None = None

    def survey(self, surveyors: Surveyors, number: int, *, moving: bool) -> Survey | None:
        """Have portion ``number`` surveyed; with the last of them what all told together, None before."""
        tract = replace(self._tract, within=self._within(self._cut.bucket(number).condition()))
        (found,) = surveyors.survey(tract, moving=moving, view=self._seen())
        with self._lock:
            self._found[number] = found
            if len(self._found) < self.count:
                return None
        self.close()
        return self._joined()

    def close(self) -> None:
        """Let go of the view."""
        with self._lock:
            self._held.close()

    def _seen(self) -> View:
        with self._lock:
            if self._view is None:
                held = views.held(self._workspace.source, self._workspace.target)
                self._view = self._held.enter_context(held)
            return self._view

    def _joined(self) -> Survey:
        apart = [number for number in range(1, self.count + 1) if self._found[number].different]
        return Survey(
            source_rows=sum(found.source_rows for found in self._found.values()),
            target_rows=sum(found.target_rows for found in self._found.values()),
            different=bool(apart),
            within=self._parts(apart),
        )

    def _parts(self, apart: list[int]) -> sql.Composed | None:
        """Where the rows that differ are; what is surveyed at all where none does."""
        if not apart:
            return self._tract.within
        if len(apart) > _NARROWED_AT_MOST:
            return self._within(self._cut.condition(apart))
        return regions.any_of(self._found[number].within for number in apart)

    def _within(self, condition: sql.Composed | None) -> sql.Composed | None:
        return regions.all_of(self._tract.within, condition)
