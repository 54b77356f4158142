"""The ledger on the target: what is copied, what is done, and who may write (the lease).

Schema ``planrunner``: ``lease`` one row a plan, its epoch raised by every runner that takes over;
``unit`` one row a copied unit, committed with its rows; ``chunk`` one row for each part of a unit that is
not whole yet; ``effect`` one row for each thing done once; ``proof`` one row for each bucket
of a table that was found equal on both sides, ``touched`` one for each of their rows that changed since.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql

from planrunner.errors import LeaseLost
from planrunner.failpoints import failpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planrunner.model import Json
    from planrunner.postgres.connection import Server, Session

CREATE = (
    "CREATE SCHEMA IF NOT EXISTS planrunner",
    "CREATE TABLE IF NOT EXISTS planrunner.lease (plan_id text PRIMARY KEY, epoch bigint NOT NULL,"
    " holder text NOT NULL, heartbeat timestamptz NOT NULL DEFAULT clock_timestamp())",
    "CREATE TABLE IF NOT EXISTS planrunner.unit (plan_id text, unit_id text, generation int NOT NULL,"
    " rows bigint NOT NULL, bytes bigint NOT NULL, seconds float8 NOT NULL, epoch bigint NOT NULL,"
    " done timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (plan_id, unit_id))",
    "CREATE TABLE IF NOT EXISTS planrunner.chunk (plan_id text, unit_id text, chunk int, chunks int NOT NULL,"
    " generation int NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL, seconds float8 NOT NULL,"
    " epoch bigint NOT NULL, PRIMARY KEY (plan_id, unit_id, chunk))",
    "CREATE TABLE IF NOT EXISTS planrunner.proof (plan_id text, relation text, bucket int, rows bigint NOT NULL,"
    " seen text NOT NULL, at_once boolean NOT NULL, PRIMARY KEY (plan_id, relation, bucket))",
    "CREATE TABLE IF NOT EXISTS planrunner.touched (plan_id text NOT NULL, relation text NOT NULL,"
    " key text NOT NULL, xid bigint NOT NULL)",
    "CREATE TABLE IF NOT EXISTS planrunner.effect (plan_id text, step text, name text, detail jsonb NOT NULL,"
    " done timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (plan_id, step, name))",
)

# Once no plan has anything in it.
DROP: tuple[LiteralString, ...] = (
    "DROP TABLE IF EXISTS planrunner.proof, planrunner.touched",
    "DROP TABLE planrunner.effect, planrunner.unit, planrunner.chunk, planrunner.lease",
    "DROP SCHEMA planrunner",
)


@dataclass(frozen=True, kw_only=True)
class Copied:
    """A unit that was copied: under which generation, and how much."""

    generation: int
    rows: int
    bytes: int
    seconds: float


class Ledger:
    """Reads and writes the ledger of one plan; ``removed`` once it was taken away with the plan's last record."""

    def __init__(self, target: Server, plan_id: str) -> None:
        self.removed = False
        self._target = target
        self._plan_id = plan_id

    def exists(self) -> bool:
        """True when the ledger's tables are there."""
        return bool(self._target.value("SELECT to_regclass('planrunner.effect') IS NOT NULL"))

    def units(self) -> dict[str, Copied]:
        """The finished units by unit id (``schema.table``, ``schema.table#3``)."""
        if not self.exists():
            return {}
        rows = self._target.rows(
            "SELECT unit_id, generation, rows, bytes, seconds FROM planrunner.unit WHERE plan_id = %s",
            [self._plan_id],
        )
        return {r[0]: Copied(generation=r[1], rows=r[2], bytes=r[3], seconds=r[4]) for r in rows}

    def done(self) -> tuple[dict[str, int], int, int]:
        """How many units of each table are finished, their rows and bytes together: a line a table, not a unit."""
        if not self.exists():
            return {}, 0, 0
        found = self._target.rows(
            # A name that has a # itself is quoted.
            "SELECT regexp_replace(unit_id, '#[0-9]+$', ''), count(*), sum(rows)::bigint, sum(bytes)::bigint"
            " FROM planrunner.unit WHERE plan_id = %s GROUP BY 1",
            [self._plan_id],
        )
        return {row[0]: row[1] for row in found}, sum(row[2] for row in found), sum(row[3] for row in found)

    def begun(self) -> tuple[str, ...]:
        """The units of which some chunks are copied, but not all."""
        if not self.exists():
            return ()
        rows = self._target.rows(
            "SELECT DISTINCT unit_id FROM planrunner.chunk WHERE plan_id = %s ORDER BY 1", [self._plan_id]
        )
        return tuple(str(row[0]) for row in rows)

    def chunk(self, unit_id: str, number: int) -> Copied | None:
        """A copied chunk of a unit that is not whole yet, None when it is not on record."""
        row = self._target.row(
            "SELECT generation, rows, bytes, seconds FROM planrunner.chunk"
            " WHERE plan_id = %s AND unit_id = %s AND chunk = %s",
            [self._plan_id, unit_id, number],
        )
        return None if row is None else Copied(generation=row[0], rows=row[1], bytes=row[2], seconds=row[3])

    def generations(self) -> tuple[int, ...]:
        """The generations that hold finished units, in order."""
        if not self.exists():
            return ()
        rows = self._target.rows(
            "SELECT DISTINCT generation FROM planrunner.unit WHERE plan_id = %s ORDER BY 1", [self._plan_id]
        )
        return tuple(row[0] for row in rows)

    def generations_of(self, units: Sequence[str]) -> frozenset[int]:
        """The generations of those of ``units`` that are finished."""
        rows = self._target.rows(
            "SELECT DISTINCT generation FROM planrunner.unit WHERE plan_id = %s AND unit_id = ANY (%s)",
            [self._plan_id, list(units)],
        )
        return frozenset(row[0] for row in rows)

    def effects(self, step: str) -> dict[str, Any]:
        """What a kind of step has done once, by name, with the detail it recorded."""
        if not self.exists():
            return {}
        rows = self._target.rows(
            "SELECT name, detail FROM planrunner.effect WHERE plan_id = %s AND step = %s",
            [self._plan_id, step],
        )
        return {row[0]: row[1] for row in rows}

    def all_effects(self) -> tuple[tuple[str, str], ...]:
        """Everything that was done once, as (kind of step, name)."""
        if not self.exists():
            return ()
        rows = self._target.rows(
            "SELECT step, name FROM planrunner.effect WHERE plan_id = %s ORDER BY 1, 2", [self._plan_id]
        )
        return tuple((str(row[0]), str(row[1])) for row in rows)

    def unit_statement(self, units: Mapping[str, Copied], epoch: int) -> sql.Composed:
        """The INSERT that records ``units``, for the transaction that copied their rows."""
        rows = [
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    map(
                        sql.Literal,
                        (self._plan_id, name, u.generation, u.rows, u.bytes, u.seconds, epoch),
                    )
                )
            )
            for name, u in units.items()
        ]
        return sql.SQL(
            "INSERT INTO planrunner.unit (plan_id, unit_id, generation, rows, bytes, seconds, epoch) VALUES {}"
        ).format(sql.SQL(", ").join(rows))

    def chunk_statement(
        self, unit_id: str, place: tuple[int, int], copied: Copied, epoch: int
    ) -> sql.Composed:
        """What records chunk ``place`` (its number, of how many) of a unit; refused (23505) once the unit is whole.

        Then its chunks are no more on record: one that was copied twice would find nothing in its way.
        """
        number, chunks = place
        values = (self._plan_id, unit_id, number, chunks, copied.generation, copied.rows, copied.bytes)
        return sql.SQL(
            "INSERT INTO planrunner.chunk VALUES ({});"
            " INSERT INTO planrunner.unit SELECT * FROM planrunner.unit WHERE plan_id = {} AND unit_id = {}"
        ).format(
            sql.SQL(", ").join(map(sql.Literal, (*values, copied.seconds, epoch))),
            sql.Literal(self._plan_id),
            sql.Literal(unit_id),
        )

    def join_chunks(self, session: Session, unit_id: str) -> Copied | None:
        """Make a unit of its chunks in the caller's transaction; None when not all of them are there."""
        row = session.execute(
            "WITH found AS (SELECT min(generation) AS generation, sum(rows)::bigint AS rows,"
            " sum(bytes)::bigint AS bytes, sum(seconds) AS seconds, max(epoch) AS epoch FROM planrunner.chunk"
            "  WHERE plan_id = %(plan)s AND unit_id = %(unit)s HAVING count(*) = min(chunks)),"
            " made AS (INSERT INTO planrunner.unit (plan_id, unit_id, generation, rows, bytes, seconds, epoch)"
            "  SELECT %(plan)s, %(unit)s, generation, rows, bytes, seconds, epoch FROM found"
            "  RETURNING generation, rows, bytes, seconds),"
            " gone AS (DELETE FROM planrunner.chunk WHERE plan_id = %(plan)s AND unit_id = %(unit)s"
            "  AND EXISTS (SELECT FROM found)) SELECT * FROM made",
            {"plan": self._plan_id, "unit": unit_id},
        ).fetchone()
        if row is None:
            return None
        return Copied(generation=row[0], rows=row[1], bytes=row[2], seconds=row[3])

    def give_units(self, session: Session, units: Sequence[str], generation: int) -> None:
        """Let ``generation`` follow ``units`` from now on, in the caller's transaction."""
        session.execute(
            "UPDATE planrunner.unit SET generation = %s WHERE plan_id = %s AND unit_id = ANY (%s)",
            [generation, self._plan_id, list(units)],
        )

    def drop_chunks(self, session: Session, unit_id: str) -> None:
        """Forget the chunks of a unit in the caller's transaction, the one that removes their rows."""
        session.execute(
            "DELETE FROM planrunner.chunk WHERE plan_id = %s AND unit_id = %s", [self._plan_id, unit_id]
        )

    def record_effect(self, session: Session, step: str, name: str, detail: Mapping[str, Json]) -> None:
        """Record something as done in the caller's transaction; a second time replaces the detail."""
        session.execute(self.effect_statement(step, name, detail))

    def effect_statement(self, step: str, name: str, detail: Mapping[str, Json]) -> sql.Composed:
        """The INSERT of ``record_effect``."""
        return sql.SQL(
            "INSERT INTO planrunner.effect (plan_id, step, name, detail) VALUES ({}, {}, {}, {}::jsonb)"
            " ON CONFLICT (plan_id, step, name) DO UPDATE SET detail = excluded.detail, done = clock_timestamp()"
        ).format(*map(sql.Literal, (self._plan_id, step, name, json.dumps(detail))))

    def forget_effects(self, session: Session, step: str, *names: str) -> None:
        """Remove effects of those names in the caller's transaction."""
        session.execute(
            "DELETE FROM planrunner.effect WHERE plan_id = %s AND step = %s AND name = ANY (%s)",
            [self._plan_id, step, list(names)],
        )

    def follow_anew(self, session: Session, tables: Sequence[str], generation: int) -> None:
        """Let ``generation`` follow ``tables`` whole, in the caller's transaction, however they were copied."""
        session.execute(
            "WITH gone AS (DELETE FROM planrunner.unit WHERE plan_id = %(plan)s"
            "  RETURNING split_part(unit_id, '#', 1) AS name, rows, bytes, seconds, epoch)"
            " INSERT INTO planrunner.unit (plan_id, unit_id, generation, rows, bytes, seconds, epoch)"
            " SELECT %(plan)s, t.name, %(generation)s, coalesce(sum(rows), 0)::bigint,"
            "  coalesce(sum(bytes), 0)::bigint, coalesce(sum(seconds), 0), coalesce(max(epoch), 0)"
            " FROM unnest(%(tables)s::text[]) t(name) LEFT JOIN gone ON gone.name = t.name GROUP BY t.name",
            {"plan": self._plan_id, "tables": list(tables), "generation": generation},
        )

    def forget(self, step: str) -> None:
        """Remove what a kind of step recorded, and the whole ledger once no plan has anything in it."""
        if not self.exists():
            return
        with self._target.transaction() as session:
            session.execute(forgetting(self._plan_id, step))
            if step == "snapshot":
                for table in ("unit", "chunk", *self._proof_tables()):
                    session.execute(_emptying(self._plan_id, table))
            left = session.execute(
                "SELECT (SELECT count(*) FROM planrunner.effect) + (SELECT count(*) FROM planrunner.unit)"
                " + (SELECT count(*) FROM planrunner.lease WHERE plan_id <> %s)",
                [self._plan_id],
            ).fetchone()
            if left == (0,):
                for statement in DROP[:2]:
                    session.execute(statement)
                _drop_empty_schema(session)
                self.removed = True
                self._target.known_epoch = 0
            failpoint("ledger.before_forget")
        failpoint("ledger.forgotten")

    def _proof_tables(self) -> tuple[str, ...]:
        # A ledger that an older release made has none until its lease is taken again.
        there = self._target.value("SELECT to_regclass('planrunner.proof') IS NOT NULL")
        return ("proof", "touched") if there else ()


