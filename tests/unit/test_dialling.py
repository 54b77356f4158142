"""By which addresses this machine and a target are seen, as far as that can be told without asking anybody."""

from __future__ import annotations

import socket

import pytest

from planrunner.dialling import other, runner


def test_a_server_on_this_machine_sees_the_loopback_address() -> None:
    assert runner("127.0.0.1", 5432).addresses == ("127.0.0.1",)


def test_the_address_is_the_one_that_a_connection_really_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        with socket.create_connection(door.getsockname()) as line:
            seen = line.getsockname()[0]
        assert runner("127.0.0.1", door.getsockname()[1]).addresses == (seen,)


def test_a_name_that_leads_nowhere_tells_so() -> None:
    found = runner("no-such-host.invalid", 5432)
    assert found.addresses == ()
    assert found.hidden == "no-such-host.invalid leads to no address from here"


def test_a_target_on_this_machine_dials_as_this_machine_does() -> None:
    assert other("localhost", "127.0.0.1", 5432).addresses == ("127.0.0.1",)
    assert other("/var/run/postgresql", "127.0.0.1", 5432).addresses == ("127.0.0.1",)


def test_a_target_elsewhere_is_seen_at_its_own_address_with_a_doubt() -> None:
    found = other("8.8.4.4", "8.8.8.8", 5432)
    assert found.addresses == ("8.8.4.4",)
    assert found.doubt is not None
    assert "NAT" in found.doubt


@pytest.mark.parametrize("target", ["10.0.0.5", "192.168.1.9", "fd00::5"])
def test_a_private_target_dials_a_public_source_from_an_address_nobody_knows(target: str) -> None:
    found = other(target, "8.8.8.8", 5432)
    assert found.addresses == ()
    assert found.hidden == f"{target} is private and 8.8.8.8 is public"


def test_a_private_target_dials_a_private_source_from_its_own() -> None:
    assert other("10.0.0.5", "10.20.1.5", 5432).addresses == ("10.0.0.5",)
