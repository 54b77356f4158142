"""Texts in a table of a PostgreSQL database, with a serial that every write checks, and a lock beside them."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from planrunner.errors import LockedByAnother
from planrunner.failpoints import failpoint
from planrunner.ports import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server, Session

_CREATE = (
    "CREATE SCHEMA IF NOT EXISTS planrunner",
    "CREATE TABLE IF NOT EXISTS planrunner.state (name text PRIMARY KEY, serial bigint NOT NULL,"
    " body text NOT NULL, written timestamptz NOT NULL DEFAULT clock_timestamp())",
)
_THERE = "SELECT to_regclass('planrunner.state') IS NOT NULL"
_READ = """
SELECT body, serial::text, extract(epoch FROM clock_timestamp() - written)::float8 FROM planrunner.state
WHERE name = %s
"""
_INSERT = """
INSERT INTO planrunner.state (name, serial, body) VALUES (%(name)s, 1, %(body)s)
ON CONFLICT (name) DO NOTHING RETURNING serial::text
"""
_UPDATE = """
UPDATE planrunner.state SET serial = serial + 1, body = %(body)s, written = clock_timestamp()
WHERE name = %(name)s AND serial = %(over)s::bigint RETURNING serial::text
"""
_PUT = """
INSERT INTO planrunner.state (name, serial, body) VALUES (%(name)s, 1, %(body)s)
ON CONFLICT (name) DO UPDATE SET serial = state.serial + 1, body = excluded.body, written = clock_timestamp()
"""
_NAMES = 'SELECT name FROM planrunner.state WHERE starts_with(name, %s) ORDER BY name COLLATE "C"'
_RESTORE = (
    "INSERT INTO planrunner.state (name, serial, body) SELECT '{over}', 1, body FROM planrunner.state"
    " WHERE name = '{name}' ON CONFLICT (name) DO UPDATE SET serial = state.serial + 1, body = excluded.body;"
)
_HELD = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32) | objid::bigint = %s)
"""
_END_HOLDER = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32) | l.objid::bigint = %s AND a.application_name LIKE 'planrunner-state/%%'
"""
# A killed runner's session ends when its server notices, which takes a moment.
_PATIENCE_SECONDS = 5.0
_PAUSE_SECONDS = 0.25


class Table:
    """Table ``planrunner.state`` of one database; made at the first write. ServerError when the server fails."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def read(self, name: str) -> Kept | None:
        """The row of that name, None when there is none."""
        row = self._server.row(_READ, [name]) if self._server.value(_THERE) else None
        return None if row is None else Kept(text=row[0], tag=row[1], age=row[2])

    def write(self, name: str, text: str, *, over: str | None) -> str | None:
        """Write over the row of serial ``over`` (None: over nothing); None when another one is there."""
        self._make()
        values = {"name": name, "body": text, "over": over}
        with self._server.transaction() as session:
            row = session.execute(_INSERT if over is None else _UPDATE, values).fetchone()
        return None if row is None else str(row[0])

    def put(self, name: str, text: str) -> None:
        """Write whatever is there."""
        self._make()
        with self._server.transaction() as session:
            session.execute(_PUT, {"name": name, "body": text})

    def remove(self, name: str) -> None:
        """Delete the row; harmless when there is none."""
        with self._server.transaction() as session:
            session.execute("DELETE FROM planrunner.state WHERE name = %s", [name])

    def names(self, prefix: str) -> Sequence[str]:
        """The names that begin so, in order."""
        if not self._server.value(_THERE):
            return []
        return [str(row[0]) for row in self._server.rows(_NAMES, [prefix])]

    def restoring(self, name: str, over: str) -> str:
        """The statement that copies the row."""
        here, there = (text.replace("'", "''") for text in (name, over))
        return _RESTORE.format(name=here, over=there)

    def _make(self) -> None:
        # Asked first: whoever may write to the table may not be allowed to create it.
        if not self._server.value(_THERE):
            self._server.execute(*_CREATE)


class AdvisoryLock:
    """A session's lock, freed by PostgreSQL when that session ends; its holder's signature is a row of the table.

    With ``take_over`` the session of whoever holds it is ended, once, the first time that it is taken.
    """

    def __init__(self, server: Server, table: Table, name: str, *, take_over: bool = False) -> None:
        self._take_over = take_over
        self._server = server
        self._table = table
        self._name = name
        digest = hashlib.sha256(f"planrunner state {name}".encode()).digest()
        self._key = int.from_bytes(digest[:8]) >> 1
        self._session: Session | None = None

    @contextmanager
    def held(self, signature: str, clock: Clock) -> Iterator[None]:
        """Hold the lock for the length of the block; LockedByAnother carries the holder's signature."""
        with self._server.session() as session:
            self._take(session, clock)
            self._table.put(self._name, signature)
            failpoint("lock.row_signed")
            self._session = session
            try:
                yield
            finally:
                self._free(session)

    def _free(self, first: Session) -> None:
        # Said outright: a server notices the end of a session a moment later.
        mine, self._session = self._session or first, None
        with suppress(psycopg.Error):
            mine.execute("SELECT pg_advisory_unlock(%s)", [self._key])
        if mine is not first:
            mine.close()

    def signature(self) -> str | None:
        """What its holder signed with; None when nobody holds it."""
        if not self._server.value(_HELD, [self._key]):
            return None
        found = self._table.read(self._name)
        return "" if found is None else found.text

    def check(self) -> None:
        """LockedByAnother when the session that held the lock is gone and another took it; else it is taken again."""
        if self._session is None or _answers(self._session):
            return
        session = self._server.open(read_only=False)
        with self._server.translated():
            row = session.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()
        if row is None or not row[0]:
            session.close()
            raise LockedByAnother(
                "the session that held the lock of the state was ended, and another run has taken it",
                remedy="See who works on the plan: planrunner status PLAN.",
            )
        self._session = session

    def _take(self, session: Session, clock: Clock) -> None:
        give_up = clock.monotonic() + _PATIENCE_SECONDS
        while True:
            row = session.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()
            if row is not None and row[0]:
                self._take_over = False
                return
            if self._take_over:
                self._take_over = False
                session.execute(_END_HOLDER, [self._key])
                failpoint("lock.holder_ended")
            if clock.monotonic() >= give_up:
                raise LockedByAnother(self.signature() or "")
            clock.sleep(_PAUSE_SECONDS)


def _answers(session: Session) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


__all__ = ["AdvisoryLock", "Table"]
