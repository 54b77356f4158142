"""Makes throw-away servers look like an RDS source and an ordinary target: roles, rights, a database."""

from __future__ import annotations

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, Self

import psycopg
from psycopg import sql

from planrunner.errors import UsageError
from planrunner.sandbox.rds_limits import make_rds

if TYPE_CHECKING:
    from planrunner.sandbox.servers import PostgresServer

DATABASE = "shop"
MIGRATOR = "migrator"
OWNER = "shop_owner"
APPLICATION = "shop_app"

# Made by the master user, as on RDS: since 16 it may grant what it made and is no member of it.
_SHOP_ROLES: tuple[LiteralString, ...] = (
    "CREATE ROLE shop_owner NOLOGIN",
    "CREATE ROLE shop_reader NOLOGIN",
    "CREATE ROLE shop_app LOGIN PASSWORD {password}",
    "GRANT shop_owner TO shop_app",
)
_TARGET_ROLES_16: tuple[LiteralString, ...] = (
    "CREATE ROLE migrator LOGIN NOSUPERUSER CREATEDB CREATEROLE PASSWORD {password}",
    "GRANT pg_create_subscription TO migrator",
)
_TARGET_ROLES_15: tuple[LiteralString, ...] = ("CREATE ROLE migrator LOGIN SUPERUSER PASSWORD {password}",)
# Stock PostgreSQL does not inherit the REPLICATION attribute; RDS's patched one lets rds_replication do.
_UNEQUAL: LiteralString = (
    "SELECT rolname, NOT rolreplication FROM pg_authid WHERE NOT rolsuper AND rolname NOT LIKE 'rds%'"
    " AND rolreplication <> (rolcanlogin AND pg_has_role(oid, 'rds_replication', 'USAGE'))"
)
_POLL_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Database:
    """A prepared database: how planrunner's login and the application reach it.

    The DSNs hold no password; ``password`` is that of both logins. ``superuser_dsn`` holds its own.
    """

    dsn: str
    password: str
    superuser_dsn: str
    application_dsn: str | None = None


def prepare_source(server: PostgresServer, database: str = DATABASE, *, force_ssl: bool = False) -> Database:
    """Make a fresh, running server RDS's, with an empty database owned by ``shop_owner``.

    The login ``migrator`` is RDS's master user: no superuser, a member of rds_superuser, with CREATEROLE, and
    what RDS denies it is denied (``rds_limits``). It made the other roles and belongs to none of them.
    """
    password = secrets.token_urlsafe(12)
    make_rds(server, master=MIGRATOR, password=password, force_ssl=force_ssl)
    with psycopg.connect(server.dsn(MIGRATOR, "postgres", password=password), autocommit=True) as session:
        _execute(session, _SHOP_ROLES, password)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute(
            sql.SQL("CREATE DATABASE {} OWNER shop_owner").format(sql.Identifier(database)),
        )
    return _database(server, database, password, application=True)


def prepare_rds_target(server: PostgresServer, database: str = DATABASE) -> Database:
    """Make a fresh, running server RDS's, with the empty database that RDS makes for its master user.

    UsageError before 16: RDS's patches let its master user create subscriptions there, stock PostgreSQL doesn't.
    """
    if server.version[0] < 16:
        raise UsageError(
            "before PostgreSQL 16 only a superuser can create subscriptions, so no stock server can stand for"
            " a target on RDS",
            remedy="Take a server of 16 or newer for the target.",
        )
    password = secrets.token_urlsafe(12)
    make_rds(server, master=MIGRATOR, password=password)
    with psycopg.connect(server.dsn(MIGRATOR, "postgres", password=password), autocommit=True) as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    return _database(server, database, password, application=False)


def prepare_target(server: PostgresServer, database: str = DATABASE) -> Database:
    """Give a running server the login ``migrator`` and an empty database that it owns.

    From 16 on it is no superuser but may create databases, roles and subscriptions; before that only
    a superuser can create subscriptions, so it is one.
    """
    password = secrets.token_urlsafe(12)
    roles = _TARGET_ROLES_16 if server.version[0] >= 16 else _TARGET_ROLES_15
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        _execute(session, roles, password)
        session.execute(
            sql.SQL("CREATE DATABASE {} OWNER migrator").format(sql.Identifier(database)),
        )
    return _database(server, database, password, application=False)


def _execute(session: psycopg.Connection[Any], statements: tuple[LiteralString, ...], password: str) -> None:
    for statement in statements:
        session.execute(sql.SQL(statement).format(password=sql.Literal(password)))


def _database(server: PostgresServer, database: str, password: str, *, application: bool) -> Database:
    return Database(
        dsn=server.dsn(MIGRATOR, database),
        password=password,
        superuser_dsn=server.dsn(server.superuser, database, password=server.password),
        application_dsn=server.dsn(APPLICATION, database, password=password) if application else None,
    )


class ReplicationRights:
    """Lets members of ``rds_replication`` replicate, as RDS does, while it is open; a context manager.

    A background session of the superuser compares every few milliseconds and follows over restarts. A role
    that got the attribute in another way, which RDS denies, loses it.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rds_replication", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)

    def _watch(self) -> None:
        while not self._end.is_set():
            # The server is away while it restarts, and for good at the end; a role may go meanwhile.
            with suppress(psycopg.Error):
                self._follow()
            self._end.wait(_POLL_SECONDS)

    def _follow(self) -> None:
        dsn = self._server.superuser_dsn
        with psycopg.connect(dsn, autocommit=True, application_name="rdsadmin") as session:
            while not self._end.wait(_POLL_SECONDS):
                for role, may in session.execute(_UNEQUAL).fetchall():
                    wish = sql.SQL("REPLICATION") if may else sql.SQL("NOREPLICATION")
                    session.execute(sql.SQL("ALTER ROLE {} ").format(sql.Identifier(role)) + wish)
