"""The stream that leads back: made while writers are still on the side that publishes nothing yet, begun when they cross.

Whoever crosses from one side to the other leaves a way to return: the side they go to publishes from its very first
write, and the side they leave subscribes. The slot is made before the pause (that waits for open transactions) and
moved, inside it, past everything that the stream in use has brought; so nothing comes back as an echo, whatever the
servers' versions. The subscription is made when the stream in use is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from psycopg import conninfo, sql

from planrunner.errors import StepBlocked, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import quiet
from planrunner.postgres.dialled import bounded, place_of
from planrunner.replication import (
    barrier,
    generations,
    ledger,
    logins,
    origins,
    publications,
    slots,
    subscriptions,
)
from planrunner.replication.ends import Ends
from planrunner.replication.units import Unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.lsn import Lsn
    from planrunner.replication.workspace import Workspace

ORIGIN_NONE_SINCE = 160000
POLL_SECONDS = 0.005
_POSITION_SECONDS = 120.0


class ReturnStream(Protocol):
    """What keeps the side that is left up to date; ``prepare`` before the pause, ``align`` in it, ``start`` after."""

    def prepare(self) -> None:
        """Make publication, barrier and slot, and try the subscription; what an earlier attempt left goes first."""
        ...

    def align(self, timeout: float) -> Lsn:
        """Inside the pause: move the slot past everything that is committed now, within ``timeout`` seconds."""
        ...

    def start(self, aligned: Lsn | None) -> None:
        """Once the former stream is gone: subscribe, from ``aligned`` on."""
        ...

    def forget(self) -> None:
        """Take away what was prepared."""
        ...


@dataclass(frozen=True, kw_only=True)
class Back:
    """From target to source, after a cutover."""

    workspace: Workspace
    tables: tuple[Table, ...]

    def prepare(self) -> None:
        """As ``ReturnStream`` says."""
        space = self.workspace
        drop_back(space)
        for server in (space.source, space.target):
            with space.writing_to(server) as session:
                session.execute("SET LOCAL client_min_messages = warning")
                session.execute(ledger.CREATE[0])
                session.execute(publications.marker_table(space.names.back_barrier))
        space.target.execute(*back_publication(space, self.tables))
        failpoint("back.published")
        slots.create_named(space, space.target, space.names.back)
        failpoint("back.slot_made")
        _try(space, _subscription(space))

    def align(self, timeout: float) -> Lsn:
        """As ``ReturnStream`` says."""
        return slots.advance_to_now(self.workspace.target, self.workspace.names.back, timeout=timeout)

    def start(self, aligned: Lsn | None) -> None:
        """As ``ReturnStream`` says; nothing happens when it was started before."""
        space, name = self.workspace, self.workspace.names.back
        there = subscriptions.shown(space.source, name).get(name)
        if there is not None and there.enabled:
            return
        if there is None:
            self._subscribe()
        if aligned is not None:
            origins.settle(space, space.source, name, aligned, needed=False)
        with space.writing_to(space.source) as session:
            session.execute(subscriptions.starting(name))
            failpoint("back.before_start")
        failpoint("back.started")
        if aligned is not None and not space.source.value(origins.MAY_MOVE):
            # Until something was applied only the slot knows where it stands, and in a crash it forgets that.
            wait_back(space, _POSITION_SECONDS)

    def _subscribe(self) -> None:
        space, name = self.workspace, self.workspace.names.back
        made = _subscription(space)
        with space.writing() as session:
            origins.made(space, session, name)
        with space.writing_to(space.source) as session:
            session.execute("SET LOCAL client_min_messages = warning")
            with bounded(space.source, session, _dialled(space)), quiet.unrecorded(session):
                session.execute(made)
            session.execute(subscriptions.owning(space.names, name))
            failpoint("back.before_subscribe")
        failpoint("back.subscribed")

    def forget(self) -> None:
        """As ``ReturnStream`` says."""
        drop_back(self.workspace)


@dataclass(frozen=True, kw_only=True)
class Onward:
    """From source to target again, after a rollback: a further generation, of whole tables."""

    workspace: Workspace
    tables: tuple[Table, ...]
    generation: int

    @property
    def units(self) -> list[Unit]:
        """What the generation follows."""
        return [Unit(table=table) for table in self.tables]

    def prepare(self) -> None:
        """As ``ReturnStream`` says."""
        space = self.workspace
        generations.clear(space, self.generation)
        generations.create_publications(space, self.generation, self.units)
        generations.barrier_on_target(space, self.generation)
        failpoint("onward.published")
        slots.create_plain(space, self.generation)
        failpoint("onward.slot_made")

    def align(self, timeout: float) -> Lsn:
        """As ``ReturnStream`` says."""
        name = self.workspace.names.stream(self.generation)
        return slots.advance_to_now(self.workspace.source, name, timeout=timeout)

    def start(self, aligned: Lsn | None) -> None:
        """As ``ReturnStream`` says; the ledger's units belong to the generation already."""
        space = self.workspace
        generations.subscribe(space, self.tables, self.generation, aligned)
        failpoint("onward.started")
        if aligned is not None and not space.target.value(origins.MAY_MOVE):
            barrier.wait(space, (self.generation,), timeout=_POSITION_SECONDS)

    def forget(self) -> None:
        """As ``ReturnStream`` says."""
        generations.clear(self.workspace, self.generation)


