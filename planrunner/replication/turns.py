"""What a comparison looks at in turn: the largest tables first, in portions where that serves, small ones together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication import portions
from planrunner.replication.portions import Portions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.regions import Survey, Tract
    from planrunner.replication.surveys import Surveyors
    from planrunner.replication.workspace import Workspace

# To hand them over costs more than to read them.
_SMALL_BYTES = 256 << 10
_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which tables, as what each is read, how many at a time; ``divisible`` are names of those that may be cut."""

    tables: Sequence[Table]
    tract: Callable[[Table], Tract]
    jobs: int
    divisible: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What is read by one task: tables, or portion ``number`` of a single one."""

    tables: Sequence[Table]
    tracts: Sequence[Tract]
    portions: Portions | None = None
    number: int = 1

    def surveyed(self, surveyors: Surveyors, *, moving: bool) -> Sequence[tuple[Table, Survey]]:
        """The tables that are through with it; QueryFailed when a side can't be read."""
        if self.portions is None:
            found = surveyors.survey(*self.tracts, moving=moving)
            return list(zip(self.tables, found, strict=True))
        whole = self.portions.survey(surveyors, self.number, moving=moving)
        return [] if whole is None else [(self.tables[0], whole)]


@contextmanager
def in_turn(workspace: Workspace, plan: Plan) -> Iterator[list[Turn]]:
    """The turns; what was held for them is given back at the end of the block. QueryFailed as the cutting fails."""
    ordered = sorted(plan.tables, key=lambda t: -t.bytes)
    alone = [t for t in ordered if t.bytes > _SMALL_BYTES]
    small = ordered[len(alone) :]
    cut = _divided(workspace, plan, alone)
    turns = [turn for table in alone for turn in _of(table, plan, cut.get(table.qualified))]
    # Not so many together that somebody has nothing to do.
    size = max(1, min(_TOGETHER, len(small) // (4 * plan.jobs)))
    some = (small[begin : begin + size] for begin in range(0, len(small), size))
    try:
        yield turns + [_turn(tables, plan) for tables in some]
    finally:
        for one in cut.values():
            one.close()


def _divided(workspace: Workspace, plan: Plan, tables: Sequence[Table]) -> Mapping[str, Portions]:
    """Those that are cut. In this process none is: two lanes read two tables, and a table's scan has workers itself."""
    able = [table for table in tables if table.qualified in plan.divisible]
    if not workspace.pool.away or not able:
        return {}
    size = portions.size_of(plan.tables, plan.jobs)

    def divided(table: Table) -> Portions | None:
        cut = portions.cut_of(workspace.source, workspace.target, table, size)
        return None if cut is None else Portions(workspace, cut, plan.tract(table))

    with ThreadPoolExecutor(plan.jobs) as pool:
        made = zip(able, pool.map(divided, able), strict=True)
        return {table.qualified: one for table, one in made if one is not None}


def _of(table: Table, plan: Plan, cut: Portions | None) -> list[Turn]:
    whole = _turn([table], plan)
    if cut is None:
        return [whole]
    return [
        Turn(tables=whole.tables, tracts=whole.tracts, portions=cut, number=number)
        for number in range(1, cut.count + 1)
    ]


def _turn(tables: Sequence[Table], plan: Plan) -> Turn:
    return Turn(tables=tables, tracts=[plan.tract(table) for table in tables])
