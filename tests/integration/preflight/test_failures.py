"""What a user reads when a server refuses: cause, remedy, no secret, no traceback."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo, sql

from planrunner.errors import ConnectionFailed, QueryFailed, ServerError
from planrunner.model import RdsInstance

if TYPE_CHECKING:
    from collections.abc import Callable

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server


def _refusal(server: Server, **extra: str) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        server.open(read_only=True, **extra).close()
    _is_fit_for_people(caught.value)
    return caught.value


def _is_fit_for_people(error: ServerError) -> None:
    text = str(error)
    assert error.message.startswith("source: ")
    assert error.remedy, error.message
    assert "Traceback" not in text
    assert "\n" not in error.message
    assert "{" not in error.message


def test_a_wrong_password_names_role_and_reference_but_no_password(source: Any) -> None:
    error = _refusal(source.connect(source.role(), wrong="not-the-password"))
    assert error.sqlstate == "28P01"
    assert "does not accept the password of role" in error.message
    assert "connections.source.password" in str(error.remedy)
    assert "not-the-password" not in str(error)


def test_a_missing_database_is_named(source: Any) -> None:
    error = _refusal(source.connect(parameters={"dbname": "nowhere"}))
    assert error.sqlstate == "3D000"
    assert 'no database "nowhere"' in error.message


def test_a_role_that_may_not_log_in_is_named(source: Any) -> None:
    error = _refusal(source.connect(source.role("NOLOGIN")))
    assert "may log in" in error.message


def test_a_role_without_connect_is_given_the_grant(source: Any) -> None:
    login = source.role()
    source.execute(f"REVOKE CONNECT ON DATABASE {source.database} FROM PUBLIC")
    error = _refusal(source.connect(login))
    assert f'GRANT CONNECT ON DATABASE "{source.database}" TO "{login}";' in str(error.remedy)


def test_connection_refused_names_the_address_and_what_listens(source: Any) -> None:
    error = _refusal(source.connect(parameters={"port": "1"}))
    assert "127.0.0.1:1 does not answer" in error.message
    assert "listen_addresses" in str(error.remedy)


def test_connection_refused_at_rds_tells_the_security_group_check(source: Any) -> None:
    rds = RdsInstance(instance="orders-prod", region="eu-west-1")
    error = _refusal(source.connect(rds=rds, parameters={"port": "1"}))
    remedy = str(error.remedy)
    assert "security group" in remedy
    assert "publicly accessible" in remedy
    assert "aws rds describe-db-instances --db-instance-identifier orders-prod --region eu-west-1" in remedy


def test_an_unknown_host_is_named(source: Any) -> None:
    error = _refusal(source.connect(parameters={"host": "no-such-host.invalid"}))
    assert "no-such-host.invalid" in error.message


def test_missing_replication_privilege_on_a_replication_connection(target: Any) -> None:
    login = target.role()
    error = _refusal(target.connect(login), replication="database")
    assert error.sqlstate == "42501"
    assert "Missing REPLICATION privilege" in error.message
    assert f'GRANT rds_replication TO "{login}"' in str(error.remedy)
    assert f'ALTER ROLE "{login}" REPLICATION' in str(error.remedy)


def test_too_many_connections(source: Any) -> None:
    login = source.role("LOGIN CONNECTION LIMIT 1")
    server = source.connect(login)
    held = server.open(read_only=True)
    try:
        assert _refusal(server).sqlstate == "53300"
    finally:
        held.close()


def _failure(server: Server, *statements: str) -> QueryFailed:
    def all_of_them() -> None:
        with server.session() as session:
            for statement in statements:
                session.execute(statement.encode())

    with pytest.raises(QueryFailed) as caught:
        all_of_them()
    _is_fit_for_people(caught.value)
    return caught.value


def test_wal_level_must_be_logical(target: Any) -> None:
    error = _failure(target.connect(), "SELECT pg_create_logical_replication_slot('never_made', 'pgoutput')")
    assert "wal_level must be logical" in error.message
    assert "rds.logical_replication=1" in str(error.remedy)
    assert "enable_logical" in str(error.remedy)


def test_insufficient_privilege_points_at_validate(source: Any) -> None:
    source.execute("CREATE TABLE closed (id int)")
    error = _failure(source.connect(source.role()), "SELECT * FROM public.closed")
    assert error.sqlstate == "42501"
    assert "permission denied for table closed" in error.message
    assert "validate" in str(error.remedy)


def test_rows_hidden_by_a_policy_are_an_error_with_its_own_remedy(source: Any) -> None:
    login = source.role()
    source.execute(
        "CREATE TABLE guarded (id int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON guarded TO {login}",
    )
    error = _failure(source.connect(login), "SELECT * FROM public.guarded")
    assert "BYPASSRLS" in str(error.remedy)


def test_a_read_only_session_is_told(source: Any) -> None:
    error = _failure(
        source.connect(), "SET default_transaction_read_only = on", "CREATE TABLE public.never (id int)"
    )
    assert error.sqlstate == "25006"


def test_a_lock_timeout_tells_how_to_find_the_holder(source: Any) -> None:
    source.execute("CREATE TABLE busy (id int)")
    dsn = conninfo.make_conninfo(source.server.superuser_dsn, dbname=source.database)
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE public.busy")
        error = _failure(source.connect(), "SET lock_timeout = '50ms'", "SELECT * FROM public.busy")
    assert error.sqlstate == "55P03"
    assert "pg_locks" in str(error.remedy)


def test_a_cancelled_statement_is_told(source: Any) -> None:
    error = _failure(source.connect(), "SET statement_timeout = '50ms'", "SELECT pg_sleep(5)")
    assert error.sqlstate == "57014"


def test_a_session_ended_by_the_server_says_run_again(source: Any) -> None:
    error = _failure(source.connect(), "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT 1")
    assert "ended the session" in error.message
    assert "Run again" in str(error.remedy)


def test_a_server_that_dies_under_a_session_says_run_again(
    place: Callable[..., Any], plain_server: Any
) -> None:
    server = place(plain_server).connect()
    killer = threading.Timer(0.5, plain_server.stop, ["immediate"])
    killer.start()
    try:
        error = _failure(server, "SELECT pg_sleep(30)")
    finally:
        killer.join()
        plain_server.start()
    assert "session" in error.message
    assert "Run again" in str(error.remedy)


def test_a_password_in_a_refused_statement_is_not_shown(source: Any) -> None:
    conninfo_text = "host=127.0.0.1 port=1 dbname=x user=y password=very-secret"
    statement = sql.SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p WITH (wrong = 1)").format(
        sql.Literal(conninfo_text)
    )
    with pytest.raises(QueryFailed, match="unrecognized subscription parameter") as caught:
        source.connect().execute(statement)
    assert "very-secret" not in str(caught.value)


def test_a_target_that_cannot_dial_says_whose_network_it_is(source: Any) -> None:
    statement = sql.SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p").format(
        sql.Literal("host=127.0.0.1 port=1 dbname=x user=y password=very-secret")
    )
    error = _failure(source.connect(), statement.as_string())
    assert "source_as_seen_from_target" in str(error.remedy)
    assert "very-secret" not in str(error)
