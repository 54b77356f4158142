"""A copy from a server that stands still: the slots first, then the standby is frozen, then its end is where they go on.

Nothing is held while rows are copied, so nothing is lost with the process: whoever comes next finds in the ledger what
was captured, looks whether the server still stands there, and copies what is left. What the source committed up to the
end of the last record that was replayed is in the copy, what comes after it is in the stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from planrunner.errors import ServerError, SnapshotLost, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.lsn import Lsn
from planrunner.replication import freezing, slots, standby
from planrunner.replication.workspace import Round, Way

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.freezing import Stand
    from planrunner.replication.units import Unit
    from planrunner.replication.workspace import Workspace

STEP = "frozen"
_CALLED = {Way.PAUSE: "standby", Way.PROMOTE: "standby", Way.RESTORE: "restored server", Way.CLONE: "clone"}
# What a server is that replays nothing.
_STOOD = {Way.PAUSE: "promoted", Way.PROMOTE: "promoted", Way.RESTORE: "restored", Way.CLONE: "cloned"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the ledger says of a generation that is copied from a frozen server.

    ``tables`` are what it copies, ``slot_at`` is where its slot began, ``stand`` where the server stands; None while
    it is not frozen yet.
    """

    tables: tuple[str, ...]
    slot_at: Lsn
    stand: Stand | None = None

    def to_json(self) -> Mapping[str, Json]:
        """As the ledger keeps it."""
        stand = None if self.stand is None else self.stand.to_json()
        return {"tables": list(self.tables), "slot_at": str(self.slot_at), "stand": stand}


def recorded(workspace: Workspace) -> dict[int, Record]:
    """The generations that were captured for a frozen server."""
    found = workspace.ledger.effects(STEP)
    return {
        int(name): Record(
            tables=tuple(detail["tables"]),
            slot_at=Lsn.parse(detail["slot_at"]),
            stand=None if detail["stand"] is None else freezing.Stand.of(detail["stand"]),
        )
        for name, detail in found.items()
        if name.isdigit()
    }


def begins(workspace: Workspace, generation: int) -> Lsn | None:
    """Where a generation's subscription has to begin; None where that is where its slot stands."""
    found = recorded(workspace).get(generation)
    return None if found is None or found.stand is None else found.stand.end


def adoptable(workspace: Workspace) -> tuple[int, ...]:
    """The generations that a copy can go on with: their slots serve, and the server stands where it was frozen.

    Those that were not frozen yet, too. Reads only; ServerError where the server is away.
    """
    if workspace.freezing is None:
        return ()
    there = slots.existing(workspace.source, workspace.names)
    known = {g: r for g, r in recorded(workspace).items() if g in there and there[g].lost is None}
    if not known:
        return ()
    return tuple(sorted(g for g, record in known.items() if _serves(workspace, g, record)))


def _serves(workspace: Workspace, generation: int, record: Record) -> bool:
    server = freezing.server_of(workspace, generation)
    if server is None:
        # It may still be restored.
        return record.stand is None
    if record.stand is not None:
        return record.stand.is_of(freezing.look(server, record.stand.way))
    now = freezing.look(server, freezing.begun(workspace))
    return now.recovering or freezing.begun(workspace) is not None


def dealt(workspace: Workspace, units: Sequence[Unit], generations: Sequence[int]) -> dict[int, list[Unit]]:
    """``units`` as ``generations`` were captured for them; StepFailed for those that none was."""
    known = recorded(workspace)
    owners = {table: g for g in generations for table in known[g].tables}
    strange = sorted({unit.table.qualified for unit in units} - owners.keys())
    if strange:
        raise StepFailed(
            f"source: {', '.join(strange)}: came after the standby was frozen, its rows can't be copied from there",
            remedy="Leave them out (filters.exclude in the snapshot step), or begin anew: `planrunner cleanup`, empty the"
            " target, run again.",
        )
    groups: dict[int, list[Unit]] = {generation: [] for generation in generations}
    for unit in units:
        groups[owners[unit.table.qualified]].append(unit)
    return groups


