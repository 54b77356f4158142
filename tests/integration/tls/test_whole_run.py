"""A whole plan over TLS: every program and the subscription verify the server by the plan's own authority."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from tests.acceptance.helpers import contents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.tls.conftest import Scene

pytestmark = pytest.mark.server

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: encrypted}}
connections:
  source:
    dsn: host=localhost hostaddr=127.0.0.1 port={port} user=migrator dbname=tls_source
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
    ca: rds
    ca_fingerprint: "{fingerprint}"
  target:
    dsn: host=localhost hostaddr=127.0.0.1 port={port} user=migrator dbname=tls_target
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
    ca: ./root.crt
    source_as_seen_from_target: {{host: localhost, sslrootcert: {root}}}
steps:
  - {{id: check, uses: validate}}
  - {{id: copy, uses: snapshot, with: {{jobs: 2}}}}
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify}}
"""
TABLES = """
CREATE TABLE wide (id int PRIMARY KEY, t text);
INSERT INTO wide SELECT i, repeat('w', 900) FROM generate_series(1, 12000) i;
CREATE TABLE small (id int PRIMARY KEY, t text);
INSERT INTO small SELECT i, 'row ' || i FROM generate_series(1, 500) i;
"""


def planrunner(plan: Path, scene: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    shell = {"PGSSLMODE": "disable", "PGHOSTADDR": "127.0.0.2", "SOURCE_PASSWORD": "open sesame"}
    return subprocess.run(
        [sys.executable, "-m", "planrunner", words[0], str(plan), *words[1:]],
        env={**os.environ, **shell, "PLANRUNNER_RDS_CA_BUNDLE": str(scene.root), "HOME": str(plan.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_plan_runs_over_verified_tls_from_end_to_end(tls_server: Scene, tmp_path: Path) -> None:
    tls_server.show("good")
    with tls_server.behind() as session:
        for name in ("tls_source", "tls_target"):
            session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    inside = {
        name: f"host={tls_server.server.folder} port={tls_server.server.port} user=postgres"
        f" password='{tls_server.server.password}' dbname={name}"
        for name in ("tls_source", "tls_target")
    }
    with psycopg.connect(inside["tls_source"], autocommit=True) as session:
        session.execute(TABLES)
    (tmp_path / "root.crt").write_bytes(tls_server.root.read_bytes())
    summed = subprocess.run(["sha256sum", tls_server.root], check=True, capture_output=True, text=True)
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        PLAN.format(port=tls_server.server.port, root=tls_server.root, fingerprint=summed.stdout.split()[0])
    )
    before = len(tls_server.let_in())

    ran = planrunner(plan, tls_server, "run", "--yes")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert contents(inside["tls_source"]) == contents(inside["tls_target"])
    sessions = tls_server.let_in()[before:]
    assert len(sessions) > 10
    assert [how for how in sessions if "SSL enabled (protocol=TLSv1.3" not in how] == []
    log = tls_server.server.log.read_text()
    assert re.search(
        r"replication connection authorized: user=pr_\w+_login application_name=pr_\w+ SSL enabled", log
    )

    plan.write_text(plan.read_text().replace(summed.stdout.split()[0], "0" * 64))
    refused = planrunner(plan, tls_server, "status", "--drift")
    assert refused.returncode == 1
    assert "ca_fingerprint pins" in refused.stdout + refused.stderr
