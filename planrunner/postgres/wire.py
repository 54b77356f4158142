"""A session at libpq's level: many statements in one message, COPY in blocks, no row ever a Python object.

psycopg's cursors take one COPY a message; a message with several costs one round trip for all of them. The
thread waits on the socket, so the interpreter lock is free meanwhile. After an error the session is only good
to be closed.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from psycopg import errors, pq

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import sql
    from psycopg.pq.abc import PGconn, PGresult

    from planrunner.postgres.connection import Session

BLOCK_BYTES = 1 << 20
_POLL_MILLISECONDS = 1000
_DONE = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY})


class Wire:
    """Speaks to the server of ``session``; ``check`` is called at least every second and may raise to stop."""

    def __init__(self, session: Session, check: Callable[[], None]) -> None:
        self._session = session
        self._conn: PGconn = session.pgconn
        self._check = check
        self._refused = False
        self._poll = select.poll()
        self._socket = self._conn.socket
        self._poll.register(self._socket, select.POLLIN)

    @property
    def failed(self) -> bool:
        """Whether the server has refused something, or the session is lost."""
        return self._refused or self._conn.status != pq.ConnStatus.OK

    def send(self, *statements: sql.Composable) -> None:
        """Send ``statements`` as one message; their results are read by the other methods, in order."""
        script = b";\n".join(statement.as_bytes(self._session) for statement in statements)
        self._conn.send_query(script)
        self._flush()

    def run(self, *statements: sql.Composable) -> list[PGresult]:
        """Send ``statements`` as one message and return all results; a refusal is raised as psycopg's error."""
        self.send(*statements)
        return list(self.results())

    def results(self) -> Iterator[PGresult]:
        """The results that are left of the message."""
        while (result := self.result()) is not None:
            yield result

    def result(self) -> PGresult | None:
        """The next result, None at the message's end; also a COPY's beginning."""
        while self._conn.is_busy():
            self._wait(select.POLLIN)
            self._conn.consume_input()
        result = self._conn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            self._refused = True
            raise errors.error_from_result(result, encoding="utf-8")
        return result

    def until_copy(self) -> list[PGresult]:
        """Read up to the next COPY's beginning; the results before it."""
        before: list[PGresult] = []
        while (result := self.result()) is not None:
            if result.status not in _DONE:
                return before
            before.append(result)
        raise errors.ProtocolViolation("the server did not begin the COPY it was asked for")

    def blocks(self) -> Iterator[bytes]:
        """What the running COPY TO STDOUT sends, in blocks of about a megabyte."""
        held: list[bytes] = []
        size = 0
        while True:
            count, data = self._conn.get_copy_data(1)
            if count > 0:
                held.append(bytes(data))
                size += count
            if size >= BLOCK_BYTES or (count < 0 and held):
                yield b"".join(held)
                held, size = [], 0
            if count < 0:
                return
            if count == 0:
                self._wait(select.POLLIN)
                self._conn.consume_input()

    def write(self, block: bytes) -> None:
        """Send one block to the running COPY FROM STDIN, waiting while the server is slower than we are."""
        self._conn.put_copy_data(block)
        self._flush()

    def end_copy(self) -> int:
        """End the running COPY FROM STDIN; the rows the server took."""
        self._conn.put_copy_end()
        self._flush()
        return self.copied()

    def copied(self) -> int:
        """The rows of the COPY that has just ended, as its server counts them."""
        result = self.result()
        if result is None or result.command_tuples is None:
            raise errors.ProtocolViolation("the server did not say how many rows it copied")
        return result.command_tuples

    def _flush(self) -> None:
        while self._conn.flush():
            if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._conn.consume_input()

    def _wait(self, events: int) -> int:
        self._poll.modify(self._socket, events)
        while True:
            self._check()
            ready = self._poll.poll(_POLL_MILLISECONDS)
            if ready:
                return ready[0][1]
