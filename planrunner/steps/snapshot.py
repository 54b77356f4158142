"""The step ``snapshot``: publication, slot with its snapshot, schema, rows, indexes, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner import unfollowed
from planrunner.model import Estimate, Finding, Json, Residue, Side
from planrunner.postgres import catalog
from planrunner.replication import (
    capacity,
    copy,
    decisions,
    drift,
    estimate,
    filter_checks,
    generations,
    identities,
    indexes,
    large_objects,
    ledger,
    load,
    publications,
    ranges,
    residue,
    restore,
    selection_record,
    slots,
    verify,
)
from planrunner.replication.generations import Division
from planrunner.step import Action, Run
from planrunner.unfollowed import wishes
from planrunner.units import human_bytes, size
from planrunner.workspace import sampled, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.units import Unit


class Snapshot:
    """Copies the database as of one instant, and never copies a finished table twice."""

    uses: ClassVar[str] = "snapshot"

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
            found.append(_post_data())
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

    def sample(self, run: Run) -> Mapping[str, Json]:
        """Units, rows and bytes, and how the streams do."""
        return sampled(run)

    def leftovers(self, run: Run) -> Sequence[Action]:
        """Slots, publications, barrier tables, changed identities and the ledger."""
        space = workspace(run)
        found = [_clear_ranges()] if ranges.made(space) else []
        found += [
            _clear(generation, space.names.stream(generation)) for generation in generations.left(space)
        ]
        if space.ledger.effects(identities.STEP):
            found.append(unfollowed.restore_identities(run))
        steps = (restore.STEP, selection_record.STEP)
        if space.ledger.units() or any(space.ledger.effects(step) for step in steps):
            found.append(_forget())
        return found

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


def _capture(run: Run, todo: Sequence[Unit]) -> Action:
    space = workspace(run)
    division = _division(run)
    now = generations.outlook(space, division.streams)
    groups = generations.grouped(todo, now.next, generations.writes(run.source))
    streams = [space.names.stream(generation) for generation in groups]
    return Action(
        name="capture",
        summary=f"create publication and slot {', '.join(streams)} for {len(_tables(todo))} tables, and hold"
        f" {'its snapshot' if len(streams) == 1 else 'their snapshots'}",
        where=Side.SOURCE,
        statements=(
            *(f"-- remove what a lost snapshot left: {space.names.stream(g)}" for g in now.useless),
            *ledger.CREATE,
            *_splitting(run, todo, division),
            *(s.as_string() for g, units in groups.items() for s in generations.publishing(space, g, units)),
            *(publications.barrier_table(space.names, g).as_string() for g in groups),
            *(f"CREATE_REPLICATION_SLOT {stream} LOGICAL pgoutput (SNAPSHOT 'export')" for stream in streams),
        ),
        locks=("SHARE UPDATE EXCLUSIVE on each table; the slot waits for open writing transactions",),
        needs=("ownership of the tables", "CREATE on the database", "rds_replication or REPLICATION"),
        undo="planrunner cleanup drops them",
        perform=_perform_capture,
    )


def _tables(units: Sequence[Unit]) -> list[Table]:
    return list({unit.table.oid: unit.table for unit in units}.values())


def _splitting(run: Run, todo: Sequence[Unit], division: Division) -> Sequence[str]:
    version = run.source.identity().version
    known = ranges.recorded(workspace(run))
    big = [
        t
        for t in ranges.splittable(_tables(todo), above=division.split_above, version=version)
        if t.qualified not in known
    ]
    return [
        f"-- {t.qualified} ({human_bytes(t.data_bytes)}): a publication for each range of its key {t.key[0]},"
        " bounds from a sample, and a trigger that tells of a TRUNCATE; whole where the key does not follow the heap"
        for t in big
    ]


def _perform_capture(run: Run) -> None:
    space = workspace(run)
    generations.truncate_begun(space, ranges.units(space, verify.followed_tables(space)))
    if remaining(run):
        generations.begin(space, verify.followed_tables(space), _division(run))


def _pre_data(run: Run, todo: Sequence[Unit]) -> Action:
    there = {t.qualified for t in catalog.tables(run.target)}
    already = sorted({unit.table.qualified for unit in todo} & there)
    return Action(
        name="schema",
        summary="create schemas, types, functions, tables and sequences",
        where=Side.TARGET,
        statements=("pg_dump --schema-only --snapshot=…, section pre-data, in one transaction",),
        needs=("CREATE on the database",),
        undo="DROP SCHEMA … CASCADE, by hand",
        blocked=f"the target already has {', '.join(already[:5])}: empty it, or plan for another database"
        if already
        else None,
        perform=lambda run: restore.pre_data(workspace(run), wishes(run)),
    )


def _copy(run: Run, todo: Sequence[Unit]) -> Action:
    total = human_bytes(sum(unit.bytes for unit in todo))
    jobs = _jobs(run)
    example = " | ".join(s.as_string() for s in (copy.outgoing(todo[0]), copy.incoming(todo[0])))
    return Action(
        name="copy",
        summary=f"copy {len(_tables(todo))} tables, {total}, in {len(todo)} units over {jobs} streams; indexes of"
        " what is in are built meanwhile",
        where=Side.TARGET,
        statements=(f"{example}  -- and so for each of {len(todo)} units, with its ledger row",),
        locks=("ACCESS SHARE on the source's tables",),
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


def _post_data() -> Action:
    return Action(
        name="indexes",
        summary="create the indexes, constraints and triggers that are not there yet",
        where=Side.TARGET,
        statements=(
            "pg_dump --schema-only, section post-data, what is small in batches, each a transaction",
        ),
        undo="DROP SCHEMA … CASCADE, by hand",
        perform=_perform_post_data,
    )


def _perform_post_data(run: Run) -> None:
    space = workspace(run)
    with indexes.Builder(space, _terms(run), lambda: None) as builder:
        builder.everything_else(foreign_keys=len(space.ledger.generations()) <= 1)


def _analyze(run: Run) -> Action:
    tables = verify.followed_tables(workspace(run))
    return Action(
        name="analyze",
        summary=f"gather statistics of {len(tables)} tables",
        where=Side.TARGET,
        statements=("ANALYZE of each table",),
        perform=lambda run: restore.analyze(workspace(run), tables),
    )


def _clear_ranges() -> Action:
    return Action(
        name="clear ranges",
        summary="drop the publications and truncate triggers of split tables",
        where=Side.SOURCE,
        statements=("DROP PUBLICATION of each range", "DROP FUNCTION planrunner.truncated_… CASCADE"),
        destructive=True,
        perform=lambda run: ranges.drop(workspace(run)),
    )


def _clear(generation: int, stream: str) -> Action:
    return Action(
        name=f"clear {stream}",
        summary=f"drop slot, publication and barrier table {stream}",
        where=Side.SOURCE,
        statements=(
            f"SELECT pg_drop_replication_slot('{stream}')",
            f"DROP PUBLICATION IF EXISTS {stream}",
            "DROP TABLE of its barrier on both sides",
        ),
        destructive=True,
        perform=lambda run: generations.clear(workspace(run), generation),
    )


def _forget() -> Action:
    def perform(run: Run) -> None:
        space = workspace(run)
        made = (restore.STEP, ranges.STEP, f"{ranges.STEP} made", selection_record.STEP, drift.STEP)
        for step in (*made, decisions.STEP, large_objects.STEP):
            space.ledger.forget(step)
        space.ledger.forget("snapshot")
        publications.drop_empty_schema(run.source)

    return Action(
        name="forget",
        summary="remove this plan's ledger from the target, and schema planrunner where it is empty then",
        where=Side.TARGET,
        statements=("DELETE FROM planrunner.unit, planrunner.effect; DROP SCHEMA planrunner on both sides",),
        destructive=True,
        perform=perform,
    )


def _filters(run: Run) -> Sequence[Action]:
    """Fixing the selection, once, and the identities that its row filters need."""
    selection = workspace(run).selection
    if selection.everything:
        return ()
    found = [] if selection.recorded else [_fix_selection(run)]
    if selection.identity_full:
        filtered = [t for t in verify.followed_tables(workspace(run)) if t.where and t.identifiable]
        found += _filter_identities([t for t in filtered if t.replica_identity == "d"])
    return found


def _fix_selection(run: Run) -> Action:
    selection = workspace(run).selection
    instants = [f"{w.tables.text} since {selection.instants[w.tables.text]}" for w in selection.since]
    return Action(
        name="filters",
        summary="; ".join(["put the plan's filters on record", *instants]),
        where=Side.TARGET,
        statements=("INSERT INTO planrunner.effect … -- the filters, and where each time window begins",),
        undo="planrunner cleanup forgets them",
        perform=lambda run: selection_record.record(workspace(run)),
    )


def _filter_identities(tables: Sequence[Table]) -> Sequence[Action]:
    if not tables:
        return ()
    wanted = [identities.Change(table=t, index=None) for t in tables]
    return [
        Action(
            name="filter identities",
            summary=f"set REPLICA IDENTITY FULL on {len(tables)} filtered tables:"
            f" {', '.join(t.qualified for t in tables)}",
            where=Side.SOURCE,
            statements=tuple(c.statement().as_string() for c in wanted),
            locks=("ACCESS EXCLUSIVE on each table, for an instant",),
            needs=("ownership of the tables",),
            undo="cleanup puts the former identity back",
            perform=lambda run: identities.change(workspace(run), wanted),
        )
    ]
