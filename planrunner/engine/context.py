"""What a run works with: the servers of a plan, who they are, and the plan id that follows from it."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from planrunner.errors import ConnectionFailed, ServerError, ServerReplaced, StateUnfit
from planrunner.step import Held, Run, nowhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from planrunner.aws.rds import Rds
    from planrunner.model import Json, Plan, Secret, SecretRef, StepSpec
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Identity, Server

    Connect: TypeAlias = "Callable[[Plan, str], World]"
    Tell: TypeAlias = "Callable[[str, Mapping[str, Json]], None]"

# The server refuses us (28: authentication, 3D: no such database, 42: privilege): waiting won't help.
_REFUSALS = ("28", "3D", "42")


@dataclass(frozen=True, kw_only=True)
class World:
    """Both servers and the cloud of a plan; ``cloud`` is None when the plan names no RDS instance.

    ``replica`` is the standby that a copy may be read from, None when the plan names none.
    ``resolve`` looks up the secrets that steps refer to, ``watch`` cuts the line to a server that has fallen silent.
    """

    source: Server
    target: Server
    cloud: Rds | None
    replica: Server | None = None
    resolve: Callable[[SecretRef], Secret] = nowhere
    watch: Callable[[Server], AbstractContextManager[None]] = lambda _: nullcontext()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch every line for the length of the block."""
        with ExitStack() as watches:
            for server in self.servers:
                watches.enter_context(self.watch(server))
            yield

    @property
    def servers(self) -> tuple[Server, ...]:
        """The source, the target, and the replica where there is one."""
        return (self.source, self.target, *((self.replica,) if self.replica is not None else ()))

    def on_silence(self, tell: Callable[[str], None]) -> None:
        """``tell`` hears of a line that was cut, at once and from another thread."""
        for server in self.servers:
            server.line.told = tell

    def rename(self, label: str) -> None:
        """What the sessions are called from now on."""
        for server in self.servers:
            server.rename(label)

    def close(self) -> None:
        """Close the sessions that are kept open."""
        for server in self.servers:
            server.close()


@dataclass(frozen=True, kw_only=True)
class Identities:
    """Who the two databases are: ``system identifier/database``; None for a source that is away.

    ``servers`` says of each side that answered what the report tells of it; never a password.
    """

    source: str | None
    target: str
    servers: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Context:
    """An opened plan: its servers, its id, and what its steps hold while the process lives."""

    plan: Plan
    plan_id: str
    identities: Identities
    world: World
    clock: Clock
    held: Held

    def run(self, spec: StepSpec, tell: Tell, planned_before: frozenset[str] = frozenset()) -> Run:
        """What the step ``spec`` sees."""
        return Run(
            plan=self.plan,
            spec=spec,
            plan_id=self.plan_id,
            source=self.world.source,
            target=self.world.target,
            cloud=self.world.cloud,
            replica=self.world.replica,
            clock=self.clock,
            held=self.held,
            tell=tell,
            planned_before=planned_before,
            resolve=self.world.resolve,
        )

    def still_the_same(self, known: Mapping[str, Json]) -> None:
        """StateUnfit when a connection meanwhile leads to another database than ``known`` names."""
        refuse_strangers(identities(self.world, source_may_be_away=True), known)


@contextmanager
def opened(plan: Plan, connect: Connect, clock: Clock, known: Mapping[str, Json]) -> Iterator[Context]:
    """Connect to both servers and learn the plan id; everything is closed at the end of the block.

    ``known`` holds ``plan_id``, ``source`` and ``target`` as an earlier run recorded them, or nothing.
    With a known plan id the source may be away (rebooting): its step will wait for it. Raises
    ConnectionFailed, and StateUnfit when the servers are not the ones that are known.
    """
    plan_id = known.get("plan_id")
    held = Held()
    world = connect(plan, _label(plan_id or plan.name))
    try:
        with world.watched():
            found = identities(world, source_may_be_away=plan_id is not None)
            refuse_strangers(found, known)
            if plan_id is None:
                # Only now it is known what the sessions are to be called.
                plan_id = plan_id_of(plan.name, found)
                world.rename(_label(plan_id))
            yield Context(
                plan=plan, plan_id=str(plan_id), identities=found, world=world, clock=clock, held=held
            )
    finally:
        held.close()
        world.close()


def plan_id_of(name: str, found: Identities) -> str:
    """Eight hexadecimal digits from the plan's name and from what the two databases are."""
    return hashlib.sha256("\0".join((name, str(found.source), found.target)).encode()).hexdigest()[:8]


def identities(world: World, *, source_may_be_away: bool) -> Identities:
    """Ask both servers who they are; ConnectionFailed for one that does not answer."""
    told: list[tuple[Server, Identity]] = []
    try:
        told.append((world.source, world.source.identity()))
    except ServerError as error:
        refused = isinstance(error, ServerReplaced) or (error.sqlstate or "").startswith(_REFUSALS)
        if not source_may_be_away or refused:
            raise
    told.append((world.target, world.target.identity()))
    if source_may_be_away:
        for server, found in told:
            _refuse_standby(server, found)
    names = {server.side.value: f"{found.system_identifier}/{found.database}" for server, found in told}
    return Identities(
        source=names.get("source"),
        target=names["target"],
        servers={server.side.value: _told_of(server, found) for server, found in told},
    )


def _refuse_standby(server: Server, found: Identity) -> None:
    # Slots and subscriptions that a standby does not show are not lost: whoever looks there must not be told so.
    if found.in_recovery:
        side = server.side.value
        raise ConnectionFailed(
            f"{side}: a standby answers at its address, the run so far worked on a primary",
            remedy=f"Wait until the failover is over, or lead the address of connections.{side} to the primary; then run"
            " again.",
            sqlstate="57P03",
        )


def refuse_strangers(found: Identities, known: Mapping[str, Json]) -> None:
    """StateUnfit when a database is not the one that ``known`` names."""
    for side, now in (("source", found.source), ("target", found.target)):
        before = known.get(side)
        if now is not None and before is not None and now != before:
            raise StateUnfit(
                f"{side}: the plan's connection leads to database {now}, the run so far worked on {before}",
                remedy=(
                    f"Point connections.{side} at the former database again; or, for a new migration,"
                    " name another state file with --state."
                ),
            )


def _label(name: Json) -> str:
    return f"planrunner/{name}"


def _told_of(server: Server, found: Identity) -> Mapping[str, Json]:
    # By name, so that nothing else of a DSN gets into the state.
    given = server.parameters()
    return {
        "version": found.version_text,
        "database": found.database,
        "user": found.user,
        "system_identifier": found.system_identifier,
        **{name: given.get(name) for name in ("host", "port", "sslmode")},
    }