def refuse_unable(workspace: Workspace, followed: Sequence[Table], late: Sequence[Table]) -> None:
    """StepBlocked when there can be no way back from the target: it can't decode, or tables can't be followed."""
    bare = [t.qualified for t in (*followed, *late) if t in late or workspace.choices.insert_only(t)]
    if bare:
        raise StepBlocked(
            f"reverse: true can't bring back what is written to {', '.join(bare)}: nothing tells their rows apart",
            remedy="Choose full or index for them in the snapshot step's without_replica_identity, or leave reverse out.",
        )
    level = workspace.target.value("SELECT current_setting('wal_level')")
    if level != "logical":
        raise StepBlocked(
            f"target: wal_level is {level}, so nothing written there can be brought back (reverse: true)",
            remedy="Set wal_level = logical on the target and restart it; on a managed service its switch for logical"
            " replication. Or leave reverse out: then there is no rollback after the cutover.",
        )


def back_publication(workspace: Workspace, tables: Sequence[Table]) -> tuple[sql.Composed, ...]:
    """What makes the publication on the target."""
    names = workspace.names
    # Every row of a table comes back, whatever a filter left behind.
    units = [Unit(table=replace(table, where=None)) for table in tables]
    return tuple(publications.named(names, names.back, units, truncate=True, barrier=names.back_barrier))


def _subscription(workspace: Workspace) -> sql.Composed:
    return subscription_statement(workspace, logins.credentials(workspace, workspace.target))


def subscription_statement(workspace: Workspace, known: Mapping[str, str]) -> sql.Composed:
    """CREATE SUBSCRIPTION on the source, not yet enabled; ``known`` is its login as its conninfo has it."""
    name = workspace.names.back
    dial = conninfo.make_conninfo("", **{**subscriptions.dial_parameters(workspace.target), **known})
    # The slot skips what the former stream brought; from 16 on the origin tells it too.
    origin = workspace.source.version() >= ORIGIN_NONE_SINCE
    return sql.SQL(
        "CREATE SUBSCRIPTION {name} CONNECTION {dial} PUBLICATION {name}"
        " WITH (create_slot = false, copy_data = false, enabled = false, slot_name = {slot},"
        " {commits}{origin})"
    ).format(
        name=sql.Identifier(name),
        dial=sql.Literal(dial),
        slot=sql.Literal(name),
        commits=subscriptions.committing(synchronous=workspace.terms.synchronous is not False),
        origin=sql.SQL(", origin = none" if origin else ""),
    )


def _dialled(workspace: Workspace) -> str:
    return place_of(subscriptions.dial_parameters(workspace.target))


