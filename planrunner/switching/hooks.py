"""What is switched, when it is told, and what it knows of the migration."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.switching import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.model import Finding, Json, Secret, SecretRef
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server
    from planrunner.switching.terms import Place

_SETTLE_SECONDS = 30.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where traffic is to go."""

    host: str
    port: str
    database: str


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a switch knows of the migration.

    ``fence_trigger`` and ``fence_function`` are the names by which a committed fence is known; ``budget`` is the
    longest write pause in seconds; ``resolve`` looks a secret up; ``tell`` hears news.
    """

    source: Server
    target: Server
    fence_trigger: str
    fence_function: str
    budget: float
    clock: Clock
    resolve: Callable[[SecretRef], Secret]
    tell: Callable[[str, Mapping[str, Json]], None]

    @property
    def servers(self) -> tuple[Server, Server]:
        """Both of them."""
        return (self.source, self.target)

    def server(self, side: Side) -> Server:
        """The server of a side."""
        return self.source if side is Side.SOURCE else self.target

    def left_behind(self, to: Side) -> Server:
        """The server that the fence stands on when traffic goes ``to`` the other."""
        return self.server(Side.TARGET if to is Side.SOURCE else Side.SOURCE)

    def fence_stands(self, to: Side) -> bool:
        """True when the fence of a switch ``to`` that side is committed.

        Asked once nobody of ours holds its locks any more: a COMMIT whose session broke may still be on its way.
        StepFailed when they are held on and on.
        """
        server = self.left_behind(to)
        label = f"{server.parameters()['application_name']}%"
        deadline = self.clock.monotonic() + _SETTLE_SECONDS
        while server.value(guard.LOCKED, [label]):
            if self.clock.monotonic() > deadline:
                raise StepFailed(
                    f"{server.side.value}: a session of ours still holds the fence's locks",
                    remedy="Its server ends it, after the write pause budget at the latest. Then run again.",
                )
            self.clock.sleep(_POLL_SECONDS)
        return bool(server.value(guard.FENCED, [self.fence_trigger, self.fence_function]))

    def destination(self, side: Side, place: Place) -> Destination:
        """The address of a side: as ``place`` says, else as the plan's DSN does."""
        given = self.server(side).parameters()
        return Destination(
            host=place.host or given.get("host", ""),
            port=str(place.port or given.get("port", "5432")),
            database=place.dbname or given.get("dbname", ""),
        )


class Switch(Protocol):
    """One entry of the plan's ``switch`` list. ``to`` is the side that traffic goes to."""

    @property
    def title(self) -> str:
        """What it is, for messages: ``pgbouncer app``."""
        ...

    def prepare(self, to: Side) -> None:
        """Whatever can be seen to while traffic still flows; what fails here stops the cutover."""
        ...

    def before_fence(self, to: Side) -> None:
        """Hold traffic back where that is possible; what fails here stops the cutover."""
        ...

    def check(self) -> None:
        """StepFailed when what was held back is no longer; asked right before the fence commits."""
        ...

    def after_commit(self, to: Side) -> None:
        """Lead traffic to that side; called again by a resume."""
        ...

    def on_rollback(self, to: Side) -> None:
        """The fence was rolled back: let traffic go on as before, at once."""
        ...

    def findings(self) -> Sequence[Finding]:
        """What would stop it; reads only."""
        ...

    def described(self, to: Side) -> Sequence[str]:
        """The exact commands and calls, in order, secrets as references."""
        ...


class Switching:
    """All entries of a plan, in its order; with none, everything here does nothing."""

    def __init__(self, switches: Sequence[Switch], surroundings: Surroundings) -> None:
        self._switches = tuple(switches)
        self._surroundings = surroundings
        # When traffic was first held back, on the monotonic clock: clients count their pause from here.
        self.since: float | None = None

    def __bool__(self) -> bool:
        return bool(self._switches)

    @contextmanager
    def held(self, to: Side) -> Iterator[None]:
        """Hold traffic back for a fence that is raised and committed in the block.

        When the block fails traffic goes on as before, unless the fence is committed all the same; then it
        keeps waiting, and a resume leads it on.
        """
        self.before_fence(to)
        try:
            yield
        except BaseException:
            self._after_failure(to)
            raise

    def before_fence(self, to: Side) -> None:
        """Every entry in order, all prepared first; when one fails all are let go again."""
        failpoint("switch.before_fence")
        try:
            for switch in self._switches:
                switch.prepare(to)
            self.since = self._surroundings.clock.monotonic() if self._switches else None
            for switch in self._switches:
                switch.before_fence(to)
        except BaseException:
            self._let_go(to)
            raise
        failpoint("switch.held")

    def check(self) -> None:
        """StepFailed when an entry no longer holds traffic back: then the fence must not be committed."""
        for switch in self._switches:
            switch.check()

    def after_commit(self, to: Side) -> None:
        """Every entry in order, each tried whatever became of the others; StepFailed names all failures."""
        failpoint("switch.after_commit")
        _all([(switch, switch.after_commit) for switch in self._switches], to, "could not be switched")
        failpoint("switch.switched")

    def on_rollback(self, to: Side) -> None:
        """Every entry, the last first, each tried whatever became of the others; StepFailed names all failures."""
        undone = [(switch, switch.on_rollback) for switch in reversed(self._switches)]
        _all(undone, to, "could not be let go again")

    def _after_failure(self, to: Side) -> None:
        """Let traffic go on unless the fence is committed. Where that can't be told, its guardian goes on asking."""
        if not self._switches:
            return
        try:
            committed = self._surroundings.fence_stands(to)
        except PlanrunnerError as error:
            self._surroundings.tell(f"clients are held back still: {error}", {"switch": to.value})
            return
        if not committed:
            self._let_go(to)

    def _let_go(self, to: Side) -> None:
        """As ``on_rollback``, but a failure is told: another error is on its way already."""
        try:
            self.on_rollback(to)
        except PlanrunnerError as error:
            self._surroundings.tell(str(error), {"switch": to.value})

    def findings(self) -> tuple[Finding, ...]:
        """What would stop each of them."""
        return tuple(finding for switch in self._switches for finding in switch.findings())

    def described(self, to: Side) -> tuple[str, ...]:
        """The exact commands and calls of all, in order."""
        return tuple(f"-- {s.title}: {line}" for s in self._switches for line in _described(s, to))


def _described(switch: Switch, to: Side) -> Sequence[str]:
    try:
        return switch.described(to)
    except PlanrunnerError as error:
        # The preflight tells it too; a preview shows the rest of the plan all the same.
        return [error.message]


def _all(calls: Sequence[tuple[Switch, Callable[[Side], None]]], to: Side, what: str) -> None:
    failures: list[tuple[str, PlanrunnerError]] = []
    for switch, call in calls:
        try:
            call(to)
        except PlanrunnerError as error:
            failures.append((switch.title, error))
    if failures:
        raise StepFailed(
            "; ".join(f"{title} {what}: {error.message}" for title, error in failures),
            remedy="\n".join(error.remedy for _, error in failures if error.remedy) or None,
        )