def forgetting(plan_id: str, step: str) -> sql.Composed:
    """What removes the effects that a kind of step recorded."""
    return sql.SQL("DELETE FROM planrunner.effect WHERE plan_id = {} AND step = {}").format(
        sql.Literal(plan_id), sql.Literal(step)
    )


def forgetting_all(plan_id: str) -> tuple[sql.Composed, ...]:
    """What removes everything else of a plan, and the ledger's tables once no plan has anything in them."""
    deletes = [_emptying(plan_id, table) for table in ("unit", "chunk", "proof", "touched")]
    return (*deletes, *(sql.SQL(text).format() for text in DROP))


def _emptying(plan_id: str, table: str) -> sql.Composed:
    name = sql.Identifier("planrunner", table)
    return sql.SQL("DELETE FROM {} WHERE plan_id = {}").format(name, sql.Literal(plan_id))


def _drop_empty_schema(session: Session) -> None:
    # A barrier table of another plan, a fence: what is in it is not the ledger's to remove.
    held = session.execute(
        "SELECT EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass"
        " AND refobjid = to_regnamespace('planrunner'))"
    ).fetchone()
    if held == (False,):
        session.execute(DROP[2])


class Lease:
    """The right to write for one plan: an epoch that every writing transaction holds FOR SHARE."""

    def __init__(self, plan_id: str, epoch: int) -> None:
        self._plan_id = plan_id
        self.epoch = epoch

    @classmethod
    def take(cls, target: Server, plan_id: str) -> Lease:
        """Raise the epoch, making the ledger where it is missing; former holders can't commit any more.

        LeaseLost when it is not where ``target`` last knew it: then another runner took over in the meantime, of
        which this one, frozen before it ever took the lease, knows nothing. QueryFailed (55P03) when a transaction
        that holds the epoch does not end within a second.
        """
        known = target.known_epoch
        with target.transaction() as session:
            session.execute("SET LOCAL client_min_messages = warning; SET LOCAL lock_timeout = '1s'")
            for statement in CREATE:
                session.execute(statement)
            row = session.execute(
                # The first one is the time: in a ledger that was removed and made anew no epoch comes again.
                "INSERT INTO planrunner.lease (plan_id, epoch, holder)"
                " VALUES (%(plan)s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, %(holder)s)"
                " ON CONFLICT (plan_id) DO UPDATE SET epoch = lease.epoch + 1, holder = excluded.holder,"
                " heartbeat = clock_timestamp()"
                # Ours: the reply to a commit of this process was lost.
                " WHERE %(known)s::bigint IS NULL OR lease.epoch = %(known)s OR lease.holder = excluded.holder"
                " RETURNING epoch, xmax = 0 AS made_anew",
                {"plan": plan_id, "holder": f"{session.info.user} as {target.name}", "known": known},
            ).fetchone()
            if row is None or (known and row[1]):
                raise lease_lost()
            failpoint("lease.before_commit")
        failpoint("lease.taken")
        target.known_epoch = row[0]
        return cls(plan_id, row[0])

    @staticmethod
    def look(target: Server, plan_id: str) -> None:
        """Remember where the epoch stands, 0 where nobody has taken the lease; the first look of a process counts."""
        if target.known_epoch is None:
            found = _lease_of(target, plan_id)
            target.known_epoch = 0 if found is None else found[0]

    @staticmethod
    def is_anothers(target: Server, plan_id: str) -> bool:
        """True when another runner has raised the epoch since this process knew it, or has removed the ledger."""
        known, found = target.known_epoch, _lease_of(target, plan_id)
        if found is None:
            return bool(known)
        epoch, ours = found
        return known is not None and epoch != known and not ours

    def hold(self, session: Session) -> None:
        """Hold the epoch in the caller's transaction; LeaseLost when another runner has raised it."""
        if session.execute(self.statement()).fetchone() is None:
            raise lease_lost()

    def check(self, target: Server) -> None:
        """LeaseLost when another runner has raised the epoch, as far as it is committed now."""
        query = "SELECT epoch FROM planrunner.lease WHERE plan_id = %s AND epoch = %s"
        if target.row(query, [self._plan_id, self.epoch]) is None:
            raise lease_lost()

    def statement(self) -> sql.Composed:
        """The SELECT that holds the epoch; it returns no row when another runner has raised it."""
        return sql.SQL(
            "SELECT epoch FROM planrunner.lease WHERE plan_id = {} AND epoch = {} FOR SHARE"
        ).format(sql.Literal(self._plan_id), sql.Literal(self.epoch))


def _lease_of(target: Server, plan_id: str) -> tuple[int, bool] | None:
    """The lease's epoch, and whether its holder is this process; None where there is no lease."""
    if not target.value("SELECT to_regclass('planrunner.lease') IS NOT NULL"):
        return None
    row = target.row(
        "SELECT epoch, holder = format('%%s as %%s', current_user, %s::text) FROM planrunner.lease WHERE plan_id = %s",
        [target.name, plan_id],
    )
    return None if row is None else (int(row[0]), bool(row[1]))


def lease_lost() -> LeaseLost:
    """The error of a runner whose epoch was raised by another."""
    return LeaseLost(
        "target: another runner has taken over this plan; nothing more is written by this one",
        remedy="Look at the other runner with `planrunner status`.",
    )
