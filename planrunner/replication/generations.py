"""Generations: one slot and snapshot each; what one has copied stays its own, the rest goes to the next.

A lost snapshot costs the units in hand, never a finished one: its slot keeps the WAL for what it copied.
Several generations are begun together where the plan wants several streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.replication import (
    drift,
    frozen,
    inserts,
    logins,
    origins,
    polling_ledger,
    publications,
    published,
    ranges,
    slots,
    subscriptions,
    timeline,
)
from planrunner.replication.snapshot import HeldSnapshot, capture, export
from planrunner.replication.workspace import Round

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Server
    from planrunner.postgres.lsn import Lsn
    from planrunner.replication.units import Unit
    from planrunner.replication.workspace import Workspace

MOST_LOSSES = 8


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Which generations copy what is left, and those that hold a slot or publication for nothing.

    ``captured``: the next ones were captured before, and what they are copied from still stands.
    """

    next: tuple[int, ...]
    useless: tuple[int, ...]
    finished: tuple[int, ...]
    captured: bool = False


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the copy is divided: ``streams`` generations at once, tables above ``split_above`` bytes in ranges.

    Tables above ``chunk_above`` are copied by several streams at once: below, one transaction that also
    freezes the rows costs the target less than the streams gain.
    """

    streams: int = 1
    split_above: int = 10 << 30
    chunk_above: int = 2 << 30


def outlook(workspace: Workspace, streams: int = 1) -> Outlook:
    """Compare ledger and source: which generations have finished units, which are left from a lost snapshot."""
    finished = workspace.ledger.generations()
    seen = set(publications.existing(workspace.source, workspace.names))
    seen |= set(slots.existing(workspace.source, workspace.names))
    held = workspace.round
    if held is not None and held.alive():
        return Outlook(next=tuple(sorted(held.snapshots)), useless=(), finished=finished)
    going_on = frozen.adoptable(workspace)
    if going_on:
        useless = tuple(sorted(seen - {*finished, *going_on}))
        return Outlook(next=going_on, useless=useless, finished=finished, captured=True)
    following = max(finished, default=0) + 1
    return Outlook(
        next=tuple(range(following, following + streams)),
        useless=tuple(sorted(seen - set(finished))),
        finished=finished,
    )


def remaining(workspace: Workspace, tables: Sequence[Table]) -> tuple[Unit, ...]:
    """The units of ``tables`` that are not copied yet."""
    copied = workspace.ledger.units()
    return tuple(unit for unit in ranges.units(workspace, tables) if unit.id not in copied)


def coming(workspace: Workspace, tables: Sequence[Table], streams: int) -> tuple[int, ...]:
    """The generations there are once everything is copied: those that hold units, and those that copy the rest."""
    now = outlook(workspace, streams)
    left = {unit.table.oid for unit in remaining(workspace, tables)}
    return tuple(dict.fromkeys((*now.finished, *now.next[: len(left)])))


def joined(generations: Sequence[int], tables: Sequence[Table], streams: int) -> tuple[int, ...]:
    """The generations that follow once more than ``streams`` of them are joined."""
    if len(generations) <= streams:
        return tuple(generations)
    first = max(generations) + 1
    return tuple(range(first, first + min(streams, len(tables))))


def begin(workspace: Workspace, tables: Sequence[Table], division: Division) -> None:
    """Start the generations that copy what is left of ``tables``: clear useless ones, publications, slots, snapshots.

    Every publication is there before the first slot. Those of a server that still stands where it was frozen go on.
    StepFailed when the snapshot was lost too often: each slot decodes all WAL of the source.
    """
    workspace.let_go()
    workspace.schema = None
    if not workspace.streamed:
        _begin_unfollowed(workspace, tables)
        return
    now = outlook(workspace, division.streams)
    for generation in now.useless:
        clear(workspace, generation)
    if now.next[-1] > MOST_LOSSES * division.streams:
        raise StepFailed(
            f"the snapshot was lost {MOST_LOSSES} times; each costs the source a slot that decodes all its WAL",
            remedy="Find out what ends the runner's sessions, `planrunner cleanup` this plan, and run again.",
        )
    drift.refuse(workspace)
    if now.captured:
        workspace.round = frozen.hold(
            workspace, frozen.dealt(workspace, remaining(workspace, tables), now.next)
        )
    else:
        _begin_anew(workspace, tables, now, division)
    drift.remember(workspace)
    timeline.remember(workspace)


def _begin_anew(workspace: Workspace, tables: Sequence[Table], now: Outlook, division: Division) -> None:
    ranges.prepare(workspace, tables, above=division.split_above)
    groups = grouped(remaining(workspace, tables), now.next, writes(workspace.source))
    for generation, units in groups.items():
        create_publications(workspace, generation, units)
        barrier_on_target(workspace, generation)
    ranges.tell_truncates_to(workspace, (*now.finished, *groups))
    if workspace.freezing is None:
        _capture_all(workspace, groups)
    else:
        workspace.round = frozen.hold(workspace, groups)


def _begin_unfollowed(workspace: Workspace, tables: Sequence[Table]) -> None:
    """One snapshot for all that is left, and its horizon on record before anything is copied by it.

    A lost one costs the source nothing, so nobody counts them: the polling begins at the lowest horizon.
    """
    (generation,) = outlook(workspace).next
    drift.refuse(workspace)
    todo = remaining(workspace, tables)
    snapshot, horizon = export(workspace, generation)
    workspace.round = Round(
        snapshots={generation: snapshot}, generation_of={unit.id: generation for unit in todo}
    )
    polling_ledger.remember(workspace, generation, horizon)
    failpoint("snapshot.exported")
    workspace.tell(
        f"snapshot {generation} holds {len(todo)} units",
        {"generation": generation, "units": len(todo), "horizon": horizon.xmin},
    )
    drift.remember(workspace)
    timeline.remember(workspace)


def publishing(workspace: Workspace, generation: int, units: Sequence[Unit]) -> tuple[sql.Composed, ...]:
    """What makes the publications of a generation that begins with ``units``."""
    wholly, inserted = inserts.parted([u for u in units if u.part is None], workspace.choices)
    names = workspace.names
    return publications.statements(names, generation, wholly) + inserts.statements(
        names, generation, inserted
    )


def create_publications(workspace: Workspace, generation: int, units: Sequence[Unit]) -> tuple[str, ...]:
    """Make them; returns those that a subscription names besides the generation's own."""
    wholly, inserted = inserts.parted([u for u in units if u.part is None], workspace.choices)
    publications.create(workspace.source, workspace.names, generation, wholly)
    inserts.create(workspace.source, workspace.names, generation, inserted)
    return (workspace.names.inserts(generation),) if inserted else ()


