"""What libpq is told of TLS where no server of the tests would answer differently."""

from __future__ import annotations

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import StepBlocked
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.postgres.passwords import lasting_password
from planrunner.postgres.tls import NO_AUTHORITY, for_another_libpq, is_socket, secured, seen_from_elsewhere
from planrunner.switching.console import Console

REMOTE = {"host": "db.example.com"}


@pytest.mark.parametrize("mode", ["prefer", "allow", "disable", "verify-ca"])
def test_allowing_self_signed_certificates_keeps_the_encryption_whatever_the_mode(mode: str) -> None:
    made = secured({**REMOTE, "sslmode": mode}, self_signed=True, authority="/etc/ssl/ca.pem")
    assert (made["sslmode"], made["sslrootcert"]) == ("require", NO_AUTHORITY)


def test_the_systems_authorities_are_worth_nothing_without_the_name() -> None:
    made = secured({**REMOTE, "sslmode": "verify-ca"}, self_signed=False, authority="system")
    assert (made["sslmode"], made["sslrootcert"]) == ("verify-full", "system")


def test_kerberos_is_taken_only_where_the_plan_says_so() -> None:
    assert secured(REMOTE, self_signed=False, authority=None)["gssencmode"] == "disable"
    asked = secured({**REMOTE, "gssencmode": "require"}, self_signed=False, authority=None)
    assert asked["gssencmode"] == "require"


@pytest.mark.parametrize(
    ("parameters", "local"),
    [
        ({}, True),
        ({"host": "/run/postgresql"}, True),
        ({"host": "@abstract"}, True),
        ({"host": "/tmp,/run"}, True),
        ({"host": "/tmp,db.example.com"}, False),
        ({"host": "/tmp", "hostaddr": "10.0.0.1"}, False),
        ({"service": "orders"}, False),
        ({"host": "localhost"}, False),
    ],
)
def test_only_sockets_are_let_off(parameters: dict[str, str], local: bool) -> None:
    assert is_socket(parameters) is local
    assert ("sslmode" not in secured(parameters, self_signed=False, authority=None)) is local


@pytest.mark.parametrize(("ca", "roots"), [("rds", None), ("/etc/own.pem", None), ("system", "system")])
def test_no_file_of_this_machine_goes_to_another_host(ca: str, roots: str | None) -> None:
    made = seen_from_elsewhere({**REMOTE, "sslnegotiation": "direct"}, None, self_signed=False, ca=ca)
    assert (made["sslmode"], made.get("sslrootcert")) == ("verify-full", roots)
    # A server before 17 would refuse the word.
    assert "sslnegotiation" not in made


def test_another_libpq_is_spared_what_it_may_not_know() -> None:
    assert for_another_libpq({**REMOTE, "sslnegotiation": "direct"}) == REMOTE


@pytest.mark.parametrize(
    ("admin", "mode"),
    [
        ("host=pool.example.com", "verify-full"),
        ("host=pool.example.com sslmode=prefer", "require"),
        ("host=127.0.0.1", "disable"),
        ("host=127.0.0.1 sslmode=require", "require"),
    ],
)
def test_a_poolers_console_is_no_exception(admin: str, mode: str) -> None:
    assert f"sslmode={mode}" in Console(admin, lambda: None).conninfo().split()


def test_a_subscription_is_given_no_token() -> None:
    def server(*, iam: bool) -> Server:
        endpoint = Endpoint(side=Side.SOURCE, dsn="host=db.example.com", rds_iam=iam)
        return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret("s"), label="test")

    with pytest.raises(StepBlocked, match="15 minutes"):
        lasting_password(server(iam=True))
    lasting = lasting_password(server(iam=False))
    assert lasting is not None
    assert lasting.reveal() == "s"
