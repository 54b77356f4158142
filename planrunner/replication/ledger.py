"""The ledger on the target: what is copied, what is done, and who may write (the lease).

Schema ``planrunner``: ``lease`` one row a plan, its epoch raised by every runner that takes over;
``unit`` one row a copied table, committed with its rows; ``effect`` one row for each thing done once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planrunner.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import Json
    from planrunner.postgres.connection import Server, Session

CREATE = (
    "CREATE SCHEMA IF NOT EXISTS planrunner",
    "CREATE TABLE IF NOT EXISTS planrunner.lease (plan_id text PRIMARY KEY, epoch bigint NOT NULL,"
    " holder text NOT NULL, heartbeat timestamptz NOT NULL DEFAULT clock_timestamp())",
    "CREATE TABLE IF NOT EXISTS planrunner.unit (plan_id text, unit_id text, generation int NOT NULL,"
    " rows bigint NOT NULL, bytes bigint NOT NULL, seconds float8 NOT NULL, epoch bigint NOT NULL,"
    " done timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (plan_id, unit_id))",
    "CREATE TABLE IF NOT EXISTS planrunner.effect (plan_id text, step text, name text, detail jsonb NOT NULL,"
    " done timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (plan_id, step, name))",
)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A table that was copied: under which generation, and how much."""

    generation: int
    rows: int
    bytes: int
    seconds: float


class Ledger:
    """Reads and writes the ledger of one plan."""

    def __init__(self, target: Server, plan_id: str) -> None:
        self._target = target
        self._plan_id = plan_id

    def exists(self) -> bool:
        """True when the ledger's tables are there."""
        return bool(self._target.value("SELECT to_regclass('planrunner.effect') IS NOT NULL"))

    def units(self) -> dict[str, Unit]:
        """The finished units by unit id (``schema.table``)."""
        if not self.exists():
            return {}
        rows = self._target.rows(
            "SELECT unit_id, generation, rows, bytes, seconds FROM planrunner.unit WHERE plan_id = %s",
            [self._plan_id],
        )
        return {r[0]: Unit(generation=r[1], rows=r[2], bytes=r[3], seconds=r[4]) for r in rows}

    def generations(self) -> tuple[int, ...]:
        """The generations that hold finished units, in order."""
        return tuple(sorted({unit.generation for unit in self.units().values()}))

    def effects(self, step: str) -> dict[str, Any]:
        """What a kind of step has done once, by name, with the detail it recorded."""
        if not self.exists():
            return {}
        rows = self._target.rows(
            "SELECT name, detail FROM planrunner.effect WHERE plan_id = %s AND step = %s",
            [self._plan_id, step],
        )
        return {row[0]: row[1] for row in rows}

    def record_unit(self, session: Session, unit_id: str, unit: Unit, epoch: int) -> None:
        """Record a unit in the caller's transaction, the one that copied its rows."""
        session.execute(
            "INSERT INTO planrunner.unit (plan_id, unit_id, generation, rows, bytes, seconds, epoch)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [self._plan_id, unit_id, unit.generation, unit.rows, unit.bytes, unit.seconds, epoch],
        )

    def record_effect(self, session: Session, step: str, name: str, detail: Mapping[str, Json]) -> None:
        """Record something as done in the caller's transaction; a second time replaces the detail."""
        session.execute(
            "INSERT INTO planrunner.effect (plan_id, step, name, detail) VALUES (%s, %s, %s, %s::jsonb)"
            " ON CONFLICT (plan_id, step, name) DO UPDATE SET detail = excluded.detail, done = clock_timestamp()",
            [self._plan_id, step, name, json.dumps(detail)],
        )

    def forget(self, step: str) -> None:
        """Remove what a kind of step recorded, and the whole schema once no plan has anything in it."""
        if not self.exists():
            return
        with self._target.transaction() as session:
            session.execute(
                "DELETE FROM planrunner.effect WHERE plan_id = %s AND step = %s", [self._plan_id, step]
            )
            if step == "snapshot":
                session.execute("DELETE FROM planrunner.unit WHERE plan_id = %s", [self._plan_id])
            left = session.execute(
                "SELECT (SELECT count(*) FROM planrunner.effect) + (SELECT count(*) FROM planrunner.unit)"
                " + (SELECT count(*) FROM planrunner.lease WHERE plan_id <> %s)",
                [self._plan_id],
            ).fetchone()
            if left == (0,):
                session.execute(
                    "DROP TABLE planrunner.effect, planrunner.unit, planrunner.lease; DROP SCHEMA planrunner"
                )


class Lease:
    """The right to write for one plan: an epoch that every writing transaction holds FOR SHARE."""

    def __init__(self, plan_id: str, epoch: int) -> None:
        self._plan_id = plan_id
        self.epoch = epoch

    @classmethod
    def take(cls, target: Server, plan_id: str) -> Lease:
        """Raise the epoch, making the ledger where it is missing; former holders can't commit any more."""
        with target.transaction() as session:
            session.execute("SET LOCAL client_min_messages = warning")
            for statement in CREATE:
                session.execute(statement)
            row = session.execute(
                "INSERT INTO planrunner.lease (plan_id, epoch, holder) VALUES (%s, 1, %s)"
                " ON CONFLICT (plan_id) DO UPDATE SET epoch = lease.epoch + 1, holder = excluded.holder,"
                " heartbeat = clock_timestamp() RETURNING epoch",
                [plan_id, f"{session.info.user} pid {session.info.backend_pid}"],
            ).fetchone()
        assert row is not None
        return cls(plan_id, row[0])

    def hold(self, session: Session) -> None:
        """Hold the epoch in the caller's transaction; LeaseLost when another runner has raised it."""
        row = session.execute(
            "SELECT epoch FROM planrunner.lease WHERE plan_id = %s AND epoch = %s FOR SHARE",
            [self._plan_id, self.epoch],
        ).fetchone()
        if row is None:
            raise LeaseLost(
                "target: another runner has taken over this plan; nothing more is written by this one",
                remedy="Look at the other runner with `planrunner status`.",
            )