def _capture_all(workspace: Workspace, groups: Mapping[int, Sequence[Unit]]) -> None:
    snapshots: dict[int, HeldSnapshot] = {}
    try:
        for generation, units in groups.items():
            snapshots[generation] = capture(workspace, generation)
            workspace.tell(
                f"generation {generation}: slot and snapshot hold {len(units)} units",
                {"generation": generation, "units": len(units)},
            )
    except BaseException:
        for snapshot in snapshots.values():
            snapshot.close()
        raise
    owners = {unit.id: generation for generation, units in groups.items() for unit in units}
    workspace.round = Round(snapshots=snapshots, generation_of=owners)


def grouped(
    units: Sequence[Unit], generations: Sequence[int], activity: Mapping[int, int]
) -> dict[int, list[Unit]]:
    """Deal ``units`` out to ``generations``, the busiest tables first, each to the least busy; none stays empty.

    The ranges of one table stay together: apply keeps commit order only within a stream. ``activity`` is rows
    written so far, by table oid.
    """
    tables: dict[int, list[Unit]] = {}
    for unit in units:
        tables.setdefault(unit.table.oid, []).append(unit)
    groups: dict[int, list[Unit]] = {generation: [] for generation in generations[: max(1, len(tables))]}
    load = dict.fromkeys(groups, 0)
    for oid in sorted(tables, key=lambda oid: (-activity.get(oid, 0), oid)):
        lightest = min(load, key=lambda generation: (load[generation], generation))
        groups[lightest] += tables[oid]
        load[lightest] += activity.get(oid, 0) + 1
    return groups


def writes(source: Server) -> dict[int, int]:
    """Rows inserted, updated and deleted since statistics began, by table oid."""
    return {
        row[0]: row[1]
        for row in source.rows(
            "SELECT relid::bigint, (n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
        )
    }


def barrier_on_target(workspace: Workspace, generation: int) -> None:
    """Make the generation's barrier table on the target."""
    table = publications.barrier_table(workspace.names, generation)
    with workspace.writing() as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(table)
    failpoint("barrier.made_on_target")


