"""TLS as users meet it, against Debian's PostgreSQL 15 with a self-signed certificate for localhost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from planrunner.errors import ConnectionFailed
from planrunner.model import Mark, RdsInstance, Side
from planrunner.steps.validate import Validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from planrunner.postgres.connection import Server

pytestmark = pytest.mark.server


@pytest.fixture
def old(place: Callable[..., Any], debian_server: Any) -> Any:
    return place(debian_server)


@pytest.fixture
def certificate(debian_server: Any, tmp_path: Path) -> str:
    copy = tmp_path / "root.crt"
    copy.write_bytes((debian_server.data / "tls.crt").read_bytes())
    return str(copy)


@pytest.fixture
def strange_certificate(tmp_path: Path, certificate: str) -> str:
    """A root that has signed nothing of ours, as RDS's bundle would be."""
    import subprocess

    path = tmp_path / "strange.crt"
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=Strange CA",
        "-days",
        "2",
    ]
    subprocess.run([*made, "-keyout", tmp_path / "x.key", "-out", path], check=True, capture_output=True)
    return str(path)


def _refusal(server: Server) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        server.open(read_only=True).close()
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    return caught.value


def test_certificate_verify_failed_offers_the_bundle_and_the_way_without(
    old: Any, strange_certificate: str
) -> None:
    parameters = {"sslmode": "verify-full", "sslrootcert": strange_certificate, "host": "localhost"}
    error = _refusal(old.connect(parameters=parameters))
    assert "certificate verify failed" in error.message
    assert strange_certificate in error.message
    assert "sslrootcert=FILE" in str(error.remedy)
    assert "connections.source.allow_self_signed_certs: true" in str(error.remedy)
    rds = old.connect(parameters=parameters, rds=RdsInstance(instance="orders-prod"))
    assert "global-bundle.pem" in str(_refusal(rds).remedy)


def test_the_default_without_a_root_certificate_names_the_missing_file(old: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "absent.crt")
    error = _refusal(old.connect(parameters={"sslmode": "verify-full", "sslrootcert": missing}))
    assert f"no file {missing}" in error.message
    assert "sslrootcert=FILE" in str(error.remedy)


def test_a_certificate_of_another_name_is_told_apart(old: Any, certificate: str) -> None:
    error = _refusal(old.connect(parameters={"sslmode": "verify-full", "sslrootcert": certificate}))
    assert "another host name" in error.message
    assert "hostaddr=" in str(error.remedy)


def test_a_server_that_insists_on_tls_names_sslmode(old: Any) -> None:
    error = _refusal(old.connect(parameters={"sslmode": "disable"}))
    assert "rds.force_ssl" in error.message
    assert "sslmode=verify-full" in str(error.remedy)


def test_a_server_without_tls_is_told(target: Any) -> None:
    error = _refusal(target.connect(parameters={"sslmode": "require"}))
    assert "does not support TLS" in error.message


def test_the_right_certificate_is_accepted_and_said_to_be_verified(
    old: Any, target: Any, certificate: str, make_run: Callable[..., Any]
) -> None:
    given = {"sslmode": "verify-full", "sslrootcert": certificate, "host": "localhost"}
    server = old.connect(parameters=given)
    findings = Validate().findings(make_run(server, target.connect(side=Side.TARGET)))
    assert [f.mark for f in findings if "certificate verified" in f.text] == [Mark.PASS]


def test_allow_self_signed_certs_connects_encrypted_and_warns(
    old: Any, target: Any, make_run: Callable[..., Any]
) -> None:
    server = old.connect(self_signed=True, parameters={"sslmode": "verify-full"})
    findings = Validate().findings(make_run(server, target.connect(side=Side.TARGET)))
    (warning,) = [f for f in findings if "nothing proves who answers" in f.text]
    assert warning.mark is Mark.WARN
    assert "TLSv1" in warning.text
    assert "allow_self_signed_certs" in warning.text


def test_the_strictest_mode_is_found_before_any_password_is_sent(
    old: Any, certificate: str, strange_certificate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from psycopg import conninfo

    from planrunner.postgres.tls_offer import strictest

    monkeypatch.setenv("PGPASSWORD", "never sent")
    before = len(old.server.log.read_text())
    dsn = conninfo.make_conninfo(old.server.dsn("postgres", old.database), host="localhost")
    dsn = dsn.replace("sslmode=prefer", "").replace("sslmode=disable", "")
    assert strictest(conninfo.make_conninfo(dsn, sslrootcert=certificate)) == {"sslmode": "verify-full"}
    assert strictest(conninfo.make_conninfo(dsn, sslrootcert=strange_certificate)) is None
    assert strictest(dsn) == {"sslmode": "require"}
    logged = old.server.log.read_text()[before:]
    assert "never sent" not in logged
    assert "password authentication failed" not in logged


def test_a_server_without_tls_and_one_that_is_not_there_are_told_apart(plain_server: Any) -> None:
    from planrunner.postgres.tls_offer import strictest

    assert strictest(f"host=127.0.0.1 port={plain_server.port} dbname=postgres user=postgres") == {
        "sslmode": "disable"
    }
    assert strictest("host=127.0.0.1 port=1 dbname=postgres user=postgres") is None
