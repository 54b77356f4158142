"""The faults of a campaign: each breaks one thing, says what it broke, and leaves the servers running."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.clock import SystemClock

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from planrunner.sandbox.servers import PostgresServer
    from tests.faults.forwarder import Forwarder
    from tests.faults.scene import Migration

CLOCK = SystemClock()
BALLAST = tuple(f"ballast_{number}" for number in range(4))
# What befalls the servers, the lines and the sessions; how often each, and which others.
ON_SERVERS: Mapping[str, int] = {
    "session of ours": 6,
    "all sessions of ours": 2,
    "walsender": 3,
    "apply worker": 3,
    "keepers": 2,
    "crash": 3,
    "line": 4,
    "all lines": 3,
    "stranger's lock": 3,
    "storm": 2,
    "sessions of the application": 2,
}
# What befalls the runner.
ON_RUNNER: Mapping[str, int] = {
    "SIGKILL": 3,
    "SIGTERM": 2,
    "frozen, another takes over": 2,
    "failpoint kill": 3,
    "failpoint raise": 3,
    "failpoint stop": 2,
}
_SESSIONS: Mapping[str, bytes] = {
    "session of ours": b"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'planrunner%' ORDER BY pid",
    "all sessions of ours": b"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'planrunner%'",
    "walsender": b"SELECT pid FROM pg_stat_replication ORDER BY pid",
    "apply worker": b"SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL ORDER BY pid",
    # Those that hold the snapshot: ours, in a transaction, and waiting.
    "keepers": (
        b"SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'planrunner%'"
        b" AND state LIKE 'idle in transaction%' ORDER BY backend_start"
    ),
    "sessions of the application": (
        b"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ''"
        b" AND backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid"
    ),
}
_ONE_OF = frozenset({"session of ours", "walsender", "apply worker"})


@dataclass(frozen=True, kw_only=True)
class Side:
    """A server with what stands before it."""

    name: str
    server: PostgresServer
    line: Forwarder
    dsn: str


def sides(one: Migration, lines: tuple[Forwarder, Forwarder]) -> tuple[Side, Side]:
    return (
        Side(name="source", server=one.source, line=lines[0], dsn=one.ours),
        Side(name="target", server=one.target, line=lines[1], dsn=one.theirs),
    )


def on_server(kind: str, chance: random.Random, side: Side) -> str:
    """Break it; what was hit, or nothing where there was nothing to hit."""
    match kind:
        case "crash":
            side.server.stop("immediate")
            # Up to half a second without it: somebody meets a server that is not there.
            CLOCK.sleep(chance.uniform(0, 0.5))
            side.server.start()
            return f"the {side.name} was stopped at once and started"
        case "line" | "all lines":
            many = side.line.reset(chance if kind == "line" else None)
            return f"{many} lines to the {side.name} were reset" if many else ""
        case "stranger's lock":
            return _lock(chance, side)
        case "storm":
            return _storm(chance, side)
        case _:
            # The session that does it may be the one that a fault before it ends.
            with contextlib.suppress(psycopg.OperationalError):
                return _end_sessions(kind, chance, side)
            return ""


def _end_sessions(kind: str, chance: random.Random, side: Side) -> str:
    with _session(side) as session:
        found: list[int] = [row[0] for row in session.execute(_SESSIONS[kind]).fetchall()]
        if kind in _ONE_OF and found:
            found = [chance.choice(found)]
        for number, pid in enumerate(found):
            if number and kind == "keepers":
                # One after another, so that those that are left may be relied on in between.
                CLOCK.sleep(chance.uniform(0, 0.2))
            session.execute("SELECT pg_terminate_backend(%s)", [pid])
    return f"{kind} on the {side.name}: ended {found}" if found else ""


def _lock(chance: random.Random, side: Side) -> str:
    table = chance.choice([*BALLAST, "referee.account", "referee.pile", "referee.list"])
    mode = chance.choice(["ACCESS EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE"])
    seconds = chance.uniform(0.2, 1.5)

    def hold() -> None:
        # The server may be ended meanwhile, or the table not be there yet.
        with contextlib.suppress(psycopg.Error), _session(side, autocommit=False) as session:
            session.execute(f"SET lock_timeout = '1s'; LOCK TABLE {table} IN {mode} MODE".encode())
            CLOCK.sleep(seconds)

    threading.Thread(target=hold, daemon=True).start()
    return f"a stranger on the {side.name} holds {mode} on {table} for {seconds:.1f} s"


def _storm(chance: random.Random, side: Side) -> str:
    statement = chance.choice(["CHECKPOINT", f"VACUUM FULL {chance.choice(BALLAST)}", "ANALYZE"])

    def blow() -> None:
        with contextlib.suppress(psycopg.Error), _session(side) as session:
            session.execute("SET lock_timeout = '1s'")
            for _ in range(3):
                session.execute(statement.encode())

    threading.Thread(target=blow, daemon=True).start()
    return f"{statement} on the {side.name}, three times"


def _session(side: Side, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    return psycopg.connect(side.dsn, autocommit=autocommit, application_name="a stranger")
