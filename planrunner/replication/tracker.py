"""The tracker: a logical slot on the publisher that tells which rows changed since they were proven.

It carries the publications of our streams and is made before the first proof. Its changes are looked at, written
to the ledger, and only then consumed, so a crash loses none. Where it can't vouch any more (it is gone or lost, or
the publications are others) every proof is forgotten.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg import pq

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.postgres import catalog
from planrunner.postgres.lsn import Lsn
from planrunner.replication import proof_book, ranges, slots
from planrunner.replication.names import SCHEMA
from planrunner.replication.pgoutput import Begin, Change, Commit, events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Row, Server, Session
    from planrunner.replication.ends import Ends
    from planrunner.replication.proof_book import Book
    from planrunner.replication.workspace import Workspace

NAME = "tracker"
# So many messages are looked at before what they say is written down; one transaction is never parted.
_MESSAGES = 50_000
_A_WHILE = 1000
# An older libpq gives rows one by one only.
_ROWS_AT_ONCE = 500 if pq.version() >= 170000 else 1
_PEEK = (
    "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, %s::pg_lsn, %s,"
    " 'proto_version', '1', 'publication_names', %s)"
)
_PUBLISHED = """
SELECT t.schemaname::text, t.tablename::text, bool_or(p.pubtruncate)
FROM pg_publication_tables t JOIN pg_publication p ON p.pubname = t.pubname
WHERE t.pubname = ANY (%s) GROUP BY 1, 2
HAVING bool_or(p.pubinsert) AND bool_or(p.pubupdate) AND bool_or(p.pubdelete)
"""


def exists(workspace: Workspace, server: Server | None = None) -> bool:
    """True when the tracker's slot is there, on either server or on the one that is given."""
    servers = (workspace.source, workspace.target) if server is None else (server,)
    return any(_serves(each, workspace) is not None for each in servers)


def ensure(workspace: Workspace, ends: Ends) -> None:
    """Make the tracker where there is none that can vouch for what the ledger calls proven."""
    wish = {"side": ends.publisher.side.value, "publications": list(ends.publications)}
    known = workspace.ledger.effects(proof_book.STEP).get(NAME)
    if known is not None and {k: known.get(k) for k in wish} == wish and _serves(ends.publisher, workspace):
        return
    drop(workspace)
    failpoint("tracker.before_slot")
    slots.create_named(workspace, ends.publisher, workspace.names.tracker)
    failpoint("tracker.slot_made")
    workspace.done(proof_book.STEP, NAME, {**wish, "read": "0/0"})


def vouched(workspace: Workspace, ends: Ends) -> frozenset[str]:
    """The tables of which the stream tells every change; what is proven of others can't be kept."""
    # A split table's TRUNCATE is told by a marker, and only the source writes those.
    split = ranges.recorded(workspace) if ends.publisher is workspace.source else {}
    found = (
        (catalog.qualified(schema, name), truncates)
        for schema, name, truncates in ends.publisher.rows(_PUBLISHED, [list(ends.publications)])
    )
    return frozenset(name for name, truncates in found if truncates or name in split)


def _serves(server: Server, workspace: Workspace) -> bool | None:
    """Whether the tracker's slot on ``server`` can be read; None when there is none."""
    row = server.row(
        "SELECT coalesce(wal_status, '') <> 'lost' AND restart_lsn IS NOT NULL FROM pg_replication_slots"
        " WHERE slot_name = %s AND database = current_database()",
        [workspace.names.tracker],
    )
    return None if row is None else bool(row[0])


def drop(workspace: Workspace) -> None:
    """Drop the tracker's slot on both sides, and forget all that was proven; harmless when there is none."""
    if workspace.ledger.exists() and workspace.target.value(
        "SELECT to_regclass('planrunner.proof') IS NOT NULL"
    ):
        # First what relies on the slot, so that no proof outlives it.
        with workspace.writing() as session:
            for table in ("proof", "touched"):
                proof_book.forget_in(session, table, workspace.names.plan_id)
            session.execute(
                "DELETE FROM planrunner.effect WHERE plan_id = %s AND step = ANY (%s)",
                [workspace.names.plan_id, [proof_book.STEP, proof_book.CUTS]],
            )
        failpoint("tracker.forgotten")
    for server in (workspace.source, workspace.target):
        slots.drop_named(workspace, server, workspace.names.tracker)


