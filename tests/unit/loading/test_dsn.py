"""Connection strings, held against libpq's own reading of them."""

import psycopg
import pytest
from psycopg import conninfo

from planrunner.loading.dsn import KEYWORDS, parse, without_password

GOOD = [
    "postgresql://u@h:1/db",
    "postgres://u@h/db?sslmode=require&application_name=a%20b",
    "postgresql://h/db",
    "postgresql:///db?host=/var/run/postgresql&user=u",
    "postgresql://u@%2Ftmp%2Fsocket:5433/db",
    "postgresql://u%40corp:pw@h/db",
    "postgresql://u:p%40%2F@h/db",
    "postgresql://u@[::1]:5432/db",
    "postgresql://u@a:1,b:2/db?target_session_attrs=read-write",
    "postgresql://u@a,b/db",
    "host=h dbname=db user=u",
    "host = h  dbname = 'a b' password = 'it\\'s \\\\ x'",
    "dbname=a\\ b port=5 password=",
    "service=prod",
    "dbname=db options='-c geqo=off'",
    "host='' dbname=db",
    "postgresql://h/db?options=-c%20geqo%3Doff",
]
BAD = [
    "mysql://u@h/db",
    "jdbc:postgresql://h/db",
    "postgresql:/h/db",
    "http://h/db",
    "h/db",
    "postgresql://u@h/db?sslmod=require",
    "postgresql://u@h/db?sslmode",
    "postgresql://u@h/%zz",
    "postgresql://u@h/%00",
    "postgresql://u@[::1/db",
    "dbname=db nonsense=1",
    "dbname=db 'x'",
    "dbname='db",
    "just words",
]


@pytest.mark.parametrize("text", GOOD)
def test_parameters_are_those_libpq_sees(text: str) -> None:
    theirs = {key: value for key, value in conninfo.conninfo_to_dict(text).items() if value}

    parsed = parse(text)

    assert {key: value for key, value in parsed.parameters.items() if value} == theirs
    assert not [fault for fault in parsed.faults if not fault.is_password]


@pytest.mark.parametrize("text", BAD)
def test_what_libpq_refuses_is_a_fault(text: str) -> None:
    with pytest.raises(psycopg.ProgrammingError):
        conninfo.conninfo_to_dict(text)

    assert parse(text).faults


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me@home@h/db",
        "postgresql://u@a:b:c/db",
        "postgresql://u@h:70000/db",
        "postgresql://u@h",
        "host=h",
    ],
)
def test_what_libpq_would_only_find_when_it_dials_is_a_fault(text: str) -> None:
    assert conninfo.conninfo_to_dict(text)
    assert parse(text).faults


@pytest.mark.parametrize("text", [text for text in GOOD if parse(text).parameters.get("password")])
def test_password_is_a_fault_and_can_be_taken_out(text: str) -> None:
    assert [fault.is_password for fault in parse(text).faults] == [True]

    rest = {k: v for k, v in conninfo.conninfo_to_dict(text).items() if k != "password"}

    assert conninfo.conninfo_to_dict(without_password(text)) == rest


def test_password_among_uri_parameters_is_taken_out() -> None:
    assert (
        without_password("postgresql://u@h/db?password=x&sslmode=require")
        == "postgresql://u@h/db?sslmode=require"
    )
    assert without_password("postgresql://u@h/db?password=x") == "postgresql://u@h/db"
    assert without_password("postgresql://u@h/db") == "postgresql://u@h/db"


@pytest.mark.parametrize("key", ["sslpassword", "scram_client_key", "oauth_client_secret"])
def test_other_secrets_are_faults(key: str) -> None:
    (fault,) = parse(f"dbname=a {key}=hunter2").faults

    assert key in fault.message
    assert "hunter2" not in f"{fault.message}{fault.remedy}"


def test_no_parameter_of_libpq_is_unknown() -> None:
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}

    assert known <= KEYWORDS