def _try(workspace: Workspace, statement: sql.Composed) -> None:
    """Execute a statement in a transaction that is rolled back: what it would be refused for is known beforehand."""
    server = workspace.source
    session = server.open(read_only=False, autocommit=False)
    try:
        with server.translated("subscribe to the other side"):
            session.execute("SET LOCAL client_min_messages = error")
            with bounded(server, session, _dialled(workspace)), quiet.unrecorded(session):
                session.execute(statement)
    finally:
        # Rolls back too, and minds no session that is broken.
        session.close()


def drop_back(workspace: Workspace) -> None:
    """Remove the way back from both servers: subscription, slot, login, publication, barrier tables."""
    names = workspace.names
    subscriptions.drop_named(workspace, workspace.source, names.back)
    slots.drop_named(workspace, workspace.target, names.back)
    logins.drop(workspace, workspace.target)
    with workspace.writing_to(workspace.target) as session:
        session.execute("SET LOCAL client_min_messages = warning")
        session.execute(publications.dropping(names.back))
    failpoint("back.unpublished")
    for server in (workspace.source, workspace.target):
        with workspace.writing_to(server) as session:
            session.execute("SET LOCAL client_min_messages = warning")
            session.execute(publications.dropping_marker(names.back_barrier))
        failpoint("back.marker_dropped")


def following_back(workspace: Workspace) -> bool:
    """True while the source is subscribed to the target."""
    return subscriptions.following_back(workspace)


def back_exists(workspace: Workspace) -> bool:
    """True while either server shows something of the way back."""
    names = workspace.names
    return bool(
        subscriptions.shown(workspace.source, names.back)
        or slots.shown(workspace.target, names.back)
        or workspace.target.value(
            "SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = %s)", [names.back]
        )
    )


def wait_back(workspace: Workspace, timeout: float) -> float:
    """Wait until the source shows everything that is committed on the target now; returns the seconds taken.

    StepFailed when ``timeout`` seconds pass.
    """
    begun = workspace.clock.monotonic()
    table = workspace.names.back_barrier
    token = barrier.mark(workspace.target, table)
    while not barrier.arrived(workspace.source, table, token):
        if workspace.clock.monotonic() - begun > timeout:
            raise StepFailed(
                f"the source did not catch up with the target within {timeout:.1f} s: {back_state(workspace)}",
                remedy="Look at the source's log and pg_stat_subscription there; run again to go on waiting.",
            )
        workspace.rest(POLL_SECONDS)
    return workspace.clock.monotonic() - begun


def ends_back(workspace: Workspace) -> Ends:
    """The way back as the comparison sees it: the target publishes, the source subscribes."""
    return Ends(
        publisher=workspace.target,
        subscriber=workspace.source,
        publications=(workspace.names.back,),
        wait=lambda timeout: wait_back(workspace, timeout),
    )


def back_state(workspace: Workspace) -> str:
    """What both servers say of the way back, in one line."""
    name = workspace.names.back
    made = subscriptions.shown(workspace.source, name).get(name)
    slot = slots.shown(workspace.target, name).get(name)
    if made is None:
        return f"the source has no subscription {name}"
    if slot is None:
        return f"the target has no slot {name}"
    worker = f"worker {made.pid or 'not running'}" if made.enabled else "disabled"
    state = slot.lost or slot.wal_status
    return f"{name}: {worker}, {made.errors} apply errors, {slot.behind} bytes behind, slot {state}"


def back_figures(workspace: Workspace) -> dict[str, int | str]:
    """The state of the way back for status and report; empty where there is none."""
    name = workspace.names.back
    made = subscriptions.shown(workspace.source, name).get(name)
    slot = slots.shown(workspace.target, name).get(name)
    if made is None and slot is None:
        return {}
    figures: dict[str, int | str] = {"slot": "missing"}
    if slot is not None:
        figures = {
            "slot": slot.lost or slot.wal_status or "",
            "retained_bytes": slot.retained,
            "lag_bytes": slot.behind,
        }
    if made is not None:
        figures["worker"] = f"pid {made.pid}" if made.pid else "not running" if made.enabled else "disabled"
        figures["errors"] = made.errors
    return figures
