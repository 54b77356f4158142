"""TLS stripped on the way: nothing is said in clear, on any leg, and the error says what and what to do."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from tests.faults.lines import FaultLine
from tests.integration.tls.test_whole_run import TABLES, planrunner

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.tls.conftest import Scene

pytestmark = pytest.mark.server

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: stripped}}
connections:
  source:
    dsn: host=localhost hostaddr=127.0.0.1 port={source} user=migrator dbname={name}_source
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
    {proof}
  target:
    dsn: host=localhost hostaddr=127.0.0.1 port={target} user=migrator dbname={name}_target
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
    {proof}
    source_as_seen_from_target: {{host: localhost, port: {stream}{theirs}}}
steps:
  - {{id: copy, uses: snapshot, with: {{jobs: 2}}}}
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify}}
"""


@pytest.mark.parametrize(
    ("leg", "mode"),
    [
        ("source", "verify-full"),
        ("source", "require"),
        ("target", "verify-full"),
        ("target", "require"),
        ("stream", "verify-full"),
        pytest.param("stream", "require", marks=pytest.mark.soak),
    ],
)
def test_a_line_whose_tls_is_stripped_carries_nothing_in_clear(
    tls_server: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leg: str, mode: str
) -> None:
    # Encryption without proof of identity is refused there.
    monkeypatch.delenv("CI", raising=False)
    verified = mode == "verify-full"
    tls_server.show("good")
    name = f"stripped_{leg}_{mode.replace('-', '_')}"
    with tls_server.behind() as session:
        for side in ("source", "target"):
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{name}_{side}")))
    with psycopg.connect(
        host=str(tls_server.server.folder),
        port=tls_server.server.port,
        user="postgres",
        password=tls_server.server.password,
        dbname=f"{name}_source",
    ) as session:
        session.execute(TABLES)
    (tmp_path / "root.crt").write_bytes(tls_server.root.read_bytes())
    plan = tmp_path / "plan.yaml"
    with ExitStack() as stack:
        lines = {
            each: stack.enter_context(FaultLine(tls_server.server.port))
            for each in ("source", "target", "stream")
        }
        ports = {each: line.port for each, line in lines.items()}
        proof = "ca: ./root.crt" if verified else "allow_self_signed_certs: true"
        theirs = f", sslrootcert: {tls_server.root}" if verified else ""
        plan.write_text(PLAN.format(name=name, proof=proof, theirs=theirs, **ports))
        lines[leg].set(tls="strip")

        refused = planrunner(plan, tls_server, "run", "--yes", "--no-input")

        said = refused.stdout + refused.stderr
        assert refused.returncode == 1, said
        assert "Traceback" not in said
        assert "open sesame" not in said
        assert "does not support TLS" in said
        assert "strips" in said
        counts = lines[leg].counts()
        assert counts.tls_denied > 0
        assert [(line.counts().startups, line.counts().passwords) for line in lines.values()] == [(0, 0)] * 3

        if leg != "stream":
            return
        lines[leg].heal()
        mended = planrunner(plan, tls_server, "run", "--yes", "--no-input")
        assert mended.returncode == 0, mended.stdout + mended.stderr
        assert lines[leg].counts().encrypted > 0
        assert [(line.counts().startups, line.counts().passwords) for line in lines.values()] == [(0, 0)] * 3
