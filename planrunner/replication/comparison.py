"""What ``planrunner verify`` does: compares the rows of both sides, opens what differs, and mends it when told.

Both sides are digested at the same time, whether anything is written or not: equal digests prove a table equal.
Where they differ, the rows that do are found and looked at again behind a barrier, so that what is merely late
is no difference. The digests are tasks of the plan's pool (``surveys``); all else is asked for from here.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepBlocked, UsageError
from planrunner.on_demand import on_demand
from planrunner.postgres import catalog
from planrunner.replication import (
    capacity,
    crossing,
    followed,
    regions,
    selection_record,
    subscriptions,
    surveys,
    telling,
    turns,
)
from planrunner.replication.found import Outcome
from planrunner.replication.lanes import lane
from planrunner.replication.patterns import Pattern
from planrunner.replication.regions import Tract
from planrunner.replication.row_hash import by_text_where_other, row_hash
from planrunner.replication.throttle import Effort, Throttle
from planrunner.replication.turns import Plan
from planrunner.verification import Verification

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication import (
        barrier,
        definitions,
        differences,
        elsewhere,
        fingerprint,
        relations,
        repair,
        return_streams,
        sequences,
    )
    from planrunner.replication.lanes import Lane
    from planrunner.replication.regions import Survey
    from planrunner.replication.surveys import Surveyors
    from planrunner.replication.turns import Turn
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import TableVerdict, VerifyTerms
else:
    # Needed only where rows differ or changes stream, or while the servers read the rows.
    barrier = on_demand("planrunner.replication.barrier")
    definitions = on_demand("planrunner.replication.definitions")
    differences = on_demand("planrunner.replication.differences")
    elsewhere = on_demand("planrunner.replication.elsewhere")
    fingerprint = on_demand("planrunner.replication.fingerprint")
    relations = on_demand("planrunner.replication.relations")
    repair = on_demand("planrunner.replication.repair")
    return_streams = on_demand("planrunner.replication.return_streams")
    sequences = on_demand("planrunner.replication.sequences")

_LANES = 2
# What is repaired is compared again; a row that moves is left to the next round.
_ROUNDS = 5
_SAMPLED_OF = 1_000_000
_BARRIER_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What of the catalogue is compared beside the rows: what the plan carries. ``counts_only``: no values."""

    counts_only: bool = False
    owners: bool = True
    grants: bool = True


