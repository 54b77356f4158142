"""One PostgreSQL server as planrunner uses it: sessions with safe settings, errors with remedies."""

from __future__ import annotations

import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, LiteralString, TypeAlias, TypeVar

import psycopg
from psycopg import conninfo, sql

from planrunner import remains
from planrunner.errors import ConnectionFailed, ServerError
from planrunner.model import Endpoint, Secret, SecretRef, Side
from planrunner.postgres.failures import (
    connection_failure,
    dsn_parameters,
    query_failure,
    trouble_of,
)
from planrunner.postgres.line import Line
from planrunner.postgres.memory import Memory
from planrunner.postgres.occupant import Occupant
from planrunner.postgres.passwords import refuses_password
from planrunner.postgres.tls import secured, seen_from_elsewhere, shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from planrunner.dialling import Trouble
    from planrunner.ports import Clock

    Explain: TypeAlias = "Callable[[ConnectionFailed, Trouble, Mapping[str, str]], ConnectionFailed]"

Session: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"
Query: TypeAlias = "LiteralString | sql.SQL | sql.Composed"
Row: TypeAlias = "tuple[Any, ...]"
_Item = TypeVar("_Item")

# Detects a peer that is gone within about 25 s, on our sessions and on the subscription's.
LIVENESS: Mapping[str, str] = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
# What every session relies on, whatever the database or the login is set to: names resolve to pg_catalog
# first, text forms are the same on both sides, and a policy that would hide rows raises an error instead.
PINNED: Mapping[str, str] = {
    "search_path": "pg_catalog",
    "row_security": "off",
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_isolation": "read committed",
}
# Tells this process's sessions from those of another one that works on the same plan.
_PROCESS = secrets.token_hex(3)
# A single query that only reads fails to serialize for one reason alone: a standby's replay needs its rows.
_TRIES_BESIDE_REPLAY = 10
# Joined with pg_settings, so that a setting younger than the server is passed over. Tells by the way who answers.
_PIN = """
SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), pg_catalog.pg_is_in_recovery(),
       pg_catalog.set_config(s.name, v.value, false)
FROM unnest(%s::text[], %s::text[]) v(name, value) JOIN pg_catalog.pg_settings s ON s.name = lower(v.name)
"""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a server says it is; ``version`` is ``server_version_num`` (160014 is 16.14)."""

    system_identifier: str
    database: str
    user: str
    version: int
    version_text: str
    superuser: bool
    in_recovery: bool

    @property
    def major(self) -> int:
        """The major version: 16 for 16.14."""
        return self.version // 10000


def named_file(endpoint: Endpoint) -> str | None:
    """The file of certificates where the plan names one as ``ca``; what must be looked for is not found here."""
    return endpoint.ca


class Server:
    """Opens sessions on one endpoint. Passwords are resolved per session and never kept.

    ``authority`` finds the file of certificates that the plan's ``ca`` speaks of, ``explain`` what lies between us and
    a server that was not reached. ``fence`` is asked after each session that may write is opened, and raises when
    another process has taken over. The first session tells which cluster it is; no later one is opened on another.
    """

    def __init__(  # noqa: PLR0913  # who is dialled and how, each by its name
        self,
        endpoint: Endpoint,
        *,
        clock: Clock,
        resolve: Callable[[Endpoint], Secret | None],
        label: str,
        authority: Callable[[Endpoint], str | None] = named_file,
        explain: Explain | None = None,
        occupant: Occupant | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self._resolve = resolve
        self._authority = authority
        self._explain = explain
        self._label = label
        self._occupant = occupant or Occupant(side=endpoint.side)
        self.fence: Callable[[], None] | None = None
        # Where the plan's lease stood when this process last knew; None where nobody has looked.
        self.known_epoch: int | None = None
        self.pids: set[int] = set()
        self.line = Line()
        self.memory = Memory()
        self._reader: Session | None = None
        # When the last session for queries was not to be had, and why.
        self._refused: tuple[float, ConnectionFailed] | None = None
        self._lock = threading.RLock()

    @property
    def side(self) -> Side:
        """Source or target."""
        return self.endpoint.side

    @property
    def name(self) -> str:
        """What the sessions are called on the server: the label, and which process they belong to."""
        return f"{self._label}/{_PROCESS}"

    def parameters(self) -> dict[str, str]:
        """The libpq parameters of a session, without the password; ConnectionFailed for a DSN that is none.

        AuthorityUnavailable when the certificates of the plan's ``ca`` can't be had.
        """
        given = {**LIVENESS, **dsn_parameters(self.endpoint), "application_name": self.name}
        return secured(given, self_signed=self.endpoint.self_signed, authority=self._authority(self.endpoint))

    def parameters_elsewhere(self) -> dict[str, str]:
        """The same as the other side's subscription dials, with no name of ours in it."""
        own = self.endpoint
        given = {**dsn_parameters(own), **LIVENESS}
        given.pop("application_name", None)
        return seen_from_elsewhere(given, own.seen_from_other, self_signed=own.self_signed, ca=own.ca)

    def password(self) -> Secret | None:
        """The password, resolved now; SecretUnavailable when its reference leads nowhere."""
        return self._resolve(self.endpoint)

    def as_login(self, name: str, secret: Callable[[], Secret]) -> Server:
        """The same server and database for another login, whose password ``secret`` finds."""
        dsn = conninfo.make_conninfo(self.endpoint.dsn, user=name)
        endpoint = replace(self.endpoint, dsn=dsn, rds_iam=False)
        made = Server(
            endpoint,
            clock=self.clock,
            resolve=lambda _: secret(),
            label=self._label,
            authority=self._authority,
            occupant=self._occupant,
        )
        made.line = self.line
        return made

    def elsewhere(self, side: Side, host: str, port: int) -> Server:
        """A copy of the database, for the same login, at another address."""
        given = {k: v for k, v in conninfo.conninfo_to_dict(self.endpoint.dsn).items() if k != "hostaddr"}
        dsn = conninfo.make_conninfo("", **{**given, "host": host, "port": port})
        return Server(
            replace(self.endpoint, side=side, dsn=dsn),
            clock=self.clock,
            resolve=self._resolve,
            label=self._label,
            authority=self._authority,
        )

    def replication_password(self) -> Secret | None:
        """The password of the login that the plan names for the other side's subscription, resolved now."""
        named = self.endpoint.replication
        if named is None:
            return None
        return self._resolve(replace(self.endpoint, password=named.password, rds_iam=False))

    def open(
        self, *, read_only: bool, autocommit: bool = True, secret: Secret | None = None, **extra: str
    ) -> Session:
        """Open a session that the caller closes; ConnectionFailed with cause and remedy.

        ServerReplaced when another cluster answers than before. A password that is refused may have been rotated a
        moment ago: it is looked up once more. ``secret`` is that of another login, which ``extra`` names as ``user``.
        """
        settings = {**PINNED, "default_transaction_read_only": "on" if read_only else "off"}
        parameters = shielded({**self.parameters(), **extra})
        try:
            session = (
                self._connected(parameters, autocommit=autocommit)
                if secret is None
                else _dialled(parameters, secret, autocommit=autocommit)
            )
        except psycopg.Error as error:
            raise self._failure(error, parameters) from error
        self.pids.add(session.info.backend_pid)
        self.line.add(session)
        remains.session(self.side.value, session)
        self._pin(session, settings, replicates="replication" in extra)
        if self.fence is not None and not read_only:
            self._ask_fence(session, self.fence)
        return session

    def _ask_fence(self, session: Session, fence: Callable[[], None]) -> None:
        # Only now: whoever takes over meanwhile finds the session on the server, and ends it.
        try:
            fence()
        except BaseException:
            session.close()
            raise

    def _failure(self, error: psycopg.Error, parameters: Mapping[str, str]) -> ConnectionFailed:
        told = connection_failure(error, self.endpoint, parameters)
        trouble = trouble_of(error)
        return told if trouble is None or self._explain is None else self._explain(told, trouble, parameters)

    def _connected(self, parameters: Mapping[str, str], *, autocommit: bool) -> Session:
        secret = self.password()
        try:
            return _dialled(parameters, secret, autocommit=autocommit)
        except psycopg.OperationalError as error:
            if secret is None or not refuses_password(error):
                raise
        return _dialled(parameters, self.password(), autocommit=autocommit)

    def _pin(self, session: Session, settings: Mapping[str, str], *, replicates: bool) -> None:
        autocommit = session.autocommit
        session.set_autocommit(True)
        try:
            if replicates:
                # The protocol's own word. Sessions for replication take no such settings.
                told = session.execute("IDENTIFY_SYSTEM").fetchone()
                self._occupant.recognise(str(told[0]) if told else None, recovering=False)
            else:
                pinned = session.execute(_PIN, [list(settings), list(settings.values())]).fetchone()
                assert pinned is not None
                self._occupant.recognise(pinned[0], recovering=pinned[1])
        except psycopg.Error as error:
            session.close()
            raise self._told(error, "SET") from error
        except ServerError:
            session.close()
            raise
        session.set_autocommit(autocommit)

    @contextmanager
    def session(self, *, read_only: bool = False, autocommit: bool = True) -> Iterator[Session]:
        """A session for the length of the block; psycopg's errors leave it as QueryFailed.

        ConnectionFailed where its line was cut because nothing was heard over it.
        """
        session = self.open(read_only=read_only, autocommit=autocommit)
        try:
            with self.translated():
                yield session
        finally:
            session.close()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session in one transaction: committed at the end, rolled back on any error."""
        with self.session() as session, session.transaction():
            yield session

    @contextmanager
    def translated(self, what: str | None = None) -> Iterator[None]:
        """Turn psycopg's errors inside the block into QueryFailed with cause and remedy."""
        try:
            yield
        except psycopg.Error as error:
            raise self._told(error, what) from error

    def telling(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """``items`` as this server sends them; what breaks off there is QueryFailed of this side.

        For what is handed to the other side's session: the block of that one would tell every error as its own.
        """
        with self.translated():
            yield from items

    def rows(self, query: Query, params: Sequence[Any] | Mapping[str, Any] | None = None) -> list[Row]:
        """All rows of a read-only query, on a session kept for such queries; reopened once if lost.

        Asked again where a standby's replay has cancelled it, which says nothing of the query.
        """
        asked = self.clock.monotonic()
        with self._lock:
            for _ in range(_TRIES_BESIDE_REPLAY):
                try:
                    return self._asked(asked, query, params)
                except psycopg.errors.SerializationFailure:
                    continue
                except psycopg.Error as error:
                    raise self._told(error, None) from error
            with self.translated():
                return self._asked(asked, query, params)

    def _asked(
        self, asked: float, query: Query, params: Sequence[Any] | Mapping[str, Any] | None
    ) -> list[Row]:
        reader = self._live_reader(asked)
        try:
            return reader.execute(query, params).fetchall()
        except psycopg.OperationalError:
            if not reader.closed:
                raise
        return self._live_reader(asked).execute(query, params).fetchall()

    def row(self, query: Query, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Row | None:
        """The first row, None when there is none."""
        found = self.rows(query, params)
        return found[0] if found else None

    def value(self, query: Query, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row, None when there is none."""
        found = self.row(query, params)
        return found[0] if found else None

    def _live_reader(self, asked: float) -> Session:
        """The session for queries, of which somebody was in need since ``asked``."""
        if self._reader is not None and not self._reader.closed:
            return self._reader
        # Whoever stood in line behind a dial that failed has its answer: each dialling for itself, one after the
        # other, a line that swallows everything would hold up the last of them for minutes.
        if self._refused is not None and self._refused[0] > asked:
            known = self._refused[1]
            raise ConnectionFailed(known.message, remedy=known.remedy, sqlstate=known.sqlstate)
        try:
            self._reader = self.open(read_only=True)
        except ConnectionFailed as error:
            self._refused = self.clock.monotonic(), error
            raise
        return self._reader

    def version(self) -> int:
        """``server_version_num`` of the server that the next query goes to; no round trip."""
        asked = self.clock.monotonic()
        with self._lock:
            return self._live_reader(asked).info.server_version

    def execute(self, *statements: Query) -> None:
        """Execute statements in one transaction of their own."""
        with self.transaction() as session:
            for statement in statements:
                session.execute(statement)

    def identity(self) -> Identity:
        """Ask the server what it is, over SQL; cached by nobody, so that a swap is noticed."""
        row = self.row(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_database()::text,"
            " current_user::text, current_setting('server_version_num')::int,"
            " current_setting('server_version'),"
            " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), pg_is_in_recovery()"
        )
        assert row is not None
        return Identity(
            system_identifier=row[0],
            database=row[1],
            user=row[2],
            version=row[3],
            version_text=row[4],
            superuser=row[5],
            in_recovery=row[6],
        )

    def rename(self, label: str) -> None:
        """Call this and every later session so on the server."""
        with self._lock:
            self._label = label
            if self._reader is not None:
                self.rows("SELECT set_config('application_name', %s, false)", [self.name])

    def close(self) -> None:
        """Close the session kept for queries; the next query opens another."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
            self._reader = None

    def dial(self, **extra: str) -> Session:
        """A bare session, neither pinned nor cut with the others; psycopg.Error when there is none."""
        return self._connected(shielded({**self.parameters(), **extra}), autocommit=True)

    def sever(self) -> None:
        """Cut the line of every open session, so that whoever waits for an answer gets an error instead."""
        self.line.cut()

    def _told(self, error: psycopg.Error, what: str | None) -> ServerError:
        # A session that broke by itself gives no SQLSTATE; why its line was cut is the better answer.
        broken = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
        silenced = self.line.silenced() if broken else None
        return silenced or query_failure(error, self.side, what)


def _dialled(parameters: Mapping[str, str], secret: Secret | None, *, autocommit: bool) -> Session:
    known = {"password": secret.reveal()} if secret is not None else {}
    return psycopg.connect(conninfo.make_conninfo("", **parameters, **known), autocommit=autocommit)


__all__ = ["Identity", "Query", "Row", "Secret", "SecretRef", "Server", "Session"]
