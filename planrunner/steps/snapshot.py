"""The step ``snapshot``: publication, slot with its snapshot, schema, rows, indexes, statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from planrunner import clearing, unfollowed
from planrunner.model import Estimate, Finding, Json, Residue, Side, Upkeep
from planrunner.postgres import catalog, needs
from planrunner.replication import (
    capacity,
    decisions,
    described,
    estimate,
    filter_checks,
    generations,
    identities,
    indexes,
    load,
    publications,
    ranges,
    residue,
    restore,
    selection_record,
    slots,
    upkeep,
    verify,
)
from planrunner.replication.generations import Division
from planrunner.replication.names import Names
from planrunner.replication.units import ANY_UNIT
from planrunner.step import NO_LOCKS, Action, Draft, Run, outlined
from planrunner.unfollowed import wishes
from planrunner.units import human_bytes, size
from planrunner.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.units import Unit


class Snapshot:
    """Copies the database as of one instant, and never copies a finished table twice."""

    uses: ClassVar[str] = "snapshot"
    upkeep: ClassVar[tuple[Upkeep, ...]] = upkeep.OWN

    def actions(self, run: Run) -> Sequence[Action]:
        """Identities, roles, slot and snapshot, schema, copy, indexes, statistics: what is missing of them."""
        todo = remaining(run)
        done = workspace(run).ledger.effects(restore.STEP)
        found = [*_filters(run), *unfollowed.preparations(run), *unfollowed.roles_missing(run)]
        if todo:
            found.append(_capture(run, todo))
        if restore.PRE_DATA not in done:
            found.append(_pre_data(run, todo))
        if todo:
            found.append(_copy(run, todo))
        found += unfollowed.large_objects_missing(run)
        if restore.POST_DATA not in done:
            found.append(_post_data(run))
        if restore.ANALYZED not in done:
            found.append(_analyze(run))
        return found

    def findings(self, run: Run) -> Sequence[Finding]:
        """Whether the filters hold, and what they leave behind; nothing where the plan has none."""
        return filter_checks.findings(workspace(run))

    def estimates(self, run: Run) -> Sequence[Estimate]:
        """Sizes, copy time, WAL and disk for what is left to copy; about two seconds of measuring."""
        space = workspace(run)
        tables = verify.followed_tables(space)
        above = _division(run).chunk_above
        return estimate.estimates(space, tables, streams=_jobs(run), chunk_above=above)

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Units done of all, rows and bytes copied, generations, and what our slots retain."""
        space = workspace(run)
        copied = space.ledger.units()
        tables = verify.followed_tables(space)
        units = ranges.units(space, tables)
        waiting = {unit.table.qualified for unit in units if unit.id not in copied}
        streams: dict[str, Json] = {
            s.name: {"retained_bytes": s.retained, "wal_status": s.wal_status}
            for s in slots.existing(run.source, space.names).values()
        }
        return {
            "units_done": sum(1 for unit in units if unit.id in copied),
            "units": len(units),
            "tables_done": len(tables) - len(waiting),
            "tables": len(tables),
            "rows": sum(unit.rows for unit in copied.values()),
            "bytes": sum(unit.bytes for unit in copied.values()),
            "generations": len(space.ledger.generations()),
            "streams": streams,
            "decisions": list[Json](decisions.told(space)),
        }

    def leftovers(self, run: Run) -> Sequence[Action]:
        """Slots, publications, barrier tables, changed identities and the ledger."""
        space = workspace(run)
        found = [clearing.split_tables(space.names)] if ranges.made(space) else []
        found += [clearing.generation(space.names, number) for number in generations.left(space)]
        if space.ledger.effects(identities.STEP):
            found.append(unfollowed.restore_identities(run))
        steps = (restore.STEP, selection_record.STEP)
        if space.ledger.units() or any(space.ledger.effects(step) for step in steps):
            found.append(clearing.forget(run.plan_id))
        return found

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The copy of a database of which nothing is known but what the plan says."""
        names, streams = Names(plan_id=draft.plan_id), draft.option("streams", 1)
        group = dict.fromkeys(range(1, streams + 1), (ANY_UNIT,))
        capture = _Capture(names=names, groups=group, slots=tuple(_anyhow(names.stream(n)) for n in group))
        filtered = draft.option("filters", None) is not None
        return outlined(
            [
                *([_fixing("put the plan's filters on record")] if filtered else []),
                *unfollowed.outline(draft),
                _capturing(capture, tables="the selected"),
                _creating_schema(None),
                _copying(
                    (ANY_UNIT,), summary="copy the selected tables, build indexes of what is in meanwhile"
                ),
                _building("the"),
                _analyzing("the"),
            ]
        )

    def satisfied(self, run: Run) -> Sequence[str]:
        """What the ledger and the servers show of an earlier run."""
        space = workspace(run)
        done, copied = space.ledger.effects(restore.STEP), space.ledger.units()
        found = [
            f"publication {space.names.stream(g)} of our name exists for {len(tables)} tables"
            for g, tables in sorted(publications.existing(run.source, space.names).items())
        ]
        found += [
            f"slot {slot.name} is there, {human_bytes(slot.retained or 0)} of WAL kept for it"
            for slot in slots.existing(run.source, space.names).values()
        ]
        found += [f"{len(copied)} units are copied and on record"] if copied else []
        told = {restore.PRE_DATA: "the schema is created", restore.POST_DATA: "indexes are built"}
        found += [
            text for name, text in (told | {restore.ANALYZED: "tables are analyzed"}).items() if name in done
        ]
        return [*found, *unfollowed.satisfied(run)]

    def residue(self, run: Run) -> Sequence[Residue]:
        """Whatever either server shows of this plan and others, found without the ledger."""
        return residue.scan(run.source, run.target, workspace(run).names)


def remaining(run: Run) -> tuple[Unit, ...]:
    """What is not copied yet."""
    space = workspace(run)
    return generations.remaining(space, verify.followed_tables(space))


def _division(run: Run) -> Division:
    return Division(
        streams=run.option("streams", 1),
        split_above=size(run.option("split_above", "10GB")),
        chunk_above=size(run.option("chunk_above", "2GB")),
    )


@dataclass(frozen=True, kw_only=True)
class _Capture:
    """What a capture makes: its generations with their units, their slots, and what goes before."""

    names: Names
    groups: Mapping[int, Sequence[Unit]]
    slots: tuple[str, ...]
    before: tuple[str, ...] = ()
    publishing: tuple[str, ...] = ()


def _capture(run: Run, todo: Sequence[Unit]) -> Action:
    space = workspace(run)
    division = _division(run)
    now = generations.outlook(space, division.streams)
    groups = generations.grouped(todo, now.next, generations.writes(run.source))
    version, failover = run.source.version(), space.terms.failover
    made = _Capture(
        names=space.names,
        groups=groups,
        slots=tuple(
            slots.exporting(space.names.stream(g), version, failover=failover).as_string() for g in groups
        ),
        before=(
            *(s for g in now.useless for s in described.clearing(space.names, g)),
            *described.all_told(
                generations.emptying_begun(space), described.TARGET, "unless its chunks are all in"
            ),
            *_splitting(run, todo, division),
        ),
        publishing=_publishing(run, groups),
    )
    return _capturing(made, tables=str(len(_tables(todo))), adjusts=bool(now.useless))


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


def _capturing(made: _Capture, *, tables: str, adjusts: bool = False) -> Action:
    names = made.names
    streams = [names.stream(g) for g in made.groups]
    publishing = made.publishing or tuple(
        s.as_string() for g, units in made.groups.items() for s in publications.statements(names, g, units)
    )
    return Action(
        name="capture",
        summary=f"create publication and slot {', '.join(streams)} for {tables} tables, and hold"
        f" {'its snapshot' if len(streams) == 1 else 'their snapshots'}",
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
        ),
        undo="planrunner cleanup drops them",
        adjusts=adjusts,
        perform=_perform_capture,
    )


def _anyhow(stream: str) -> str:
    return f'CREATE_REPLICATION_SLOT "{stream}" LOGICAL pgoutput …'


def _tables(units: Sequence[Unit]) -> list[Table]:
    return list({unit.table.oid: unit.table for unit in units}.values())


def _splitting(run: Run, todo: Sequence[Unit], division: Division) -> Sequence[str]:
    version = run.source.identity().version
    known = ranges.recorded(workspace(run))
    big = ranges.splittable(_tables(todo), above=division.split_above, version=version)
    names = workspace(run).names
    told = [
        f"-- {t.qualified} ({human_bytes(t.data_bytes)}): a publication for each range of its key {t.key[0]},"
        " bounds from a sample, and a trigger that tells of a TRUNCATE; whole where the key does not follow the heap"
        for t in big
        if t.qualified not in known
    ]
    return [*told, *described.splitting(names, big)]


def _perform_capture(run: Run) -> None:
    space = workspace(run)
    generations.truncate_begun(space, ranges.units(space, verify.followed_tables(space)))
    if remaining(run):
        generations.begin(space, verify.followed_tables(space), _division(run))


def _pre_data(run: Run, todo: Sequence[Unit]) -> Action:
    there = {t.qualified for t in catalog.tables(run.target)}
    already = sorted({unit.table.qualified for unit in todo} & there)
    return _creating_schema(
        f"the target already has {', '.join(already[:5])}: empty it, or plan for another database"
        if already
        else None
    )


def _creating_schema(blocked: str | None) -> Action:
    return Action(
        name="schema",
        summary="create schemas, types, functions, tables and sequences as pg_dump gives them, in one transaction",
        where=Side.TARGET,
        statements=("-- pg_dump --schema-only, section pre-data, under the snapshot", *described.PRE_DATA),
        locks=("ACCESS SHARE on the source's tables, while pg_dump reads",),
        needs=(needs.CREATE, needs.ACTING_AS, *needs.on(Side.SOURCE, needs.READING)),
        undo="DROP SCHEMA … CASCADE, by hand",
        blocked=blocked,
        perform=lambda run: restore.pre_data(workspace(run), wishes(run)),
    )


def _copy(run: Run, todo: Sequence[Unit]) -> Action:
    total = human_bytes(sum(unit.bytes for unit in todo))
    return _copying(
        sorted(todo, key=lambda unit: unit.id),
        summary=f"copy {len(_tables(todo))} tables, {total}, in {len(todo)} units over {_jobs(run)} streams; indexes of"
        " what is in are built meanwhile",
    )


def _copying(units: Sequence[Unit], *, summary: str) -> Action:
    return Action(
        name="copy",
        summary=summary,
        where=Side.TARGET,
        statements=(
            *described.copying(units),
            described.DUMP_LOCKS + "; where the schema was created by an earlier run",
            "-- meanwhile the indexes of what is in, as below",
        ),
        locks=(
            "ACCESS SHARE on the source's tables",
            "ROW EXCLUSIVE on the target's, ACCESS EXCLUSIVE on big ones",
        ),
        needs=(needs.ACTING_AS, *needs.on(Side.SOURCE, needs.READING)),
        undo="TRUNCATE, by hand",
        perform=_perform_copy,
    )


def _jobs(run: Run) -> int:
    return run.option("jobs", None) or capacity.jobs(run.source, run.target)


def _terms(run: Run) -> indexes.Terms:
    return indexes.Terms(
        jobs=run.option("index_jobs", None) or max(2, _jobs(run) // 2),
        memory=run.option("maintenance_work_mem", "512MB"),
        wishes=wishes(run),
    )


def _perform_copy(run: Run) -> None:
    space = workspace(run)
    tables = verify.followed_tables(space)
    load.copy_everything(space, tables, jobs=_jobs(run), division=_division(run), terms=_terms(run))
    space.let_go()


def _post_data(run: Run) -> Action:
    return _building(str(catalog.index_count(run.source)))


def _building(count: str) -> Action:
    return Action(
        name="indexes",
        summary=f"create the indexes ({count} on the source), constraints and triggers that are not there yet",
        where=Side.TARGET,
        statements=(
            "-- pg_dump --schema-only, section post-data, what is small in batches, each a transaction",
            described.DUMP_LOCKS + "; where the rows were copied by an earlier run",
            *described.POST_DATA,
        ),
        locks=("SHARE on each table of the target while its index is built",),
        needs=(needs.ACTING_AS,),
        undo="DROP INDEX, ALTER TABLE … DROP CONSTRAINT, by hand",
        perform=_perform_post_data,
    )


def _perform_post_data(run: Run) -> None:
    space = workspace(run)
    with indexes.Builder(space, _terms(run), lambda: None) as builder:
        builder.everything_else(foreign_keys=len(space.ledger.generations()) <= 1)


def _analyze(run: Run) -> Action:
    return _analyzing(str(len(verify.followed_tables(workspace(run)))))


def _analyzing(count: str) -> Action:
    return Action(
        name="analyze",
        summary=f"gather statistics of {count} tables",
        where=Side.TARGET,
        statements=("ANALYZE …  -- of every copied table, many in a statement",),
        locks=("SHARE UPDATE EXCLUSIVE on each table",),
        needs=(needs.ACTING_AS,),
        undo="nothing to undo: statistics are gathered anew at any time",
        perform=_perform_analyze,
    )


def _perform_analyze(run: Run) -> None:
    space = workspace(run)
    restore.analyze(space, verify.followed_tables(space))


def _filters(run: Run) -> Sequence[Action]:
    """Fixing the selection, once, and the identities that its row filters need."""
    selection = workspace(run).selection
    if selection.everything:
        return ()
    found = [] if selection.recorded else [_fix_selection(run)]
    return [*found, *_filter_identities(unfollowed.filter_identities(run))]


def _fix_selection(run: Run) -> Action:
    selection = workspace(run).selection
    instants = [f"{w.tables.text} since {selection.instants[w.tables.text]}" for w in selection.since]
    return _fixing("; ".join(["put the plan's filters on record", *instants]))


def _fixing(summary: str) -> Action:
    return Action(
        name="filters",
        summary=summary,
        where=Side.TARGET,
        statements=("INSERT INTO planrunner.effect …  -- the filters, and where each time window begins",),
        locks=NO_LOCKS,
        needs=(needs.CREATE,),
        undo="planrunner cleanup forgets them",
        perform=lambda run: selection_record.record(workspace(run)),
    )


def _filter_identities(wanted: Sequence[identities.Change]) -> Sequence[Action]:
    if not wanted:
        return ()
    return [
        Action(
            name="filter identities",
            summary=f"set REPLICA IDENTITY FULL on {len(wanted)} filtered tables:"
            f" {', '.join(change.table.qualified for change in wanted)}",
            where=Side.SOURCE,
            statements=tuple(c.statement().as_string() for c in wanted),
            locks=("ACCESS EXCLUSIVE on each table, for an instant",),
            needs=(needs.OWNERSHIP,),
            undo="cleanup puts the former identity back",
            adjusts=True,
            perform=lambda run: identities.change(workspace(run), wanted),
        )
    ]
