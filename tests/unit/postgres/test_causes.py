"""Recognising what libpq and servers say, where no server of the tests says it."""

from __future__ import annotations

import psycopg
import pytest

from planrunner.errors import ConnectionFailed
from planrunner.model import Endpoint, RdsInstance, Side
from planrunner.postgres.failures import condensed, connection_failure, dsn_parameters

SAID = {
    "sorry, too many clients already": "no connection left",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute": "no connection left",
    "the database system is starting up": "starting up or shutting down",
    "the database system is not yet accepting connections": "starting up or shutting down",
    'no pg_hba.conf entry for host "10.0.0.1", user "m", database "app", SSL off': "no unencrypted connection",
    'no pg_hba.conf entry for host "10.0.0.1", user "m", database "app", SSL encryption': "no pg_hba.conf entry",
    'PAM authentication failed for user "m"': "does not accept the password",
    "SSL error: certificate verify failed: self-signed certificate in certificate chain": "certificate verify failed",
    "SSL error: certificate verify failed: CRL has expired": "revocation list",
    'sslmode value "verify-full" invalid when SSL support is not compiled in': "built without TLS",
    'definition of service "x" not found': "PGSERVICE",
    "must be superuser or replication role to start walsender": "Missing REPLICATION privilege",
    "connection timeout expired": "does not answer",
    "server closed the connection unexpectedly\n\tThis probably means": "closed the connection",
}


def _error(text: str) -> psycopg.OperationalError:
    return psycopg.OperationalError(
        f'connection failed: connection to server at "10.1.2.3", port 5432 failed: FATAL:  {text}'
    )


def _endpoint(dsn: str = "postgresql://m@db.example.com/app", rds: RdsInstance | None = None) -> Endpoint:
    return Endpoint(side=Side.TARGET, dsn=dsn, rds=rds)


@pytest.mark.parametrize(("said", "told"), SAID.items())
def test_the_servers_words_become_a_cause_with_a_remedy(said: str, told: str) -> None:
    failure = connection_failure(_error(said), _endpoint())
    assert told in failure.message
    assert failure.message.startswith("target: ")
    assert failure.remedy
    assert "\n" not in failure.message


def test_unknown_words_are_passed_on_with_the_place() -> None:
    failure = connection_failure(_error("something new"), _endpoint())
    assert failure.message == "target: cannot connect to db.example.com:5432: something new"


def test_an_rds_host_name_is_enough_to_name_the_instance() -> None:
    endpoint = _endpoint("postgresql://m@orders.abc.eu-west-1.rds.amazonaws.com/app")
    failure = connection_failure(_error("Connection refused"), endpoint)
    assert "--db-instance-identifier orders " in str(failure.remedy)


def test_braces_in_names_are_no_format() -> None:
    failure = connection_failure(
        _error('database "{user}" does not exist'), _endpoint("host=h dbname='{x.__class__}'")
    )
    assert '"{x.__class__}"' in failure.message


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://m:geheim@h/db failed",
        "host=h password=geheim user=m",
        "host=h password = 'ge\\'heim geheim' user=m",
        "PASSWORD 'geheim'",
    ],
)
def test_what_looks_like_a_password_is_not_shown(text: str) -> None:
    assert "heim" not in condensed(text)


def test_given_secrets_are_not_shown_wherever_they_stand() -> None:
    assert condensed("a\n  geheim b\n\n", ["geheim", ""]) == "a; *** b"


def test_a_dsn_that_is_none_is_told_with_its_place_in_the_plan() -> None:
    with pytest.raises(ConnectionFailed, match=r"connections\.target\.dsn is not a DSN") as caught:
        dsn_parameters(_endpoint("host=h user m"))
    assert caught.value.remedy