def hold(workspace: Workspace, groups: Mapping[int, Sequence[Unit]]) -> Round:
    """Make the slots of ``groups``, freeze the server behind all of them, and find out where it stands.

    Each of it once: what an earlier process did of it stands in the ledger.
    """
    freezing.refuse_strange(workspace)
    known = recorded(workspace)
    if not known.keys() >= groups.keys():
        for generation in groups:
            slots.create_plain(workspace, generation)
        known = _captured(workspace, groups)
    mine = {generation: known[generation] for generation in groups}
    if any(record.stand is None for record in mine.values()):
        stand = freezing.freeze(workspace, min(groups), max(record.slot_at for record in mine.values()))
        mine = {generation: replace(record, stand=stand) for generation, record in mine.items()}
        _record(workspace, mine)
        failpoint("frozen.recorded")
        workspace.tell(
            f"the {_CALLED[stand.way]} stands still at {stand.end}: {len(groups)} slots go on from there",
            {"lsn": str(stand.end), "way": stand.way.value},
        )
    stands = {g: record.stand for g, record in mine.items() if record.stand is not None}
    return Round(
        snapshots={g: Still(workspace.bulk, g, stand) for g, stand in stands.items()},
        generation_of={unit.id: g for g, units in groups.items() for unit in units},
    )


def _captured(workspace: Workspace, groups: Mapping[int, Sequence[Unit]]) -> dict[int, Record]:
    """Record the slots that were made for ``groups``."""
    there = slots.existing(workspace.source, workspace.names)
    made: dict[int, Record] = {}
    for generation, units in groups.items():
        at = there[generation].confirmed
        assert at is not None
        tables = tuple(sorted({unit.table.qualified for unit in units}))
        made[generation] = Record(tables=tables, slot_at=at)
    _record(workspace, made)
    failpoint("frozen.captured")
    return made


def _record(workspace: Workspace, records: Mapping[int, Record]) -> None:
    with workspace.writing() as session:
        for generation, record in records.items():
            workspace.ledger.record_effect(session, STEP, str(generation), record.to_json())
        failpoint("frozen.before_record")


def forget(workspace: Workspace, generation: int) -> None:
    """Forget what was captured for a generation that is taken away."""
    if str(generation) in workspace.ledger.effects(STEP):
        with workspace.writing() as session:
            workspace.ledger.forget_effects(session, STEP, str(generation))
            failpoint("frozen.before_forget")


class Still:
    """A server that stands where it was frozen; every session sees the same until somebody lets it go on."""

    def __init__(self, server: Server, generation: int, stand: Stand) -> None:
        self.generation = generation
        self._server = server
        self._stand = stand

    @property
    def server(self) -> Server:
        """The frozen one."""
        return self._server

    @property
    def name(self) -> None:
        """No snapshot has to be imported."""
        return

    @property
    def token(self) -> Stand:
        """Where it stands."""
        return self._stand

    def alive(self) -> bool:
        """False where it has moved on, or is away."""
        try:
            return self._stand.is_of(freezing.look(self._server, self._stand.way))
        except ServerError:
            return False

    def begin(self) -> Session:
        """Open a session in a transaction that sees what it shows, which the caller closes."""
        session = self._server.open(read_only=True)
        try:
            with self._server.translated("read the frozen standby"):
                session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                session.execute("SELECT pg_current_snapshot()")
            self.confirm()
        except BaseException:
            session.close()
            raise
        return session

    def confirm(self) -> None:
        """SnapshotLost where it has moved on: it never comes back, so until now it had not."""
        now = freezing.look(self._server, self._stand.way)
        if not self._stand.is_of(now):
            raise SnapshotLost(
                f"{self._server.side.value}: it stood still at {self._stand.end} and does so no more:"
                f" {self._stand.difference(now)}",
                remedy="Run again: what was copied stays copied; the rest needs another slot, and a standby to freeze.",
            )

    def close(self) -> None:
        """Nothing is held."""


def let_go(workspace: Workspace) -> None:
    """Let a standby that this plan has paused replay again, or remove what was restored; a promoted one stays.

    Safe to repeat.
    """
    way = freezing.begun(workspace)
    if way is None or workspace.freezing is None:
        return
    match way:
        case Way.PAUSE:
            standby.resume(workspace.bulk)
        case Way.PROMOTE:
            pass
        case Way.RESTORE | Way.CLONE:
            freezing.remove_restored(workspace, way)
        case _:
            assert_never(way)
    freezing.ended(workspace)


def state(workspace: Workspace) -> Mapping[str, Json]:
    """How the frozen server does, for status and report; empty where there is none."""
    if workspace.freezing is None:
        return {}
    ends = sorted({str(r.stand.end) for r in recorded(workspace).values() if r.stand is not None})
    way = freezing.begun(workspace) or workspace.freezing.way
    figures: dict[str, Json] = {"way": way.value, "ends": ends}
    try:
        held = recorded(workspace)
        server = freezing.server_of(workspace, max(held, default=1))
        if server is None:
            return {**figures, "state": "not restored"}
        now = freezing.look(server, way)
    except ServerError as error:
        return {**figures, "state": f"away: {error.message}"}
    return {
        **figures,
        "state": now.state or _STOOD[way],
        "replayed": str(now.end),
    }
