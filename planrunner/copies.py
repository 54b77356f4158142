"""The actions of a copy: publications and slots with their snapshots, the schema, the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from planrunner import polled, thawing
from planrunner.model import Side
from planrunner.postgres import catalog, needs
from planrunner.replication import (
    capacity,
    described,
    drift,
    generations,
    indexes,
    load,
    publications,
    ranges,
    restore,
    slots,
    verify,
)
from planrunner.replication.generations import Division
from planrunner.replication.names import Names
from planrunner.replication.units import ANY_UNIT
from planrunner.replication.workspace import Way
from planrunner.step import TAKEN_BACK, Action, Draft, Run
from planrunner.unfollowed import wishes
from planrunner.units import human_bytes, size
from planrunner.workspace import polls, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.units import Unit


def remaining(run: Run) -> tuple[Unit, ...]:
    """What is not copied yet."""
    space = workspace(run)
    return generations.remaining(space, verify.followed_tables(space))


def division(run: Run) -> Division:
    """How the plan divides the copy."""
    return Division(
        streams=run.option("streams", 1),
        split_above=size(run.option("split_above", "10GB")),
        chunk_above=size(run.option("chunk_above", "2GB")),
    )


@dataclass(frozen=True, kw_only=True)
class Capture:
    """What a capture makes: its generations with their units, their slots, and what goes before.

    ``way`` is how the standby is frozen that the rows are read from, None where they are read on the source.
    """

    names: Names
    groups: Mapping[int, Sequence[Unit]]
    slots: tuple[str, ...]
    way: Way | None = None
    before: tuple[str, ...] = ()
    publishing: tuple[str, ...] = ()


def capture(run: Run, todo: Sequence[Unit]) -> Action:
    """What makes publications, slots and snapshots for the units that are left."""
    space = workspace(run)
    if not space.streamed:
        return polled.capturing(_perform_capture, tables=str(len(_tables(todo))))
    divided = division(run)
    now = generations.outlook(space, divided.streams)
    groups = generations.grouped(todo, now.next, generations.writes(run.source))
    way = thawing.known(run)
    version, failover = run.source.version(), space.terms.failover
    made = Capture(
        names=space.names,
        groups=groups,
        slots=tuple(
            slots.exporting(space.names.stream(g), version, failover=failover).as_string() for g in groups
        )
        if way is None
        else thawing.capturing(
            space.names,
            way,
            [slots.creating(space.names.stream(g), version, failover=failover).as_string() for g in groups],
        ),
        way=way,
        before=(
            *(s for g in now.useless for s in described.clearing(space.names, g)),
            *described.all_told(
                generations.emptying_begun(space), described.TARGET, "unless its chunks are all in"
            ),
            *_splitting(run, todo, divided),
        ),
        publishing=_publishing(run, groups),
    )
    return capturing(made, tables=str(len(_tables(todo))), adjusts=bool(now.useless))


def _publishing(run: Run, groups: Mapping[int, Sequence[Unit]]) -> tuple[str, ...]:
    space = workspace(run)
    if len(groups) == 1:
        return tuple(s.as_string() for g, us in groups.items() for s in generations.publishing(space, g, us))
    # Which stream a table goes to depends on how busy it is by then.
    made = dict.fromkeys(
        s.as_string() for g in groups for s in publications.statements(space.names, g, ())[:2]
    )
    return (
        *made,
        *(
            statement
            for g in groups
            for name in [space.names.stream(g)]
            for statement in (
                f'CREATE PUBLICATION "{name}" FOR TABLE …  -- the tables dealt out, the busiest to the least busy stream',
                f'COMMENT ON PUBLICATION "{name}" IS …',
            )
        ),
    )


def capturing(made: Capture, *, tables: str, adjusts: bool = False) -> Action:
    """The action that captures what ``made`` says."""
    names = made.names
    streams = [names.stream(g) for g in made.groups]
    publishing = made.publishing or tuple(
        s.as_string() for g, units in made.groups.items() for s in publications.statements(names, g, units)
    )
    return Action(
        name="capture",
        summary=f"create publication and slot {', '.join(streams)} for {tables} tables, and {_holding(made)}",
        where=Side.SOURCE,
        statements=(
            *made.before,
            *publishing,
            *(described.told(publications.barrier_table(names, g), described.TARGET) for g in made.groups),
            *made.slots,
        ),
        locks=("SHARE UPDATE EXCLUSIVE on each table; the slot waits for open writing transactions",),
        needs=(
            needs.OWNERSHIP,
            needs.CREATE,
            needs.REPLICATION,
            *needs.on(Side.TARGET, needs.CREATE),
            *(() if made.way is None else thawing.needed(made.way)),
        ),
        undo="planrunner cleanup drops them",
        lasting=TAKEN_BACK,
        adjusts=adjusts,
        # A promoted standby follows its primary no more, and nothing makes it do so again.
        destructive=made.way is Way.PROMOTE,
        perform=_perform_capture,
    )


def _holding(made: Capture) -> str:
    match made.way:
        case None:
            return f"hold {'its snapshot' if len(made.groups) == 1 else 'their snapshots'}"
        case Way.PAUSE:
            return "pause the replay of the standby behind it"
        case Way.PROMOTE:
            return "promote the standby behind it"
        case Way.RESTORE:
            return "restore a snapshot of the source's instance that is taken behind it"
        case Way.CLONE:
            return "clone the source's cluster behind it"
        case _:
            assert_never(made.way)


def anyhow(stream: str) -> str:
    """What makes a slot, on a server of which nothing is known."""
    return f'CREATE_REPLICATION_SLOT "{stream}" LOGICAL pgoutput …'


def _tables(units: Sequence[Unit]) -> list[Table]:
    return list({unit.table.oid: unit.table for unit in units}.values())


def _splitting(run: Run, todo: Sequence[Unit], divided: Division) -> Sequence[str]:
    version = run.source.identity().version
    known = ranges.recorded(workspace(run))
    big = ranges.splittable(_tables(todo), above=divided.split_above, version=version)
    names = workspace(run).names
    told = [
        f"-- {t.qualified} ({human_bytes(t.data_bytes)}): a publication for each range of its key {t.key[0]},"
        " bounds from a sample, and a trigger that tells of a TRUNCATE; whole where the key does not follow the heap"
        for t in big
        if t.qualified not in known
    ]
    return [*told, *described.splitting(names, big)]


def capturing_anyhow(draft: Draft) -> Action:
    """The action that captures what a plan selects, of which nothing else is known."""
    if polls(draft.plan):
        return polled.capturing(_perform_capture, tables="the selected")
    names, streams = Names(plan_id=draft.plan_id), draft.option("streams", 1)
    groups = dict.fromkeys(range(1, streams + 1), (ANY_UNIT,))
    way = thawing.way(draft)
    made = Capture(
        names=names,
        groups=groups,
        slots=tuple(anyhow(names.stream(n)) for n in groups)
        if way is None
        else thawing.capturing(names, way, [thawing.anyhow(names.stream(n)) for n in groups]),
        way=way,
    )
    return thawing.unseen(capturing(made, tables="the selected"), way)


def _perform_capture(run: Run) -> None:
    space = workspace(run)
    # Whoever copies gets ready while slot and schema are made.
    space.pool.rouse()
    generations.truncate_begun(space, ranges.units(space, verify.followed_tables(space)))
    if remaining(run):
        generations.begin(space, verify.followed_tables(space), division(run))


def pre_data(run: Run, todo: Sequence[Unit]) -> Action:
    """What creates the schema; blocked where its tables are there already."""
    there = {t.qualified for t in catalog.tables(run.target)}
    already = sorted({unit.table.qualified for unit in todo} & there)
    return creating_schema(
        f"the target already has {', '.join(already[:5])}: empty it, or plan for another database"
        if already
        else None
    )


def creating_schema(blocked: str | None) -> Action:
    """The action that creates the schema, or says why it can't."""
    return Action(
        name="schema",
        summary="create schemas, types, functions, tables and sequences as pg_dump gives them, in one transaction",
        where=Side.TARGET,
        statements=("-- pg_dump --schema-only, section pre-data, under the snapshot", *described.PRE_DATA),
        locks=("ACCESS SHARE on the source's tables, while pg_dump reads",),
        needs=(needs.CREATE, needs.ACTING_AS, *needs.on(Side.SOURCE, needs.READING)),
        undo="DROP SCHEMA … CASCADE, by hand",
        lasting="the schema on the target with its types, functions and extensions, which the migration is for",
        blocked=blocked,
        perform=_perform_pre_data,
    )


