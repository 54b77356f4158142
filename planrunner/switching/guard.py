"""Resumes a paused PgBouncer when nobody is left who would.

Runs as a child in a session of its own: ``python guard.py``. Its standard input is a pipe whose other end only
the runner holds: first one line of JSON (what to do; passwords come this way and no other), then words, a line
each: ``pausing``, ``paused``, and in the end ``released`` or ``committed``.

End of file without one of those means that the runner is gone; past the deadline it is taken for stopped. Then,
unless the fence is committed, RESUME. Once nobody holds the fence's locks any more it is known whether it is; a
server that can't be asked is asked again, and the pool stays paused meanwhile. It imports nothing of planrunner,
so that it starts at once.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

_POLL_SECONDS = 0.02
_AGAIN_SECONDS = 0.5
_ANSWER_SECONDS = 10.0
# A server that can't be asked for so long is past our help; the pool's own query_wait_timeout ends the wait.
_PATIENCE_SECONDS = 3600.0
LOCKED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
  WHERE l.locktype = 'relation' AND l.granted AND a.application_name LIKE %s
  AND a.datname = pg_catalog.current_database()
  AND l.mode IN ('ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""
# The triggers stay on a side that is open again; what their function does tells whether it is closed.
FENCED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
  WHERE t.tgname = %s AND p.proname = %s AND p.prosrc LIKE '%%25006%%')
"""


class Pipe:
    """The words of the runner, as they come."""

    def __init__(self) -> None:
        self._heard = b""
        self.ended = False

    def line(self, timeout: float) -> str | None:
        """The next line; None when none came in time, or none will."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._heard and not self.ended:
            readable, _, _ = select.select([0], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            told = os.read(0, 65536)
            self._heard += told
            self.ended = not told
        line, newline, rest = self._heard.partition(b"\n")
        if not newline:
            return None
        self._heard = rest
        return line.decode()


class Line:
    """A session that is opened anew when it broke."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._session: psycopg.Connection[Any] | None = None

    def ask(self, query: sql.SQL | sql.Composed, values: list[str] | None = None) -> Any:
        """The first value of the answer, None when it has no rows; psycopg.Error."""
        if self._session is None or self._session.closed:
            # PgBouncer's console knows no transactions and no prepared statements.
            self._session = psycopg.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        # A proxy between may go on acknowledging what it swallows: without a limit nobody would ask anew.
        limit = threading.Timer(_ANSWER_SECONDS, cut, [self._session])
        limit.daemon = True
        limit.start()
        try:
            cursor = self._session.execute(query, values)
        finally:
            limit.cancel()
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


def cut(session: psycopg.Connection[Any]) -> None:
    """Let whoever waits for an answer on ``session`` get an error instead."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(session.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


def main() -> int:
    """Wait for the end of the pause, or of the runner."""
    pipe = Pipe()
    first = pipe.line(30.0)
    if first is None:
        return 1
    task = json.loads(first)
    console, server = Line(task["admin"]), Line(task["server"])
    try:
        console.ask(sql.SQL("SHOW VERSION"))
        server.ask(sql.SQL(FENCED), [task["trigger"], task["function"]])
    except psycopg.Error as error:
        say(f"failed: {' '.join(str(error).split())}")
        return 1
    say("ready")
    # Nothing is paused yet, so nothing presses.
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not pipe.ended and (left := deadline - time.monotonic()) > 0:
        word = pipe.line(left)
        if word == "pausing":
            deadline = time.monotonic() + task["pausing_seconds"] + task["seconds"]
        elif word == "paused":
            deadline = time.monotonic() + task["seconds"]
        elif word is not None:
            return 0
    return let_go(task, pipe, console, server)


def let_go(task: dict[str, Any], pipe: Pipe, console: Line, server: Line) -> int:
    """RESUME, unless the fence is committed, or the runner speaks up after all."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    wait = _POLL_SECONDS
    while time.monotonic() < give_up:
        if not pipe.ended and pipe.line(0.0) in {"released", "committed"}:
            return 0
        try:
            # In this order: a lock that is gone was let go after the commit could be seen.
            if not server.ask(sql.SQL(LOCKED), [f"{task['label']}%"]):
                if server.ask(sql.SQL(FENCED), [task["trigger"], task["function"]]):
                    say("kept")
                    return 0
                resume(console, task["database"])
                say("resumed")
                return 0
            wait = _POLL_SECONDS
        except psycopg.Error:
            wait = _AGAIN_SECONDS
        time.sleep(wait)  # noqa: TID251  # a script of its own, without the Clock
    return 1


def resume(console: Line, database: str) -> None:
    """RESUME; a database that is not paused is as wished."""
    try:
        console.ask(sql.SQL("RESUME {}").format(sql.Identifier(database)))
    except psycopg.Error as error:
        if "is not paused" not in str(error):
            raise


def say(word: str) -> None:
    """Tell the runner, if it still listens."""
    try:
        os.write(1, f"{word}\n".encode())
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
