"""Denies on a stock server what RDS denies its master user: roles, rights and ways in as RDS has them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import conninfo, sql

from planrunner.errors import UsageError

if TYPE_CHECKING:
    from planrunner.sandbox.servers import PostgresServer

# A server of its own name for the superuser looks like RDS to pg_dump too: owners, grants, REVOKE … FROM rdsadmin.
RDS_ADMIN = "rdsadmin"
# As pg_dumpall tells of instances of 14, 15 and 17; what a version has no role for is left out.
_ROLES: tuple[LiteralString, ...] = (
    "CREATE ROLE rds_superuser NOLOGIN",
    "CREATE ROLE rds_replication NOLOGIN",
    "CREATE ROLE rds_password NOLOGIN",
    "CREATE ROLE rds_iam NOLOGIN",
    "CREATE ROLE rds_ad NOLOGIN",
    "CREATE ROLE rds_extension NOLOGIN NOINHERIT",
    "CREATE ROLE rds_reserved NOLOGIN NOINHERIT",
    "CREATE ROLE rdsrepladmin NOLOGIN NOINHERIT REPLICATION",
    "CREATE ROLE rdstopmgr LOGIN VALID UNTIL 'infinity'",
    "GRANT pg_monitor TO rdstopmgr",
    "GRANT pg_monitor, pg_signal_backend, rds_replication, rds_password TO rds_superuser WITH ADMIN OPTION",
)
_SINCE: tuple[tuple[int, LiteralString], ...] = (
    # RDS gives pg_read_all_data too and keeps pg_authid closed; stock PostgreSQL opens that with it.
    (15, "GRANT pg_checkpoint TO rds_superuser WITH ADMIN OPTION"),
    (15, "GRANT SET ON PARAMETER session_replication_role TO rds_superuser"),
    (16, "GRANT pg_create_subscription, pg_use_reserved_connections TO rds_superuser WITH ADMIN OPTION"),
    # The master user gives logins IAM without having it itself; before 16 CREATEROLE is enough.
    (16, "GRANT rds_iam TO rds_superuser WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"),
    (17, "GRANT pg_maintain TO rds_superuser WITH ADMIN OPTION"),
)
_MASTER: LiteralString = (
    "CREATE ROLE {master} LOGIN NOSUPERUSER CREATEDB CREATEROLE NOREPLICATION PASSWORD {password}"
    " VALID UNTIL 'infinity'"
)
# Before 16 CREATEROLE may grant every role but a superuser's. Nobody is a member, so nobody gains by this.
_GUARD_FILES: LiteralString = (
    "UPDATE pg_authid SET rolsuper = true WHERE rolname IN"
    " ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')"
)
# A walsender looks at the attribute and at nothing else, so members of rds_replication must have it; RDS shows
# them without. Nobody but a superuser reads pg_authid, so what these views show is what there is.
_SHOWN = {"pg_roles": "rolreplication", "pg_shadow": "userepl"}
_HIDDEN: LiteralString = (
    "(pg_authid.rolreplication AND (pg_authid.rolsuper OR NOT pg_authid.rolcanlogin)) AS {name}"
)
_ALIVE_SECONDS = 10


def make_rds(server: PostgresServer, *, master: str, password: str, force_ssl: bool = False) -> None:
    """Give a fresh, running server the roles of RDS and the master user ``master``, and close what RDS closes.

    ``force_ssl`` is ``rds.force_ssl=1``: sessions without TLS find no entry in pg_hba.conf. The server has to
    be one with TLS then. Its superuser is for the sandbox alone.
    """
    major = server.version[0]
    statements: list[LiteralString] = [*_ROLES, *(given for since, given in _SINCE if major >= since)]
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        if server.superuser != RDS_ADMIN:
            session.execute("CREATE ROLE rdsadmin NOLOGIN SUPERUSER REPLICATION BYPASSRLS")
        for statement in statements:
            session.execute(statement)
        session.execute(
            sql.SQL(_MASTER).format(master=sql.Identifier(master), password=sql.Literal(password))
        )
        session.execute(sql.SQL("GRANT rds_superuser TO {}").format(sql.Identifier(master)))
        session.execute("CREATE DATABASE rdsadmin OWNER rdsadmin")
        session.execute("REVOKE ALL ON DATABASE rdsadmin FROM PUBLIC")
        if major < 16:
            session.execute("SET allow_system_table_mods = on")
            session.execute(_GUARD_FILES)
            session.execute("RESET allow_system_table_mods")
        _close_doors(session, server, force_ssl=force_ssl)
    for database in ("template1", "postgres"):
        _own_public(server, database, master)


def _own_public(server: PostgresServer, database: str, master: str) -> None:
    dsn = conninfo.make_conninfo(server.superuser_dsn, dbname=database)
    with psycopg.connect(dsn, autocommit=True) as session:
        hide_replication(session)
        if server.version[0] < 15:
            statement = sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(master))
            session.execute(statement)


def hide_replication(session: psycopg.Connection[Any]) -> None:
    """Let ``pg_roles`` and ``pg_user`` of this database show logins without REPLICATION, as RDS does."""
    session.execute("SET allow_system_table_mods = on")
    for view, column in _SHOWN.items():
        row = session.execute("SELECT pg_get_viewdef(%s::regclass)", [f"pg_catalog.{view}"]).fetchone()
        assert row is not None
        shown = sql.SQL(_HIDDEN).format(name=sql.Identifier(column)).as_string()
        written = re.compile(r"(?:pg_authid\.)?rolreplication(?: AS userepl)?(?=,)")
        definition, times = written.subn(shown, row[0])
        if times != 1:
            raise UsageError(f"{view} of this PostgreSQL is not understood: {row[0]}")
        statement = sql.SQL("CREATE OR REPLACE VIEW pg_catalog.{} AS ").format(sql.Identifier(view))
        session.execute(statement.as_string().encode() + definition.encode())
    session.execute("RESET allow_system_table_mods")


def _close_doors(session: psycopg.Connection[Any], server: PostgresServer, *, force_ssl: bool) -> None:
    """No way into rdsadmin's database, none to replicate files from elsewhere, none without TLS where it is forced."""
    kind = "hostssl" if force_ssl else "host"
    lines = (
        "local all all scram-sha-256",
        # Who takes a snapshot of the storage is on the machine itself.
        "local replication all scram-sha-256",
        "host rdsadmin all all reject",
        f"{kind} all all all scram-sha-256",
    )
    # Written over, not replaced: the file stays the server's account's.
    (server.data / "pg_hba.conf").write_text("\n".join((*lines, "")))
    before = session.execute("SELECT pg_conf_load_time()").fetchone()
    session.execute("SELECT pg_reload_conf()")
    for _ in range(_ALIVE_SECONDS * 200):
        if session.execute("SELECT pg_conf_load_time()").fetchone() != before:
            return
        session.execute("SELECT pg_sleep(0.005)")
    raise UsageError("the sandbox server did not read its pg_hba.conf")
