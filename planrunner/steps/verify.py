"""The step ``verify``: compares both sides as ``planrunner verify`` does, and fails on a difference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from planrunner.errors import DifferencesFound, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.replication import comparison, upkeep
from planrunner.replication.throttle import Effort
from planrunner.step import NOTHING_STAYS, Action, outlined
from planrunner.verification import VerifyTerms
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json, Upkeep
    from planrunner.step import Draft, Run
    from planrunner.verification import Verification

_SHOWN = 5


class _Compared:
    """What a comparison of this process found."""

    def __init__(self, found: Verification) -> None:
        self.found = found

    def close(self) -> None:
        """There is nothing to give back."""


class Verify:
    """Proves that the tables are equal, at any time after the copy; changes nothing but a barrier row."""

    uses: ClassVar[str] = "verify"
    upkeep: ClassVar[tuple[Upkeep, ...]] = (*upkeep.OWN, upkeep.MARKS)

    def actions(self, run: Run) -> Sequence[Action]:
        """The comparison; a resume makes it anew, because what was equal may differ by then."""
        if run.held.get(_key(run), _Compared) is not None:
            return ()
        return [replace(_comparison(run), decided_at_run_time=bool(run.planned_before))]

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The comparison."""
        return outlined([_comparison(draft)])

    def progress(self, run: Run) -> Mapping[str, Json]:
        """What the comparison of this process found."""
        kept = run.held.get(_key(run), _Compared)
        return {} if kept is None else _figures(run, kept.found)

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:
        """Compare both sides at any time, as ``planrunner verify`` wishes."""
        return comparison.compare(workspace(run), terms, _scope(run))


def _comparison(run: Run | Draft) -> Action:
    tables: Sequence[str] = run.option("tables", ())
    sample = run.option("sample", "")
    named = f"tables {', '.join(tables)}" if tables else "all tables"
    return Action(
        name="compare",
        summary=f"compare {named} of both sides{f', a sample of {sample}' if sample else ''}",
        where=Side.TARGET,
        statements=(
            "SELECT … FROM …  -- counts and digests of the rows of each table, on both sides; asked",
        ),
        locks=("ACCESS SHARE on one table at a time in each session",),
        needs=(needs.READING, *needs.on(Side.SOURCE, needs.READING)),
        undo="nothing is changed",
        lasting=NOTHING_STAYS,
        perform=_perform,
    )


def _perform(run: Run) -> None:
    sample = run.option("sample", "")
    terms = VerifyTerms(
        tables=tuple(run.option("tables", ())),
        sample=float(sample.removesuffix("%")) / 100 if sample else None,
        rows=run.option("rows", 20),
        values=False,
    )
    failpoint("verify.before")
    space = workspace(run)
    jobs = run.option("jobs", None) or comparison.jobs(space)
    effort = Effort(jobs=jobs, max_load=run.option("max_load", None))
    found = comparison.compare(space, terms, _scope(run), effort)
    failpoint("verify.after")
    run.tell(_told(found), _figures(run, found))
    _judge(run, found, terms)
    run.held.put(_key(run), _Compared(found))


def _scope(run: Run) -> comparison.Scope:
    return comparison.Scope(
        counts_only=run.option_of("cutover_verify", "verify", "auto") == "counts",
        owners=run.option_of("snapshot", "owners", "keep") == "keep",
        grants=run.option_of("snapshot", "grants", "keep") == "keep",
    )


def _told(found: Verification) -> str:
    equal = sum(table.equal for table in found.tables)
    return f"{equal} of {len(found.tables)} tables are equal on both sides, compared in {found.seconds:.1f} s"


def _judge(run: Run, found: Verification, terms: VerifyTerms) -> None:
    if not found.equal:
        shown = "; ".join(found.differences[:_SHOWN])
        more = "; …" if len(found.differences) > _SHOWN else ""
        raise DifferencesFound(
            f"step {run.spec.id}: the two sides differ: {shown}{more}",
            remedy=f"Look at the rows: planrunner verify {run.plan.path}; --repair mends them once you know who writes"
            " to the target.",
        )
    if found.undecided and terms.sample is None:
        raise StepFailed(
            f"step {run.spec.id}: not proven: rows of {', '.join(found.undecided)} changed at every look",
            remedy="Run again at a quieter moment; inside the cutover's pause nothing moves.",
        )


def _figures(run: Run, found: Verification) -> dict[str, Json]:
    figures: dict[str, Json] = {
        "tables_compared": len(found.tables),
        "differences": len(found.differences),
        "compared_seconds": round(found.seconds, 3),
    }
    if found.sample is not None:
        return {**figures, "sample": found.sample}
    if run.option("tables", ()) or any(spec.uses == "cutover_verify" for spec in run.plan.steps):
        # The proof inside the cutover's pause is the stronger one; the report has room for one.
        return figures
    lines: list[Json] = [
        {"table": v.table, "rows": v.source_rows, "equal": v.equal, "how": v.how} for v in found.tables
    ]
    return {**figures, "verification": {"equal": found.equal, "tables": lines}}


def _key(run: Run) -> str:
    return f"compared by {run.spec.id}"
