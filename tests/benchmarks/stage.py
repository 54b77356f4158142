"""The two servers of a comparison, the lines to them, fresh targets, and the check that a copy is whole."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.clock import SystemClock
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import HOST, SUPERUSER, PostgresServer
from tests.benchmarks.measure import reaped_cpu
from tests.benchmarks.proxy import SlowLine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.data import Case

SOURCE_MAJOR, TARGET_MAJOR = 16, 18
# What somebody sets who loads a database in bulk; fsync and full_page_writes are off, as the sandbox has them.
SETTINGS = {
    "shared_buffers": "512MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "1min",
    "max_connections": "100",
    "max_locks_per_transaction": "256",
    "wal_level": "logical",
}
_SETTLE_ATTEMPTS = 60
_OURS = ["pg_catalog", "information_schema", "planrunner", "pgcopydb", "pg_toast"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database as a runner reaches it: through the line, where there is one."""

    port: int
    database: str
    password: str

    @property
    def uri(self) -> str:
        """For those that take everything in one string."""
        return f"postgresql://{SUPERUSER}:{self.password}@{HOST}:{self.port}/{self.database}?sslmode=disable"

    @property
    def bare_uri(self) -> str:
        """The same without the password."""
        return f"postgresql://{SUPERUSER}@{HOST}:{self.port}/{self.database}?sslmode=disable"


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What must be equal: rows and digest of each table, definitions of indexes and constraints."""

    tables: dict[str, tuple[int, int]]
    definitions: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One case ready to be copied. ``lines`` are the slow ones to source and target, or empty."""

    case: Case
    source_server: PostgresServer
    target_server: PostgresServer
    lines: tuple[SlowLine, ...]
    contents: Contents
    bytes: int

    @property
    def source(self) -> Place:
        """The database to copy."""
        return self._place(self.source_server, 0, _name(self.case))

    @property
    def target(self) -> Place:
        """The database that ``fresh_target`` has made."""
        return self._place(self.target_server, 1, "fresh")

    def _place(self, server: PostgresServer, side: int, database: str) -> Place:
        port = self.lines[side].port if self.lines else server.port
        return Place(port=port, database=database, password=server.password)

    @property
    def target_dsn(self) -> str:
        """The fresh target without the line: for the floor and the check."""
        return self.target_server.dsn(SUPERUSER, "fresh", password=self.target_server.password)

    @property
    def source_dsn(self) -> str:
        """The source without the line."""
        return _source_dsn(self.source_server, self.case)

    def fresh_target(self) -> None:
        """An empty database, and both servers with nothing left to write."""
        with psycopg.connect(self.target_server.superuser_dsn, autocommit=True) as session:
            session.execute("DROP DATABASE IF EXISTS fresh WITH (FORCE)")
            session.execute("CREATE DATABASE fresh TEMPLATE template0")
            session.execute("CHECKPOINT")
        with psycopg.connect(self.source_server.superuser_dsn, autocommit=True) as session:
            session.execute("CHECKPOINT")

    def missing(self) -> str:
        """What the target lacks of the source, in a few words; empty when it is whole."""
        found = contents(self.target_dsn)
        wrong = [name for name, rows in self.contents.tables.items() if found.tables.get(name) != rows]
        absent = self.contents.definitions - found.definitions
        return "; ".join(
            [
                *([f"{len(wrong)} tables differ: {', '.join(wrong[:3])}"] if wrong else []),
                *([f"{len(absent)} definitions are missing: {min(absent)}"] if absent else []),
            ]
        )

    def leave_no_slot(self) -> None:
        """Drop slots and publications that a failed run left on the source."""
        with psycopg.connect(self.source_dsn, autocommit=True) as session:
            session.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active"
            )
            for (name,) in session.execute("SELECT pubname FROM pg_publication").fetchall():
                session.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
            session.execute("DROP SCHEMA IF EXISTS planrunner CASCADE")

    def server_cpu(self) -> tuple[float, float]:
        """Processor seconds of the sessions that have ended, on source and target; waits for the last to end."""
        return session_cpu(self.source_server), session_cpu(self.target_server)

    def turns(self) -> int:
        """How often somebody waited for an answer over the lines, all connections together."""
        return sum(line.counts().turns for line in self.lines)


@contextmanager
def stage(case: Case, *, scale: float, delay: float) -> Iterator[Stage]:
    """Servers, source database and lines for a case; gone at the end."""
    with ExitStack() as stack:
        source = stack.enter_context(
            PostgresServer(wheel_bin(SOURCE_MAJOR), settings=SETTINGS, max_life=14400)
        )
        target = stack.enter_context(
            PostgresServer(wheel_bin(TARGET_MAJOR), settings=SETTINGS, max_life=14400)
        )
        with psycopg.connect(source.superuser_dsn, autocommit=True) as session:
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_name(case))))
        dsn = _source_dsn(source, case)
        case.build(dsn, scale=scale)
        lines = [
            stack.enter_context(SlowLine(server.port, delay=delay))
            for server in ((source, target) if case.slow else ())
        ]
        with psycopg.connect(dsn) as session:
            row = session.execute("SELECT pg_database_size(current_database())").fetchone()
            assert row is not None
        yield Stage(
            case=case,
            source_server=source,
            target_server=target,
            lines=tuple(lines),
            contents=contents(dsn),
            bytes=row[0],
        )


def contents(dsn: str) -> Contents:
    """What a database holds, read without any line and without planrunner's code."""
    with psycopg.connect(dsn) as session:
        names = session.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname <> ALL (%s)", (_OURS,)
        ).fetchall()
        tables: dict[str, tuple[int, int]] = {}
        for schema, name in names:
            row = session.execute(
                sql.SQL(
                    "SELECT count(*), coalesce(sum(hash_record_extended(t.*, 0)), 0)::numeric FROM {} t"
                ).format(sql.Identifier(schema, name))
            ).fetchone()
            assert row is not None
            tables[f"{schema}.{name}"] = (row[0], int(row[1]))
        definitions = session.execute(
            "SELECT indexdef FROM pg_indexes WHERE schemaname <> ALL (%s) UNION"
            " SELECT format('%%s of %%s: %%s', conname, conrelid::regclass, pg_get_constraintdef(c.oid))"
            " FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace"
            " WHERE contype IN ('p', 'u', 'f', 'c') AND nspname <> ALL (%s)",
            (_OURS, _OURS),
        ).fetchall()
    return Contents(tables=tables, definitions=frozenset(row[0] for row in definitions))


def _name(case: Case) -> str:
    return f"case_{case.name}"


def _source_dsn(server: PostgresServer, case: Case) -> str:
    return server.dsn(SUPERUSER, _name(case), password=server.password)


def session_cpu(server: PostgresServer) -> float:
    """Processor seconds of a server's sessions that have ended; waits for the last to end."""
    _settle(server)
    return reaped_cpu(_pid(server))


def _settle(server: PostgresServer) -> None:
    clock = SystemClock()
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        for _ in range(_SETTLE_ATTEMPTS):
            row = session.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND backend_type IN ('client backend', 'walsender', 'parallel worker')"
            ).fetchone()
            if row == (0,):
                return
            clock.sleep(0.05)


def _pid(server: PostgresServer) -> int:
    return int((server.data / "postmaster.pid").read_text().splitlines()[0])