@contextmanager
def used(workspace: Workspace) -> Iterator[None]:
    """Drop the tracker at the block's end, however that comes: left alone, its slot would fill a disk."""
    try:
        yield
    except BaseException:
        try:
            drop(workspace)
        except PlanrunnerError as error:
            # What stopped the block is the news; the next run or a cleanup drops it.
            workspace.tell(f"warning: the tracker's slot is still there: {error.message}", {})
        raise
    drop(workspace)


@dataclass
class _Pass:
    """One look at the stream: which transaction is told of, and up to where all was read."""

    read: Lsn
    xid: int = 0
    skipped: bool = False
    until: Lsn | None = None
    messages: int = 0
    deadline: float = math.inf
    splits: dict[int, str] = field(default_factory=dict)


def read(
    workspace: Workspace, ends: Ends, book: Book, *, keep: bool = True, timeout: float | None = None
) -> None:
    """Mark in ``book`` what was changed up to now; with ``keep`` in the ledger too, and consume it.

    Everything that was flushed on the publisher when this is called is read. QueryFailed when the slot can't be
    read, or StepFailed not within ``timeout`` seconds: then nothing is known of what changed.
    """
    recorded = workspace.ledger.effects(proof_book.STEP)[NAME]
    looked = _Pass(read=Lsn.parse(recorded["read"]))
    if timeout is not None:
        looked.deadline = workspace.clock.monotonic() + timeout
    looked.splits = {split.number: name for name, split in ranges.recorded(workspace).items()}
    with ends.publisher.session() as session:
        milliseconds = 0 if timeout is None else max(1, int(timeout * 1000))
        session.execute("SELECT set_config('statement_timeout', %s, false)", [str(milliseconds)])
        row = session.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        end = Lsn.parse(row[0])
        while _look(session, workspace, ends, book, looked, end if keep else None):
            _written(session, workspace, book, recorded, looked)
        if keep:
            looked.until = max(end, looked.read)
            _written(session, workspace, book, recorded, looked)


def _look(
    session: Session, workspace: Workspace, ends: Ends, book: Book, looked: _Pass, end: Lsn | None
) -> bool:
    """Take in the next changes; True when there may be more of them."""
    looked.messages = 0
    names = ",".join(f'"{name}"' for name in ends.publications)
    asked = [workspace.names.tracker, None if end is None else str(end), _MESSAGES if end else None, names]
    with session.cursor() as cursor:
        # Some at a time: a big transaction is never held whole.
        rows = cursor.stream(_PEEK, asked, binary=True, size=_ROWS_AT_ONCE)
        for event in events(_counted(rows, looked, workspace.clock)):
            if isinstance(event, Begin):
                looked.xid, looked.skipped = event.xid, event.commit < looked.read
            elif isinstance(event, Commit):
                looked.until = event.end
            elif not looked.skipped:
                _note(book, looked, event)
    return end is not None and looked.messages >= _MESSAGES


def _counted(rows: Iterator[Row], looked: _Pass, clock: Clock) -> Iterator[bytes]:
    for (data,) in rows:
        looked.messages += 1
        if looked.messages % _A_WHILE == 0 and clock.monotonic() > looked.deadline:
            raise StepFailed(
                f"too much has changed since the live verification: {looked.messages} changes and more",
                remedy="Run again at a quieter hour, or set verify: digests.",
            )
        yield data


def _note(book: Book, looked: _Pass, change: Change) -> None:
    if change.relation.schema != SCHEMA:
        book.note(change, looked.xid)
        return
    # The TRUNCATE of a split table arrives as a marker in the barrier table, see ``ranges``.
    split = change.new.get("truncated")
    if split is not None and int(split) in looked.splits:
        book.forget(looked.splits[int(split)], looked.xid)


def _written(
    session: Session, workspace: Workspace, book: Book, recorded: dict[str, str], looked: _Pass
) -> None:
    """Write the marks down, then let the slot go on."""
    if looked.until is None:
        return
    with workspace.writing() as writer:
        book.write(writer, workspace.names.plan_id)
        workspace.ledger.record_effect(writer, proof_book.STEP, NAME, {**recorded, "read": str(looked.until)})
    failpoint("tracker.recorded")
    looked.read = looked.until
    session.execute(
        "SELECT pg_replication_slot_advance(slot_name, %s::pg_lsn) FROM pg_replication_slots"
        " WHERE slot_name = %s AND confirmed_flush_lsn < %s::pg_lsn",
        [str(looked.until), workspace.names.tracker, str(looked.until)],
    )
    failpoint("tracker.advanced")
