"""The step ``snapshot``: publication, slot with its snapshot, schema, rows, indexes, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from planrunner import clearing, cloud_checks, cloud_jobs, copies, polled, prospects, thawing, unfollowed
from planrunner.model import Estimate, Finding, Json, Residue, Side, Upkeep
from planrunner.postgres import catalog, needs
from planrunner.replication import (
    decisions,
    described,
    drift,
    filter_checks,
    followed,
    frozen,
    frozen_checks,
    generations,
    identities,
    indexes,
    publications,
    ranges,
    residue,
    restore,
    selection_record,
    slots,
    upkeep,
    verify,
)
from planrunner.replication.units import ANY_UNIT
from planrunner.replication.workspace import Way
from planrunner.seren.job import Command
from planrunner.step import NO_LOCKS, NOTHING_STAYS, TAKEN_BACK, Action, Draft, Run, outlined
from planrunner.units import human_bytes
from planrunner.workspace import sampled, workspace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Snapshot:
    """Copies the database as of one instant, and never copies a finished table twice; or lets SerenAI's cloud do it."""

    uses: ClassVar[str] = "snapshot"
    upkeep: ClassVar[tuple[Upkeep, ...]] = upkeep.OWN

    def actions(self, run: Run) -> Sequence[Action]:
        """Identities, roles, slot and snapshot, schema, copy, indexes, statistics: what is missing of them."""
        if cloud_jobs.in_cloud(run):
            return cloud_jobs.missing(run, Command.INIT)
        todo = copies.remaining(run)
        done = workspace(run).ledger.effects(restore.STEP)
        found = [*_filters(run), *unfollowed.preparations(run), *unfollowed.roles_missing(run)]
        if todo:
            found.append(copies.capture(run, todo))
        if restore.PRE_DATA not in done:
            found.append(copies.pre_data(run, todo))
        if todo:
            found.append(copies.copy_action(run, todo))
        found += thawing.missing(run, todo)
        found += unfollowed.large_objects_missing(run)
        if restore.POST_DATA not in done:
            found.append(_post_data(run))
        if restore.ANALYZED not in done:
            found.append(_analyze(run))
        return found

    def findings(self, run: Run) -> Sequence[Finding]:
        """Whether the filters hold, and what is read or runs elsewhere serves; nothing where the plan has neither."""
        if cloud_jobs.in_cloud(run):
            return cloud_checks.before_copy(run)
        return [*filter_checks.findings(workspace(run)), *frozen_checks.findings(workspace(run))]

    def estimates(self, run: Run) -> Sequence[Estimate]:
        """Sizes, copy time, WAL, storage and traffic for what is left to copy; about two seconds of measuring."""
        return () if cloud_jobs.in_cloud(run) else prospects.of_copy(run)

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Units done of all, rows and bytes copied, generations, and what our slots retain."""
        job = cloud_jobs.progress(run)
        if job is not None:
            return job
        space = workspace(run)
        copied, rows, size = space.ledger.done()
        parts = ranges.counts(space)
        units = {t.qualified: parts.get(t.qualified, 1) for t in followed.unsized(space)}
        streams: dict[str, Json] = {
            s.name: {"retained_bytes": s.retained, "wal_status": s.wal_status}
            for s in slots.existing(run.source, space.names).values()
        }
        return {
            "units_done": sum(copied.get(table, 0) for table in units),
            "units": sum(units.values()),
            "tables_done": sum(1 for table, count in units.items() if copied.get(table) == count),
            "tables": len(units),
            "rows": rows,
            "bytes": size,
            "generations": len(space.ledger.generations()),
            "streams": streams,
            "decisions": list[Json](decisions.told(space)),
            **({} if space.freezing is None else {"replica": frozen.state(space)}),
        }

    def sample(self, run: Run) -> Mapping[str, Json]:
        """Units, rows and bytes, and how the streams do."""
        return cloud_jobs.progress(run) or sampled(run)

    def leftovers(self, run: Run) -> Sequence[Action]:
        """Slots, publications, barrier tables, changed identities and the ledger."""
        space = workspace(run)
        found = list(thawing.leftovers(run))
        found += [clearing.split_tables(space.names)] if ranges.made(space) else []
        found += [clearing.generation(space.names, number) for number in generations.left(space)]
        found += polled.leftovers(run)
        if space.ledger.effects(identities.STEP):
            found.append(unfollowed.restore_identities(run))
        steps = (restore.STEP, selection_record.STEP)
        if space.ledger.units() or any(space.ledger.effects(step) for step in steps):
            found.append(clearing.forget(run.plan_id))
        return found

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The copy of a database of which nothing is known but what the plan says."""
        if cloud_jobs.drafted(draft):
            return cloud_jobs.outline(draft, Command.INIT)
        way = thawing.way(draft)
        filtered = draft.option("filters", None) is not None
        return outlined(
            [
                *([_fixing("put the plan's filters on record")] if filtered else []),
                *unfollowed.outline(draft),
                copies.capturing_anyhow(draft),
                copies.creating_schema(None),
                copies.copying(
                    (ANY_UNIT,),
                    summary="copy the selected tables, build indexes of what is in meanwhile",
                    reads=Side.SOURCE if way is None else Side.REPLICA,
                ),
                *([thawing.thawing(way)] if way in {Way.PAUSE, Way.PROMOTE} else []),
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
        lasting="indexes, constraints and triggers on the target, which the migration is for",
        perform=_perform_post_data,
    )


def _perform_post_data(run: Run) -> None:
    space = workspace(run)
    with drift.explaining(space), indexes.Builder(space, copies.terms(run), lambda: None) as builder:
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
        lasting=NOTHING_STAYS,
        perform=_perform_analyze,
    )


def _perform_analyze(run: Run) -> None:
    space = workspace(run)
    with drift.explaining(space):
        restore.analyze(space, verify.followed_tables(space))


def _filters(run: Run) -> Sequence[Action]:
    """Fixing the selection, once, and the identities that its row filters need."""
    selection = workspace(run).selection
    if selection.everything:
        return ()
    found = [] if selection.recorded else [_fix_selection(run)]
    needed = unfollowed.filter_identities(run) if workspace(run).streamed else ()
    return [*found, *_filter_identities(needed)]


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
        lasting=TAKEN_BACK,
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
            lasting=TAKEN_BACK,
            adjusts=True,
            perform=lambda run: identities.change(workspace(run), wanted),
        )
    ]
