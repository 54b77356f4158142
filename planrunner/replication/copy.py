"""Copies units under one snapshot: rows and ledger commit in one transaction, or nothing of a unit is kept.

End of stream is not success: a unit commits only when the source's COPY ended without an error and both
servers count the same rows.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import StepConflict, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres.wire import Wire
from planrunner.replication import rewrites
from planrunner.replication.feeds import SessionFeed
from planrunner.replication.identities import table_name
from planrunner.replication.ledger import Copied, lease_lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.postgres.catalog import Column, Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.feeds import PsqlFeed
    from planrunner.replication.instant import Instant
    from planrunner.replication.units import Unit
    from planrunner.replication.workplace import Workplace

# Below this a psql child costs more than the interpreter's part in the rows.
PSQL_FROM_BYTES = 4 << 20
# Types whose binary form is a bare OID, which means something else on another server.
_OID_TYPES = frozenset(
    {"regclass", "regcollation", "regconfig", "regdictionary", "regnamespace", "regoper", "regoperator"}
    | {
        "regproc",
        "regprocedure",
        "regrole",
        "regtype",
        "oid",
        "aclitem",
        "pg_lsn",
        "xid",
        "xid8",
        "cid",
        "tid",
    }
)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Pages ``first`` to ``last`` (not included, None: to the end) of a unit's heap; numbers count from 1."""

    number: int
    of: int
    first: int
    last: int | None

    def predicate(self) -> sql.Composed:
        """The pages as a condition that the server answers by a TID range scan."""
        parts = [sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({self.first},0)"))]
        if self.last is not None:
            parts.append(sql.SQL("ctid < {}::tid").format(sql.Literal(f"({self.last},0)")))
        return sql.SQL(" AND ").join(parts)


def outgoing(unit: Unit, chunk: Chunk | None = None) -> sql.Composed:
    """The COPY of the source for a unit or one chunk of it."""
    table, form = table_name(unit.table), binary_or_text(unit.table)
    condition = unit.condition()
    conditions = [c for c in (chunk.predicate() if chunk else None, condition) if c is not None]
    if not conditions:
        return sql.SQL("COPY {}{} TO STDOUT ({})").format(table, column_list(unit.table), form)
    names = sql.SQL(", ").join([sql.Identifier(c.name) for c in unit.table.stored])
    return sql.SQL("COPY (SELECT {} FROM ONLY {} WHERE {}) TO STDOUT ({})").format(
        names, table, sql.SQL(" AND ").join(conditions), form
    )


def incoming(unit: Unit, *, freeze: bool = False) -> sql.Composed:
    """The COPY of the target for a unit; FREEZE only where the same transaction truncated the table."""
    form = sql.SQL("{}, FREEZE").format(binary_or_text(unit.table)) if freeze else binary_or_text(unit.table)
    return sql.SQL("COPY {}{} FROM STDIN ({})").format(table_name(unit.table), column_list(unit.table), form)


def incoming_shape(unit: Unit) -> str:
    """``incoming`` as it may be: with FREEZE where the table is copied alone, without it in a batch."""
    return incoming(unit).as_string().removesuffix(")") + "…)"


def column_list(table: Table) -> sql.Composed:
    """The columns that hold data, in brackets."""
    # A table may have no column that holds data; COPY then takes no column list.
    if not table.stored:
        return sql.Composed([])
    return sql.SQL(" ({})").format(sql.SQL(", ").join([sql.Identifier(c.name) for c in table.stored]))


def binary_or_text(table: Table) -> sql.SQL:
    """The format by which COPY carries the table's rows unchanged."""
    return sql.SQL("FORMAT binary") if binary_safe(table) else sql.SQL("FORMAT text")


def binary_safe(table: Table) -> bool:
    """True when every column has the same binary form on both sides: built-in types without OIDs, and enums."""
    return all(not c.text_only and _same_bytes(c) for c in table.stored)


def _same_bytes(column: Column) -> bool:
    # An enum travels as its label; an array of them carries an OID, and so do composites.
    if column.kind == "e":
        return True
    own = column.kind in "bdr" and "." not in column.base
    return own and column.base.removesuffix("[]") not in _OID_TYPES


@dataclass(frozen=True, kw_only=True)
class Courier:
    """One stream of the copy: a session on the target, one ``reading`` inside the source's snapshot, and maybe psql.

    The place's ``check`` is asked between blocks and raises to stop; the transaction in hand is rolled back then.
    """

    place: Workplace
    snapshot: Instant
    reading: Wire
    writer: Session

    def copy_batch(self, units: Sequence[Unit]) -> dict[str, Copied]:
        """Copy several small units in one transaction: one message to the source, one to the target.

        What is returned is committed, with its ledger rows.
        """
        begun = time.monotonic()
        source, target = self.reading, Wire(self.writer, self.place.check)
        target.send(sql.SQL("BEGIN"), self.place.hold, *map(incoming, units))
        source.send(rewrites.BEGIN, *map(outgoing, units), rewrites.look(units), rewrites.END)
        moved: dict[str, tuple[int, int]] = {}
        for place, unit in enumerate(units):
            before = target.until_copy()
            if place == 0:
                _refuse_lost_lease(before[-1].ntuples)
            source.until_copy()
            size = _pump(source, target)
            self.place.moved(size)
            moved[unit.id] = _agreed(unit, source.copied(), target.end_copy()), size
        looked = next(source.results())
        taken = {name: rows for name, (rows, _) in moved.items()}
        rewrites.refuse(looked, units, taken, source=self.snapshot.server)
        list(source.results())
        list(target.results())
        each = (time.monotonic() - begun) / len(units)
        done = {
            name: Copied(generation=self.snapshot.generation, rows=rows, bytes=size, seconds=each)
            for name, (rows, size) in moved.items()
        }
        self._commit(self.place.ledger.unit_statement(done, self.place.epoch))
        return done

    def copy_whole(self, unit: Unit) -> Copied:
        """Copy one unit in a transaction of its own; what is returned is committed, with its ledger row."""
        wire = Wire(self.writer, self.place.check)
        fresh = unit.part is None
        name = table_name(unit.table)
        empty = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})").format(name)
        # FREEZE wants a table that this transaction has emptied; the lock keeps a stray writer from being emptied too.
        emptying = [
            sql.SQL("LOCK TABLE ONLY {}").format(name),
            empty,
            sql.SQL("TRUNCATE ONLY {}").format(name),
        ]
        wire.send(
            sql.SQL("BEGIN"),
            self.place.hold,
            *(emptying if fresh else ()),
            incoming(unit, freeze=fresh),
        )
        before = wire.until_copy()
        _refuse_lost_lease(before[1].ntuples)
        if fresh and before[3].get_value(0, 0) == b"t":
            raise occupied([unit.table.qualified])
        copied = self._carry(unit, None, wire)
        self._commit(self.place.ledger.unit_statement({unit.id: copied}, self.place.epoch))
        return copied

    def copy_chunk(self, unit: Unit, chunk: Chunk) -> Copied:
        """Copy one chunk of a unit in a transaction of its own, with its row in the ledger."""
        wire = Wire(self.writer, self.place.check)
        wire.send(sql.SQL("BEGIN"), self.place.hold, incoming(unit))
        _refuse_lost_lease(wire.until_copy()[1].ntuples)
        copied = self._carry(unit, chunk, wire)
        place = (chunk.number, chunk.of)
        self._commit(self.place.ledger.chunk_statement(unit.id, place, copied, self.place.epoch))
        return copied

    def _carry(self, unit: Unit, chunk: Chunk | None, target: Wire) -> Copied:
        begun = time.monotonic()
        size = 0
        self.reading.run(rewrites.BEGIN)
        with self._feed(unit, outgoing(unit, chunk)) as (feed, stream):
            for block in stream:
                target.write(block)
                size += len(block)
                self.place.moved(len(block))
                self.place.check()
            sent = feed.rows()
        looked = self.reading.run(rewrites.look([unit]), rewrites.END)[0]
        source, pages = self.snapshot.server, chunk is not None
        rewrites.refuse(looked, [unit], {unit.id: sent}, source=source, pages=pages)
        rows = _agreed(unit, sent, target.end_copy())
        list(target.results())
        return Copied(
            generation=self.snapshot.generation, rows=rows, bytes=size, seconds=time.monotonic() - begun
        )

    @contextmanager
    def _feed(
        self, unit: Unit, statement: sql.Composed
    ) -> Iterator[tuple[SessionFeed | PsqlFeed, Iterator[bytes]]]:
        if self.place.psql is None or unit.bytes < PSQL_FROM_BYTES:
            own = SessionFeed(self.reading)
            yield own, own.blocks(statement)
        else:
            what = f"psql that reads {unit.id} on the source"
            with self.place.psql.feed(
                self.snapshot.server, self.snapshot.name, statement, what=what
            ) as child:
                yield child, child.blocks()

    def _commit(self, record: sql.Composed) -> None:
        self.snapshot.confirm()
        failpoint("copy.before_commit")
        Wire(self.writer, self.place.check).run(record, sql.SQL("COMMIT"))
        failpoint("copy.after_commit")


def _pump(source: Wire, target: Wire) -> int:
    size = 0
    for block in source.blocks():
        target.write(block)
        size += len(block)
    return size


def _agreed(unit: Unit, sent: int, taken: int) -> int:
    if sent != taken:
        raise StepFailed(
            f"{unit.id}: the source sent {sent} rows, the target took {taken}; nothing of it was kept"
        )
    return taken


def _refuse_lost_lease(rows: int) -> None:
    if rows == 0:
        raise lease_lost()


def occupied(names: Sequence[str]) -> StepConflict:
    """The error of tables on the target that are not empty although nothing of them was copied."""
    return StepConflict(
        f"target: {', '.join(names)}: holds rows that this plan did not put there",
        remedy="Someone else writes to the target, or the table was there before. Empty it, or move it away.",
    )