@dataclass(frozen=True, kw_only=True)
class _Looked:
    """How the tables are looked at: what of them, ``behind`` which barrier, and with how much effort.

    ``whole``: the values of rows that differ are held as they are, for their repair. ``keyed`` are the names of tables
    that have the same primary key on both sides, and so neither a row without one nor a range without an index.
    """

    scope: Scope
    behind: Callable[[], None] | None
    effort: Effort
    whole: bool
    keyed: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A table, its row counts, and what is known of the rows that differ."""

    table: Table
    survey: Survey
    outcome: Outcome


def compare(
    workspace: Workspace, terms: VerifyTerms, scope: Scope, effort: Effort | None = None
) -> Verification:
    """Compare what ``terms`` name; repair it when they agree, and compare that again. ``effort`` bounds the load.

    UsageError when no table fits a pattern, StepFailed when the target can't catch up, QueryFailed when a side
    can't be read. Reads only, but for a barrier's marker, unless something is repaired.
    """
    begun = workspace.clock.monotonic()
    workspace.pool.rouse()
    selection_record.refuse_unrecorded(workspace.selection)
    tables = _chosen(followed.tables(workspace), terms)
    there = {table.qualified: table for table in catalog.stored_tables(workspace.target)}
    able, unable = _comparable(tables, there)
    behind = _barrier(workspace)
    _forewarn(workspace)
    looked = _Looked(
        scope=scope,
        behind=behind,
        effort=effort or Effort(jobs=jobs(workspace)),
        whole=terms.mend is not None,
        keyed=frozenset(t.qualified for t in able if _same_key(t, there[t.qualified])),
    )
    with _rows(workspace, able, terms, looked) as reading:
        # While the servers read the rows, there is time for everything else.
        other = unable + (() if terms.tables else _catalogue(workspace, scope) + _sequences(workspace))
        found = reading()

    def told() -> Verification:
        rows = [telling.rows(one.table, one.outcome, terms) for one in found.values() if one.outcome.found]
        return Verification(
            tables=tuple(_verdict(one, scope) for one in found.values() if not _open(one)),
            other=other,
            seconds=workspace.clock.monotonic() - begun,
            rows=tuple(rows),
            undecided=tuple(name for name, one in found.items() if one.outcome.undecided),
            sample=terms.sample,
        )

    first = told()
    wrong = [one for one in found.values() if one.outcome.found]
    if wrong and terms.mend is not None:
        refuse_undoing(workspace)
    if wrong and terms.mend is not None and terms.mend(first):
        for one in wrong:
            found[one.table.qualified] = _mend(workspace, one, terms, behind)
        return told()
    return first


def jobs(workspace: Workspace) -> int:
    """How many tables are looked at at a time where nobody says it: two; by workers, what both servers have room for."""
    if not workspace.pool.away:
        return _LANES
    return capacity.jobs(workspace.source, workspace.target, away=True)


def refuse_undoing(workspace: Workspace) -> None:
    """StepBlocked unless the source is where writers are: repairing the target would undo what they wrote there."""
    following = bool(workspace.ledger.units())
    if following and crossing.position(workspace) is crossing.Position.SOURCE:
        return
    raise StepBlocked(
        "the target is not repaired from the source any more: writers may be on the target, and what they wrote would"
        " be undone",
        remedy="Only a target that still follows can be repaired. Look at the differences: after a cutover they are what"
        " was written since.",
    )


def _open(one: Compared) -> bool:
    """True when nothing is known of a table but that some of its rows moved at every look."""
    return bool(one.outcome.undecided and not one.outcome.total)


def _verdict(one: Compared, scope: Scope) -> TableVerdict:
    return telling.verdict(one.table, one.survey, one.outcome, looked=not scope.counts_only)


def _chosen(tables: Sequence[Table], terms: VerifyTerms) -> tuple[Table, ...]:
    try:
        patterns = [Pattern(text) for text in terms.tables]
    except ValueError as error:
        raise UsageError(f"--tables: {error}") from error
    chosen = tuple(t for t in tables if not patterns or any(p.matches(t.schema, t.name) for p in patterns))
    for pattern in patterns:
        if not any(pattern.matches(t.schema, t.name) for t in chosen):
            raise UsageError(
                f"--tables {pattern.text}: the plan follows no such table",
                remedy="Write schema.table; * and ? stand for other characters, odd names go in double quotes.",
            )
    return chosen


def _comparable(tables: Sequence[Table], there: Mapping[str, Table]) -> tuple[list[Table], tuple[str, ...]]:
    """The tables that the target has ``there`` with all their columns, and what it lacks of the others."""
    able, unable = [], []
    for table in tables:
        known = there.get(table.qualified)
        columns = {} if known is None else {c.name: c for c in known.columns}
        missing = [c.name for c in table.columns if c.name not in columns]
        if known is None:
            unable.append(f"{table.qualified}: missing on the target")
        elif missing:
            unable.append(
                f"{table.qualified}: the target lacks column {', '.join(missing)}; its rows were not compared"
            )
        else:
            alike = tuple(by_text_where_other(c, columns[c.name]) for c in table.columns)
            able.append(replace(table, columns=alike))
    return able, tuple(unable)


def _same_key(ours: Table, theirs: Table) -> bool:
    mine, others = ([(c.name, c.base, c.kind) for c in regions.key_columns(t)] for t in (ours, theirs))
    return bool(mine) and mine == others


def _barrier(workspace: Workspace) -> Callable[[], None] | None:
    """What waits for the streams; None where there are none."""
    if subscriptions.following_back(workspace):
        return lambda: _discard(return_streams.wait_back(workspace, _BARRIER_SECONDS))
    generations = workspace.ledger.generations()
    if not generations or not subscriptions.existing(workspace.target, workspace.names):
        # Another tool's, such as those of SerenAI's cloud.
        if any(stream.enabled for stream in elsewhere.from_source(workspace)):
            return lambda: _discard(elsewhere.wait(workspace, _BARRIER_SECONDS))
        return None
    return lambda: _discard(barrier.wait(workspace, generations, timeout=_BARRIER_SECONDS))


def _forewarn(workspace: Workspace) -> None:
    """Where the source is polled there is no barrier: what is late can't be told from what is wrong."""
    if not workspace.streamed and crossing.position(workspace) is crossing.Position.SOURCE:
        workspace.tell(
            "the source is polled: what was written there since the last round counts as a difference; the cutover makes"
            " a last round before it compares",
            {},
        )


def _discard(_: float) -> None:
    """How long it took is no matter here."""