def _perform_pre_data(run: Run) -> None:
    space = workspace(run)
    with drift.beginning(space):
        restore.pre_data(space, wishes(run))


def copy_action(run: Run, todo: Sequence[Unit]) -> Action:
    """What copies the units that are left."""
    total = human_bytes(sum(unit.bytes for unit in todo))
    return copying(
        sorted(todo, key=lambda unit: unit.id),
        summary=f"copy {len(_tables(todo))} tables, {total}, in {len(todo)} units over {jobs(run)} streams; indexes of"
        " what is in are built meanwhile",
        reads=Side.SOURCE if workspace(run).freezing is None else Side.REPLICA,
    )


def copying(units: Sequence[Unit], *, summary: str, reads: Side = Side.SOURCE) -> Action:
    """The action that copies ``units`` from the side that it ``reads``."""
    return Action(
        name="copy",
        summary=summary,
        where=Side.TARGET,
        statements=(
            *described.copying(units, reads),
            described.DUMP_LOCKS + "; where the schema was created by an earlier run",
            "-- meanwhile the indexes of what is in, as below",
        ),
        locks=(
            f"ACCESS SHARE on the {reads.value}'s tables",
            "ROW EXCLUSIVE on the target's, ACCESS EXCLUSIVE on big ones",
        ),
        needs=(needs.ACTING_AS, *needs.on(reads, needs.READING)),
        undo="TRUNCATE, by hand",
        lasting="the rows on the target, which the migration is for",
        perform=_perform_copy,
    )


def jobs(run: Run) -> int:
    """How many streams copy: the plan's word, else what both servers bear."""
    space = workspace(run)
    return run.option("jobs", None) or capacity.jobs(space.bulk, run.target, away=space.pool.away)


def terms(run: Run) -> indexes.Terms:
    """How indexes are built."""
    return indexes.Terms(
        jobs=run.option("index_jobs", None) or max(2, jobs(run) // 2),
        memory=run.option("maintenance_work_mem", "512MB"),
        wishes=wishes(run),
    )


def _perform_copy(run: Run) -> None:
    space = workspace(run)
    tables = verify.followed_tables(space)
    with drift.explaining(space):
        load.copy_everything(space, tables, jobs=jobs(run), division=division(run), terms=terms(run))
    space.let_go()
