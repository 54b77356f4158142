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
    dsn: postgresql://postgres@127.0.0.1:{old}/shop?sslmode=disable
    password: {{secret: {{env: OLD_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{new}/shop?sslmode=disable
    password: {{secret: {{env: NEW_PASSWORD}}}}
steps:
  - {{id: copy, uses: snapshot, with: {{owners: login}}}}
"""


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **extra}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def call(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "planrunner", *arguments],
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
def old() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}, max_life=900) as running:
        yield running


@pytest.fixture(scope="session")
def new() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(18), max_life=900) as running:
        yield running


def shop(server: PostgresServer) -> str:
    return server.dsn("postgres", "shop", password=server.password)


@pytest.fixture
def plan(
    old: PostgresServer, new: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A plan between two fresh databases; their passwords are in the environment."""
    monkeypatch.setenv("OLD_PASSWORD", old.password)
    monkeypatch.setenv("NEW_PASSWORD", new.password)
    for server in (old, new):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE shop")
    with psycopg.connect(shop(old), autocommit=True) as session:
        session.execute("CREATE TABLE item (id int PRIMARY KEY, name text)")
        session.execute("INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 100) n")
    path = tmp_path / "shop.yaml"
    path.write_text(PLAN.format(old=old.port, new=new.port))
    yield path
    with psycopg.connect(old.superuser_dsn, autocommit=True) as session:
        session.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        session.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    for server in (old, new):
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("DROP DATABASE shop WITH (FORCE)")
