"""PgBouncer's admin console: the few commands a switch needs."""

from __future__ import annotations

import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import conninfo, pq, sql

from planrunner.errors import ConnectionFailed, QueryFailed, StepFailed
from planrunner.postgres.connection import LIVENESS
from planrunner.postgres.failures import condensed
from planrunner.postgres.passwords import refuses_password
from planrunner.postgres.tls import secured, shielded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from planrunner.model import Secret
    from planrunner.postgres.connection import Session

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NOT_PAUSED = "is not paused"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An entry as PgBouncer has it in force."""

    host: str
    port: str
    dbname: str
    pool_mode: str | None
    paused: bool


class Console:
    """Keeps a session for the commands that clients wait for, and opens another when that broke.

    ``password`` is asked for each session.
    """

    def __init__(self, admin: str, password: Callable[[], Secret | None]) -> None:
        self._admin = admin
        self._password = password
        self._kept: Session | None = None

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        given = conninfo.conninfo_to_dict(self._admin)
        return f"{given.get('host') or 'localhost'}:{given.get('port') or 6432}"

    @property
    def user(self) -> str:
        """Who logs in."""
        return str(conninfo.conninfo_to_dict(self._admin).get("user") or "")

    def conninfo(self) -> str:
        """How to connect, the password in it: for a pipe, never for a command line."""
        given = {n: str(v) for n, v in conninfo.conninfo_to_dict(self._admin).items() if v is not None}
        host = given.get("host") or "localhost"
        near = host.startswith("/") or host in _LOOPBACK
        defaults = {"host": host, "port": "6432", "dbname": "pgbouncer"}
        # What stays on this machine needs no encryption; nothing else goes without.
        defaults["sslmode"] = "disable" if near else "verify-full"
        merged = secured({**LIVENESS, **defaults, **given}, self_signed=False, authority=None)
        secret = self._password()
        known = {} if secret is None else {"password": secret.reveal()}
        return conninfo.make_conninfo("", **shielded(merged), **known)

    def pause(self, database: str, timeout: float) -> None:
        """Hold new transactions back and wait for open ones; StepFailed when they last longer than ``timeout``.

        On failure the database is paused still: it is for the caller to resume it.
        """
        session = self._open()
        try:
            query = sql.SQL("PAUSE {}").format(sql.Identifier(database)).as_bytes(session)
            # Not execute(): a console that waits answers no cancel request, and would hold us for ever.
            session.pgconn.send_query(query)
            self._await(session, database, timeout)
        except psycopg.Error as error:
            raise self._failure(error, "PAUSE") from error
        finally:
            session.close()

    def _await(self, session: Session, database: str, timeout: float) -> None:
        line = session.pgconn
        while line.is_busy():
            readable, _, _ = select.select([line.socket], [], [], timeout)
            if not readable:
                raise StepFailed(
                    f"pgbouncer {self.place}: transactions on {database} were still open after {timeout:g} s",
                    remedy="See SHOW SERVERS at its console and end them, raise the timeout, or take a quieter"
                    " hour. With pool_mode session, PAUSE waits until every client has gone.",
                )
            line.consume_input()
        result = line.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            told = condensed(result.get_error_message())
            raise QueryFailed(f"pgbouncer {self.place}: PAUSE {database}: {told}")

    def resume(self, database: str) -> None:
        """Let transactions begin again; nothing when the database is not paused."""
        try:
            self._ask(sql.SQL("RESUME {}").format(sql.Identifier(database)), "RESUME")
        except QueryFailed as error:
            if _NOT_PAUSED not in error.message:
                raise

    def reload(self) -> None:
        """Read the configuration again."""
        self._ask(sql.SQL("RELOAD"), "RELOAD")

    def entry(self, database: str) -> Entry | None:
        """The database's entry in force, None when there is none."""
        for row in self._ask(sql.SQL("SHOW DATABASES"), "SHOW DATABASES"):
            if row.get("name") == database:
                return Entry(
                    host=str(row.get("host") or ""),
                    port=str(row.get("port") or ""),
                    dbname=str(row.get("database") or ""),
                    pool_mode=row.get("pool_mode"),
                    paused=bool(int(row.get("paused") or 0)),
                )
        return None

    def settings(self) -> Mapping[str, str]:
        """What SHOW CONFIG tells."""
        rows = self._ask(sql.SQL("SHOW CONFIG"), "SHOW CONFIG")
        return {str(row["key"]): str(row["value"] or "") for row in rows}

    def close(self) -> None:
        """Close the session that is kept; the next command opens another."""
        if self._kept is not None:
            self._kept.close()
        self._kept = None

    def _ask(self, command: sql.Composed | sql.SQL, name: str) -> list[dict[str, Any]]:
        fresh = self._kept is None
        try:
            return self._rows(command)
        except psycopg.Error as error:
            broken = self._kept is None or self._kept.closed
            if fresh or not broken:
                raise self._failure(error, name) from error
        # The pooler was restarted meanwhile: that is no matter.
        self.close()
        try:
            return self._rows(command)
        except psycopg.Error as error:
            raise self._failure(error, name) from error

    def _rows(self, command: sql.Composed | sql.SQL) -> list[dict[str, Any]]:
        if self._kept is None:
            self._kept = self._open()
        cursor = self._kept.execute(command)
        if cursor.description is None:
            return []
        heads = [column.name for column in cursor.description]
        return [dict(zip(heads, row, strict=True)) for row in cursor.fetchall()]

    def _open(self) -> Session:
        try:
            return self._connected()
        except psycopg.Error as error:
            raise ConnectionFailed(
                f"pgbouncer {self.place}: no session at the admin console: {condensed(str(error))}",
                remedy="Check admin, password, and that the login is among admin_users.",
            ) from error

    def _connected(self) -> Session:
        # The console knows no transactions and no prepared statements.
        try:
            return psycopg.connect(self.conninfo(), autocommit=True, prepare_threshold=None)
        except psycopg.OperationalError as error:
            if not refuses_password(error):
                raise
        # It may have been rotated a moment ago: it is looked up once more.
        return psycopg.connect(self.conninfo(), autocommit=True, prepare_threshold=None)

    def _failure(self, error: psycopg.Error, command: str) -> QueryFailed:
        return QueryFailed(
            f"pgbouncer {self.place}: {command}: {condensed(str(error))}", sqlstate=error.sqlstate
        )
