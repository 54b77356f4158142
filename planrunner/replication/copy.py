"""Copies whole tables under one snapshot, in 1 MB blocks; rows and ledger commit in one transaction.

End of stream is not success: a unit commits only when the source's COPY ended without an error and both
servers count the same rows.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from psycopg import sql

from planrunner.errors import Interrupted, StepConflict, StepFailed
from planrunner.failpoints import failpoint
from planrunner.replication.identities import table_name
from planrunner.replication.ledger import Unit
from planrunner.replication.row_filters import predicate
from planrunner.replication.snapshot import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.postgres.connection import Session
    from planrunner.replication.snapshot import HeldSnapshot
    from planrunner.replication.workspace import Workspace

BLOCK_BYTES = 1 << 20
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


def statements(table: Table) -> tuple[sql.Composed, sql.Composed]:
    """The COPY of the source and the COPY of the target for one table."""
    columns = sql.SQL(", ").join([sql.Identifier(c.name) for c in table.stored])
    # A table may have no column that holds data; COPY then takes no column list.
    named = sql.SQL("{} ({})").format(table_name(table), columns) if table.stored else table_name(table)
    form = sql.SQL("(FORMAT {})").format(sql.SQL("binary" if binary_safe(table) else "text"))
    read = named
    if table.where is not None:
        read = sql.SQL("(SELECT {} FROM ONLY {} WHERE {})").format(
            columns, table_name(table), predicate(table.where)
        )
    return (
        sql.SQL("COPY {} TO STDOUT {}").format(read, form),
        sql.SQL("COPY {} FROM STDIN {}").format(named, form),
    )


def binary_safe(table: Table) -> bool:
    """True when every column has the same binary form on both sides: built-in types without OIDs in them."""
    return all(
        c.kind in "bdr"
        and not c.text_only
        and "." not in c.base
        and c.base.removesuffix("[]") not in _OID_TYPES
        for c in table.stored
    )


def copy_tables(workspace: Workspace, snapshot: HeldSnapshot, tables: Sequence[Table], *, jobs: int) -> None:
    """Copy ``tables``, the largest first, over ``jobs`` pairs of sessions.

    The first error stops the others at their next block and is raised; finished tables stay finished.
    """
    waiting: queue.SimpleQueue[Table] = queue.SimpleQueue()
    for table in sorted(tables, key=lambda t: (-t.bytes, t.qualified)):
        waiting.put(table)
    stop = threading.Event()
    with ThreadPoolExecutor(min(jobs, len(tables)), thread_name_prefix="copy") as pool:
        futures = [
            pool.submit(_stream, workspace, snapshot, waiting, stop) for _ in range(min(jobs, len(tables)))
        ]
        try:
            for future in futures:
                future.result()
        finally:
            stop.set()


def _stream(
    workspace: Workspace, snapshot: HeldSnapshot, waiting: queue.SimpleQueue[Table], stop: threading.Event
) -> None:
    try:
        with reading(workspace.source, snapshot.name) as reader:
            while not stop.is_set():
                try:
                    table = waiting.get_nowait()
                except queue.Empty:
                    return
                copy_table(workspace, reader, table, snapshot.generation, stop.is_set)
    except BaseException:
        stop.set()
        raise


def copy_table(
    workspace: Workspace, reader: Session, table: Table, generation: int, stopped: Callable[[], bool]
) -> Unit:
    """Copy one table from a session inside the snapshot; its rows and its ledger row commit together."""
    begun = time.monotonic()
    with workspace.writing() as writer:
        _refuse_rows(writer, table)
        source_rows, target_rows, size = _pipe(reader, writer, table, stopped)
        if source_rows != target_rows:
            raise StepFailed(
                f"{table.qualified}: the source sent {source_rows} rows, the target took {target_rows};"
                " nothing of the table was kept"
            )
        unit = Unit(generation=generation, rows=target_rows, bytes=size, seconds=time.monotonic() - begun)
        workspace.ledger.record_unit(writer, table.qualified, unit, workspace.lease.epoch)
        failpoint("copy.before_commit")
    failpoint("copy.after_commit")
    workspace.tell(
        f"copied {table.qualified}", {"table": table.qualified, "rows": unit.rows, "bytes": unit.bytes}
    )
    return unit


def _refuse_rows(writer: Session, table: Table) -> None:
    found = writer.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM ONLY {})").format(table_name(table))
    ).fetchone()
    if found == (True,):
        raise StepConflict(
            f"target: table {table.qualified} holds rows that this plan did not put there",
            remedy="Someone else writes to the target, or the table was there before. Empty it, or move it away.",
        )


def _pipe(
    reader: Session, writer: Session, table: Table, stopped: Callable[[], bool]
) -> tuple[int, int, int]:
    out_of, into = statements(table)
    size = 0
    with reader.cursor() as source, writer.cursor() as target:
        with source.copy(out_of) as read, target.copy(into) as write:
            block: list[bytes] = []
            held = 0
            while data := read.read():
                block.append(bytes(data))
                held += len(data)
                if held >= BLOCK_BYTES:
                    write.write(b"".join(block))
                    size, held, block = size + held, 0, []
                    if stopped():
                        raise Interrupted("the copy was stopped; the table in hand is rolled back")
            write.write(b"".join(block))
        return source.rowcount, target.rowcount, size + held