def follow(workspace: Workspace, tables: Sequence[Table], generation: int) -> int:
    """Subscribe to the generation's slot for what it has copied, and start applying; returns the units followed.

    The subscription learns its tables from the publications as they are now, so the generation's own is
    narrowed to what it copied first.
    """
    mine = _copied_by(workspace, tables, generation)
    whole, inserted = inserts.parted([unit for unit in mine if unit.part is None], workspace.choices)
    there = publications.existing(workspace.source, workspace.names)
    if generation not in there:
        raise published.missing(workspace.names.stream(generation)).error()
    if len(there[generation]) != len(whole) + 1:
        # A table that was renamed since would be taken out of it for good.
        drift.refuse(workspace)
        publications.narrow(workspace.source, workspace.names, generation, whole)
    if generation not in subscriptions.existing(workspace.target, workspace.names):
        others = inserts.narrow(workspace.source, workspace.names, generation, inserted)
        owned = ranges.owned(workspace, tables, generation)
        subscriptions.create(workspace, generation, owned, also=others)
    start = frozen.begins(workspace, generation)
    if start is not None:
        origins.settle(workspace, workspace.target, workspace.names.stream(generation), start, needed=True)
    subscriptions.enable(workspace, generation)
    return len(mine)


def subscribe(workspace: Workspace, tables: Sequence[Table], generation: int, aligned: Lsn | None) -> None:
    """Subscribe to a generation whose slot was moved to ``aligned``, and start; its publication is what it is.

    A crash of the source before its next checkpoint puts the slot back to where it was made.
    """
    name = workspace.names.stream(generation)
    if name not in subscriptions.shown(workspace.target, name):
        owned = ranges.owned(workspace, tables, generation)
        logins.ready(workspace, workspace.source)
        with workspace.writing() as session:
            subscriptions.create_in(workspace, session, generation, owned)
        failpoint("subscription.created_aligned")
    if aligned is not None and not subscriptions.shown(workspace.target, name)[name].enabled:
        origins.settle(workspace, workspace.target, name, aligned, needed=False)
    subscriptions.enable(workspace, generation)


def _copied_by(workspace: Workspace, tables: Sequence[Table], generation: int) -> list[Unit]:
    copied = workspace.ledger.units()
    return [
        u for u in ranges.units(workspace, tables) if u.id in copied and copied[u.id].generation == generation
    ]


def besides(workspace: Workspace, tables: Sequence[Table], generation: int) -> tuple[str, ...]:
    """The publications that the generation's subscription names besides its own."""
    _, inserted = inserts.parted(_copied_by(workspace, tables, generation), workspace.choices)
    owned = ranges.owned(workspace, tables, generation).publications(workspace.names)
    return (*owned, workspace.names.inserts(generation)) if inserted else owned


def clear(workspace: Workspace, generation: int) -> None:
    """Remove a generation from both servers: subscription, slot, barrier tables, publications.

    Its own publication goes last: by it ``left`` finds the rest again where this is broken off.
    """
    others = set(publications.existing(workspace.source, workspace.names)) - {generation}
    ranges.tell_truncates_to(workspace, tuple(others))
    subscriptions.drop(workspace, generation)
    slots.drop(workspace, generation)
    inserts.drop(workspace.source, workspace.names, generation)
    publications.drop_barrier(workspace.target, workspace.names, generation)
    frozen.forget(workspace, generation)
    publications.drop(workspace.source, workspace.names, generation)


def left(workspace: Workspace) -> tuple[int, ...]:
    """Every generation of which either server still shows something."""
    found = set(publications.existing(workspace.source, workspace.names))
    found |= set(slots.existing(workspace.source, workspace.names))
    found |= set(subscriptions.existing(workspace.target, workspace.names))
    return tuple(sorted(found))


def clear_all(workspace: Workspace) -> None:
    """Remove every generation, and what was made for split tables."""
    ranges.drop(workspace)
    for generation in left(workspace):
        clear(workspace, generation)


def emptying_begun(workspace: Workspace) -> tuple[sql.Composed, ...]:
    """What empties the target's tables of which an attempt that broke off has copied some chunks."""
    begun = set(workspace.ledger.begun())
    known = catalog.tables(workspace.source) if begun else ()
    return tuple(emptying(table) for table in known if table.qualified in begun)


def emptying(table: Table) -> sql.Composed:
    """What empties a table of the target, not its partitions."""
    return sql.SQL("TRUNCATE ONLY {}").format(sql.Identifier(table.schema, table.name))


def truncate_begun(workspace: Workspace, units: Sequence[Unit]) -> None:
    """Finish units whose every chunk is in, and empty the tables of those that a lost snapshot cut short."""
    by_id = {unit.id: unit for unit in units}
    for name in workspace.ledger.begun():
        with workspace.writing() as session:
            if workspace.ledger.join_chunks(session, name) is not None:
                continue
            if name in by_id:
                session.execute(emptying(by_id[name].table))
            workspace.ledger.drop_chunks(session, name)
            failpoint("copy.before_emptied")
        failpoint("copy.emptied")