@contextmanager
def _rows(
    workspace: Workspace,
    tables: Sequence[Table],
    terms: VerifyTerms,
    looked: _Looked,
) -> Iterator[Callable[[], dict[str, Compared]]]:
    """Begin to compare every table, the largest first, a few at a time; what is given waits for all of them.

    When the block is left by an error, no further table is begun.
    """
    throttle = Throttle(workspace, workspace.source, looked.effort.max_load)
    waiting: SimpleQueue[Turn] = SimpleQueue()
    plan = Plan(
        tables=tables,
        tract=lambda table: _tract(table, terms, looked.scope),
        jobs=max(looked.effort.jobs, 1),
        divisible=looked.keyed,
    )

    def work(surveyors: Surveyors) -> list[Compared]:
        found: list[Compared] = []
        for turn in _taken(waiting):
            throttle.wait(surveyors.check)
            found += _compared(surveyors, turn, looked)
        return found

    with (
        surveys.at_work(workspace) as surveyors,
        turns.in_turn(workspace, plan) as every,
        ThreadPoolExecutor(plan.jobs) as pool,
    ):
        for turn in every:
            waiting.put(turn)
        parts = [pool.submit(work, surveyors) for _ in range(min(looked.effort.jobs, len(every)))]

        def awaited() -> dict[str, Compared]:
            # The first that fails is told, whoever waits for something else.
            ended, _ = wait(parts, return_when=FIRST_EXCEPTION)
            found = [one for part in ended for one in part.result()]
            return {one.table.qualified: one for one in sorted(found, key=lambda one: one.table.qualified)}

        try:
            yield awaited
        finally:
            surveyors.stop()
            for _ in _taken(waiting):
                pass


def _taken(waiting: SimpleQueue[Turn]) -> Iterator[Turn]:
    # Asked and taken at once: another lane may take the last one in between.
    with suppress(Empty):
        while True:
            yield waiting.get_nowait()


def _compared(surveyors: Surveyors, turn: Turn, looked: _Looked) -> list[Compared]:
    found = []
    for table, survey in turn.surveyed(surveyors, moving=looked.behind is not None):
        if looked.scope.counts_only or not survey.different:
            found.append(Compared(table=table, survey=survey, outcome=Outcome(total=0)))
        else:
            with surveyors.lanes.one() as mine:
                found.append(_opened(mine, table, survey, looked.behind, whole=looked.whole))
    return found


def _tract(table: Table, terms: VerifyTerms, scope: Scope) -> Tract:
    read = replace(table, columns=()) if scope.counts_only else table
    return Tract(table=read, within=_sample(read, terms))


def _opened(
    mine: Lane, table: Table, survey: Survey, behind: Callable[[], None] | None, *, whole: bool
) -> Compared:
    """With the rows that differ, for the survey tells that some do."""
    outcome = differences.find(mine, table, within=survey.within, barrier=behind, whole=whole)
    return Compared(table=table, survey=survey, outcome=outcome)


def _sample(table: Table, terms: VerifyTerms) -> sql.Composed | None:
    """The rows whose key has a hash of a certain part: the same on both sides, every time."""
    if terms.sample is None or not table.columns:
        return None
    hashed = row_hash(regions.key_columns(table) or table.columns)
    return sql.SQL("({} & 9223372036854775807) % {} < {}").format(
        hashed, sql.Literal(_SAMPLED_OF), sql.Literal(round(terms.sample * _SAMPLED_OF))
    )


def _mend(
    workspace: Workspace, one: Compared, terms: VerifyTerms, behind: Callable[[], None] | None
) -> Compared:
    """Repair what was found of a table, and compare it again, until nothing differs or nothing helps."""
    with lane(workspace.source, workspace.target) as mine:
        for _ in range(_ROUNDS):
            if not one.outcome.found:
                break
            done = repair.apply(workspace, mine, one.table, one.outcome.found, streaming=behind is not None)
            loud = f"; not kept still: {', '.join(done.loud)}" if done.loud else ""
            workspace.tell(
                f"{one.table.qualified}: {done.rows} rows of the target were repaired{loud}",
                {"table": one.table.qualified, "repaired": done.rows},
            )
            # A table at a time, by the sessions that look at its rows anyway.
            survey = regions.survey(
                mine, one.table, within=_sample(one.table, terms), moving=behind is not None
            )
            if not survey.different:
                return Compared(table=one.table, survey=survey, outcome=Outcome(total=0))
            one = _opened(mine, one.table, survey, behind, whole=True)
    return one


def _catalogue(workspace: Workspace, scope: Scope) -> tuple[str, ...]:
    source, target = workspace.source, workspace.target
    omitted = relations.omitted(source, workspace.selection)
    return fingerprint.differences(source, target, omitted) + definitions.differences(
        source, target, omitted, owners=scope.owners, grants=scope.grants
    )


def _sequences(workspace: Workspace) -> tuple[str, ...]:
    """The sequences that would hand out a value again. No stream carries them: only the cutover does."""
    if "verification" not in workspace.ledger.effects(crossing.STEP):
        return ()
    left_out = relations.omitted(workspace.source, workspace.selection).names
    return sequences.behind(*sequences.both_sides(workspace.source, workspace.target, left_out))
