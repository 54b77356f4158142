"""What libpq would take from the shell or the home directory changes neither where nor how we connect."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from psycopg import conninfo

from planrunner.errors import ConnectionFailed
from planrunner.model import DialAddress
from planrunner.postgres.tools import tool_environment
from planrunner.replication.subscriptions import dial_parameters
from planrunner.switching.children import plain_environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.tls.conftest import Scene

pytestmark = pytest.mark.server

SHELL = {
    "PGHOST": "elsewhere.example.com",
    "PGHOSTADDR": "127.0.0.2",
    "PGPORT": "1",
    "PGDATABASE": "other",
    "PGOPTIONS": "-c role=nobody",
    "PGSSLMODE": "disable",
    "PGSSLNEGOTIATION": "direct",
    "PGSSLROOTCERT": "/nonexistent/root.crt",
    "PGSSLCRL": "/nonexistent/list.crl",
    "PGSSLCERTMODE": "require",
    "PGSSLMAXPROTOCOLVERSION": "TLSv1.2",
    "PGCHANNELBINDING": "disable",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREPEER": "nobody",
    "PGCLIENTENCODING": "LATIN1",
}


@pytest.fixture
def plan(tls_server: Scene) -> dict[str, str]:
    """What a plan would say: no address, no port but its own, no mode."""
    tls_server.show("good")
    return {"sslrootcert": str(tls_server.root)}


@pytest.mark.parametrize("name", SHELL)
def test_a_session_takes_nothing_of_the_kind_from_the_shell(
    tls_server: Scene, plan: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, SHELL[name])

    # A label of its own: a session of the test before may not be gone yet.
    label = f"shell {name}"
    with tls_server.connect(plan, label=label).session(read_only=True) as session:
        assert tls_server.seen(label) == [(True, "TLSv1.3")]
        assert session.execute("SELECT current_user, current_database()").fetchone() == (
            "migrator",
            "postgres",
        )


def test_an_address_in_the_shell_does_not_lead_a_host_elsewhere(
    tls_server: Scene, plan: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.2")
    server = tls_server.connect(plan)
    given = conninfo.conninfo_to_dict(server.endpoint.dsn)
    given.pop("hostaddr")
    named = tls_server.connect(plan, dsn=conninfo.make_conninfo("", **given))  # type: ignore[arg-type]

    named.open(read_only=True).close()


def test_a_service_of_the_shell_does_not_weaken_the_line(
    tls_server: Scene, plan: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text(
        "[weak]\nsslmode=disable\nhostaddr=127.0.0.2\nsslrootcert=/nonexistent\noptions=-c role=x\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv("PGSERVICE", "weak")

    with tls_server.connect(plan, label="service").session(read_only=True):
        assert tls_server.seen("service") == [(True, "TLSv1.3")]


def test_a_child_is_not_told_what_the_shell_says(
    tls_server: Scene, plan: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PGPASSFILE", "/home/me/.pgpass")
    psql = tls_server.server.bin_dir / "psql"
    dial = conninfo.make_conninfo("", **tls_server.connect(plan).parameters())

    told = subprocess.run(
        [psql, "-X", "-At", "-d", dial, "-c", "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"],
        env={**tool_environment({}), "PGPASSWORD": "open sesame"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout == "TLSv1.3\n"
    for environment in (tool_environment({}), plain_environment()):
        assert {name for name in environment if name.startswith("PG")} == {"PGPASSFILE"}


def test_self_signed_means_no_proof_even_where_the_home_directory_holds_certificates(
    tls_server: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    shutil.copyfile(tls_server.root, folder / "root.crt")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert os.environ["HOME"] == str(tmp_path)
    tls_server.show("other CA")

    with pytest.raises(ConnectionFailed, match="does not vouch for"):
        tls_server.connect({}).open(read_only=True).close()
    tls_server.connect({}, self_signed=True).open(read_only=True).close()


def test_a_subscription_that_dials_another_address_than_our_socket_verifies_it(tls_server: Scene) -> None:
    seen = DialAddress(host="10.0.3.7")
    server = tls_server.connect({}, dsn=f"host={tls_server.server.folder} dbname=app", seen_from_other=seen)

    assert "sslmode" not in server.parameters()
    assert dial_parameters(server)["sslmode"] == "verify-full"
    assert dial_parameters(server)["gssencmode"] == "disable"


@pytest.mark.parametrize(
    "dsn", ["hostaddr=10.0.3.7 dbname=app", "service=orders", "host=/tmp,db.example.com dbname=a"]
)
def test_every_line_that_may_leave_the_machine_is_verified(tls_server: Scene, dsn: str) -> None:
    assert tls_server.connect({}, dsn=dsn).parameters()["sslmode"] == "verify-full"
