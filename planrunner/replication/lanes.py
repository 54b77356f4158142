"""A lane: one session on either side, asked at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg import sql

    from planrunner.postgres.connection import Row, Server, Session

    Ask: TypeAlias = "Callable[[sql.Composed], list[Row]]"

_ROWS_AT_ONCE = 5000


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Both sessions."""

    source: Server
    target: Server
    ours: Session
    theirs: Session
    pool: ThreadPoolExecutor

    def both(self, source: sql.Composed, target: sql.Composed) -> tuple[list[Row], list[Row]]:
        """The rows of a query on either side; QueryFailed when one of them fails."""
        return self._both(
            lambda: self.ours.execute(source).fetchall(), lambda: self.theirs.execute(target).fetchall()
        )

    def asking(self, server: Server) -> Ask:
        """What asks one of the two sides."""
        session = self.ours if server is self.source else self.theirs

        def ask(query: sql.Composed) -> list[Row]:
            with server.translated():
                return session.execute(query).fetchall()

        return ask

    @contextmanager
    def streams(
        self, source: sql.Composed, target: sql.Composed
    ) -> Iterator[tuple[Iterator[Row], Iterator[Row]]]:
        """The same as iterators that hold some thousand rows each; both servers sort at the same time."""
        with ExitStack() as stack:
            cursors = []
            for server, session in ((self.source, self.ours), (self.target, self.theirs)):
                stack.enter_context(server.translated())
                stack.enter_context(session.transaction())
                cursors.append(stack.enter_context(session.cursor(name="planrunner_rows")))
            with self.source.translated():
                cursors[0].execute(source)
            with self.target.translated():
                cursors[1].execute(target)
            heads = self._both(
                lambda: cursors[0].fetchmany(_ROWS_AT_ONCE), lambda: cursors[1].fetchmany(_ROWS_AT_ONCE)
            )
            yield (
                _from(heads[0], cursors[0].fetchmany, self.source),
                _from(heads[1], cursors[1].fetchmany, self.target),
            )

    def _both(
        self, source: Callable[[], list[Row]], target: Callable[[], list[Row]]
    ) -> tuple[list[Row], list[Row]]:
        asked = self.pool.submit(source)
        try:
            with self.target.translated():
                theirs = target()
        finally:
            # Whatever became of the other side: a session in use can't be given back.
            failure = asked.exception()
        if failure is not None:
            with self.source.translated():
                raise failure
        return asked.result(), theirs


def _from(head: list[Row], more: Callable[[int], list[Any]], server: Server) -> Iterator[Row]:
    while head:
        yield from head
        with server.translated():
            head = more(_ROWS_AT_ONCE)


@contextmanager
def lane(source: Server, target: Server) -> Iterator[Lane]:
    """Open both sessions, read-only; they are closed at the end of the block."""
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        opening = pool.submit(source.open, read_only=True)
        try:
            theirs = stack.enter_context(target.session(read_only=True))
        finally:
            if opening.exception() is None:
                stack.callback(opening.result().close)
        ours = opening.result()
        yield Lane(
            source=source,
            target=target,
            ours=ours,
            theirs=theirs,
            pool=pool,
        )


class Lanes:
    """Lanes between two servers, each for one user at a time; those at rest stay open."""

    def __init__(self, source: Server, target: Server) -> None:
        self._source = source
        self._target = target
        self._resting: list[tuple[Lane, ExitStack]] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """One for the length of the block; it is closed when the block fails. ConnectionFailed as ``lane``."""
        used, its_sessions = self._awakened() or self._opened()
        try:
            yield used
        except BaseException:
            its_sessions.close()
            raise
        with self._lock:
            self._resting.append((used, its_sessions))

    def _awakened(self) -> tuple[Lane, ExitStack] | None:
        with self._lock:
            return self._resting.pop() if self._resting else None

    def _opened(self) -> tuple[Lane, ExitStack]:
        stack = ExitStack()
        return stack.enter_context(lane(self._source, self._target)), stack

    def close(self) -> None:
        """Close all that rest."""
        while (resting := self._awakened()) is not None:
            resting[1].close()
