"""The step ``analyze``: fresh statistics for the target's tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.replication import statistics
from planrunner.step import NOTHING_STAYS, Action, Seen, outlined
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.catalog import Table
    from planrunner.step import Draft, Run

_MOST_SHOWN = 50
_ANY = ("ANALYZE …",)


class Analyze:
    """Analyzes what has no statistics or older ones than the copy, or everything."""

    uses: ClassVar[str] = "analyze"

    def actions(self, run: Run) -> Sequence[Action]:
        """One action for all tables that are still to be analyzed."""
        if run.held.get(_done(run), Seen) is not None:
            return ()
        tables = _missing(run)
        if not tables and not run.planned_before:
            return ()
        shown = [statistics.statement(table).as_string() for table in tables[:_MOST_SHOWN]]
        more = [f"-- and {len(tables) - _MOST_SHOWN} more tables"] if len(tables) > _MOST_SHOWN else []
        action = _analyzing(run, str(len(tables) or "the"), (*shown, *more) or _ANY)
        return [replace(action, decided_at_run_time=bool(run.planned_before))]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """One action for the tables that will have no statistics."""
        return outlined([_analyzing(draft, "the", _ANY)])

    def progress(self, run: Run) -> Mapping[str, Json]:
        """How many tables this step analyzed in this run."""
        return {"tables_analyzed": len(workspace(run).analyzed)}


def _analyzing(run: Run | Draft, count: str, statements: tuple[str, ...]) -> Action:
    return Action(
        name="analyze",
        summary=f"analyze {count} tables of the target in {run.option('jobs', 2)} sessions",
        where=Side.TARGET,
        statements=statements,
        locks=("SHARE UPDATE EXCLUSIVE on one table at a time in each session",),
        needs=(needs.STATISTICS,),
        undo="nothing has to be undone: statistics are replaced by the next ANALYZE",
        lasting=NOTHING_STAYS,
        perform=_perform,
    )


def _missing(run: Run) -> Sequence[Table]:
    space = workspace(run)
    # What earlier steps are still to create fits no pattern yet.
    patterns: Sequence[str] = () if run.planned_before else run.option("tables", ())
    tables = statistics.chosen(run.target, patterns)
    if run.option("only", "stale") == "stale":
        return statistics.stale(space, tables)
    return tables


def _perform(run: Run) -> None:
    tables = _missing(run)
    statistics.gather(workspace(run), tables, jobs=run.option("jobs", 2))
    # The server tells of an ANALYZE a moment later; what this process did it need not be asked.
    run.held.put(_done(run), Seen())
    run.tell(f"{len(tables)} tables were analyzed", {"tables": len(tables)})


def _done(run: Run) -> str:
    return f"analyzed by {run.spec.id}"
