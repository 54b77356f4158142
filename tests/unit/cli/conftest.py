"""The command as a user starts it: a process of its own, with its exit code and both its outputs."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer

Cli: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: shop}}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{port}/old?sslmode=disable
    password: {{secret: {{env: OLD_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{port}/new?sslmode=disable
    password: {{secret: {{env: OLD_PASSWORD}}}}
steps:
  - {{id: copy, uses: snapshot, with: {{owners: login}}}}
"""


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **extra}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def call(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "/tmp/drv/dbg.py", *arguments],
            cwd=tmp_path,
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}, max_life=900) as running:
        yield running


@pytest.fixture
def plan(server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plan between two fresh databases of one server; its password is in the environment."""
    monkeypatch.setenv("OLD_PASSWORD", server.password)
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("CREATE DATABASE old")
        session.execute("CREATE DATABASE new")
    with psycopg.connect(server.dsn("postgres", "old", password=server.password), autocommit=True) as session:
        session.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
        session.execute("INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 100) n")
    path = tmp_path / "shop.yaml"
    path.write_text(PLAN.format(port=server.port))
    yield path
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        session.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        session.execute("DROP DATABASE old WITH (FORCE)")
        session.execute("DROP DATABASE new WITH (FORCE)")
