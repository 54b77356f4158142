"""Pieces of tables that are digested: some of a table's buckets, or single rows by their keys; many at a time."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from psycopg.errors import LockNotAvailable

from planrunner.model import Side
from planrunner.replication import checksum, inside
from planrunner.replication.checksum import Digest
from planrunner.replication.visible import NOTHING, Visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.postgres.connection import Server, Session
    from planrunner.replication.buckets import Cut, Point
    from planrunner.replication.inside import Inside

# Single rows stand under a number that no bucket has.
ROWS = 0
_BATCH_BYTES = 32 << 20
_BATCH_PIECES = 50
_ROW_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The buckets ``numbers`` of a table, in order; or the rows with ``keys``."""

    cut: Cut
    numbers: tuple[int, ...] = ()
    keys: tuple[Point, ...] = ()

    @property
    def bytes(self) -> int:
        """What is read for it, about."""
        if self.keys:
            return _ROW_BYTES * len(self.keys)
        apart = self.cut.ordered or self.cut.share < 1
        return self.cut.bucket_bytes * len(self.numbers) if apart else self.cut.table.data_bytes

    def query(self, *, counts_only: bool, strays: bool) -> sql.Composed:
        """A line for each bucket that has rows: its number, rows, hashes, strays."""
        by: sql.Composed = sql.SQL("{}").format(sql.Literal(ROWS))
        within: sql.Composed | None
        if self.keys:
            within = _among(self.cut, self.keys)
        elif len(self.numbers) == 1:
            by = sql.SQL("{}").format(sql.Literal(self.numbers[0]))
            within = self.cut.condition(self.numbers)
        else:
            by, within = self.cut.numbering(), self.cut.condition(self.numbers)
        return checksum.grouped(self.cut.table, by, counts_only=counts_only, strays=strays, within=within)


def _among(cut: Cut, keys: Sequence[Point]) -> sql.Composed:
    types = {c.name: c.type for c in cut.table.columns}
    # As format_type writes them, under a search path that makes every name a whole one.
    casts = [sql.SQL(types[name]) for name in cut.key]  # pyright: ignore[reportArgumentType]
    values = [sql.Literal([key[place] for key in keys]) for place in range(len(cut.key))]
    names = [sql.Identifier(f"k{place}") for place in range(len(cut.key))]
    return sql.SQL("({}) IN (SELECT {} FROM unnest({}) k({}))").format(
        sql.SQL(", ").join(map(sql.Identifier, cut.key)),
        sql.SQL(", ").join([sql.SQL("{}::{}").format(*pair) for pair in zip(names, casts, strict=True)]),
        sql.SQL(", ").join([sql.SQL("{}::text[]").format(value) for value in values]),
        sql.SQL(", ").join(names),
    )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one piece had on one side: the digest of each of its buckets that has rows.

    ``seen`` is what a snapshot taken beforehand saw; nothing where there was none.
    """

    digests: dict[int, Digest]
    seen: Visible
    empty: Digest

    def of(self, number: int) -> Digest:
        """The digest of a bucket, or of the rows asked for by key (``ROWS``)."""
        return self.digests.get(number, self.empty)


class Readers:
    """Some sessions on one server that digest pieces; used by one thread at a time."""

    def __init__(self, server: Server, *, jobs: int, counts_only: bool, strays: bool) -> None:
        self._server = server
        self._jobs = jobs
        self._form = {"counts_only": counts_only, "strays": strays}
        self._empty = Digest(rows=0, hashes="" if counts_only else "0")
        self._sessions: list[Session] = []
        self._seen: dict[int, Visible] = {}

    def fit(self, jobs: int) -> None:
        """From the next read on, over so many sessions at most."""
        self._jobs = jobs
        while len(self._sessions) > jobs:
            self._sessions.pop().close()

    def freeze(self, pieces: Sequence[Piece]) -> None:
        """Take the snapshots under which the next ``read`` of ``pieces`` sees the rows."""
        self._open(len(_batches(pieces)))
        with self._server.translated("digest"):
            for number, session in enumerate(self._sessions):
                session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                row = session.execute("SELECT txid_current_snapshot()::text").fetchone()
                assert row is not None
                self._seen[number] = Visible.of(row[0])

    def read(self, pieces: Sequence[Piece], *, timeout: float, fence: Inside | None = None) -> list[Reading]:
        """Digest ``pieces``; QueryFailed when one takes longer than ``timeout`` seconds.

        ``fence`` is asked for those that somebody else waits for.
        """
        own = inside.of(self._server, fence)
        until = self._server.clock.monotonic() + timeout
        waited_for: list[list[int]] = []
        found: dict[int, Reading] = {}
        batches = deque(_batches(pieces))
        self._open(len(batches))

        def lane(number: int) -> None:
            session = self._sessions[number]
            with self._server.translated("digest"):
                inside.limit(session, timeout, own)
                while True:
                    try:
                        batch = batches.popleft()
                    except IndexError:
                        break
                    try:
                        found.update(self._digested(session, pieces, batch, self._seen.get(number, NOTHING)))
                    except LockNotAvailable:
                        if own is None:
                            raise
                        waited_for.append(batch)
                if number in self._seen:
                    session.execute("COMMIT")

        try:
            with ThreadPoolExecutor(max(1, len(self._sessions))) as pool:
                list(pool.map(lane, range(len(self._sessions))))
            if own is not None and waited_for:
                left = until - self._server.clock.monotonic()
                with self._server.translated("digest"), own.reading(left) as session:
                    for batch in waited_for:
                        found.update(self._digested(session, pieces, batch, NOTHING))
        finally:
            self._seen.clear()
        return [found[place] for place in range(len(pieces))]

    def _open(self, wanted: int) -> None:
        while len(self._sessions) < min(self._jobs, wanted):
            self._sessions.append(self._server.open(read_only=True))

    def _digested(
        self, session: Session, pieces: Sequence[Piece], batch: Sequence[int], seen: Visible
    ) -> dict[int, Reading]:
        parts = [
            sql.SQL("SELECT {}, q.* FROM ({}) q").format(
                sql.Literal(place), pieces[place].query(**self._form)
            )
            for place in batch
        ]
        digests: dict[int, dict[int, Digest]] = {place: {} for place in batch}
        for place, number, rows, hashes, strays in session.execute(sql.SQL(" UNION ALL ").join(parts)):
            digests[place][number] = Digest(rows=rows, hashes=hashes, strays=strays)
        return {place: Reading(digests=d, seen=seen, empty=self._empty) for place, d in digests.items()}

    def close(self) -> None:
        """Close the sessions."""
        for session in self._sessions:
            with suppress(psycopg.Error):
                session.close()
        self._sessions.clear()


def _batches(pieces: Sequence[Piece]) -> list[list[int]]:
    """The places of ``pieces``, the largest first; small ones together, to spare round trips."""
    made: list[list[int]] = []
    room = 0
    for place in sorted(range(len(pieces)), key=lambda p: -pieces[p].bytes):
        size = pieces[place].bytes
        if not made or size > room or len(made[-1]) >= _BATCH_PIECES:
            made.append([])
            room = _BATCH_BYTES
        made[-1].append(place)
        room -= size
    return made


def strays_counted(server: Server, subscriber: Server) -> bool:
    """True where rows outside a table's filter are a difference: on the target, as long as it only follows."""
    return server is subscriber and server.side is Side.TARGET
