"""``planrunner init`` that looks at real servers: what it finds, and that the plans it proposes lint and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.loading import load
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents
from tests.servers import contrib_bin, server_bin
from tests.terminal import terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.model import Plan

pytestmark = pytest.mark.server
HOLDINGS = """
CREATE TABLE orders (id int PRIMARY KEY, note text);
INSERT INTO orders SELECT n, repeat('x', 200) FROM generate_series(1, 5000) n;
CREATE TABLE coded (code text NOT NULL, v int); CREATE UNIQUE INDEX coded_key ON coded (code);
INSERT INTO coded SELECT 'c' || n, n FROM generate_series(1, 50) n;
CREATE TABLE twice (a int NOT NULL UNIQUE, b int NOT NULL UNIQUE);
CREATE TABLE "odd.{{ name }}"" *" (v text); INSERT INTO "odd.{{ name }}"" *" VALUES ('{{ x }}'), ('y');
CREATE UNLOGGED TABLE cached (id int PRIMARY KEY); INSERT INTO cached VALUES (1);
CREATE SEQUENCE free; CREATE MATERIALIZED VIEW totals AS SELECT count(*) FROM orders;
SELECT lo_create(4711); ANALYZE;
"""


@contextmanager
def pair(old: int, new: int, *, logical: bool = True) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    settings = {"wal_level": "logical"} if logical else {}
    with (
        PostgresServer(server_bin(old), settings=settings, max_life=600) as source,
        PostgresServer(server_bin(new), settings=settings, max_life=600) as target,
    ):
        for server in (source, target):
            with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
                session.execute("CREATE DATABASE app")
        with psycopg.connect(whole(source), autocommit=True) as session:
            session.execute(HOLDINGS.encode())
        yield source, target


def whole(server: PostgresServer) -> str:
    return server.dsn("postgres", "app", password=server.password)


def url(server: PostgresServer, *, password: bool) -> str:
    secret = f":{server.password}" if password else ""
    return f"postgresql://postgres{secret}@127.0.0.1:{server.port}/app"


def planrunner(folder: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planrunner", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **extra},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def proposed(folder: Path, servers: tuple[PostgresServer, PostgresServer], *more: str) -> tuple[Plan, Any]:
    """The plan that init proposes, and what it found."""
    ends = ("--source", url(servers[0], password=True), "--target", url(servers[1], password=True))
    ended = planrunner(folder, "init", *ends, "--inspect", "--output", "json", *more)
    assert ended.returncode == 0, ended.stderr
    text = (folder / "plan.yaml").read_text()
    for server in servers:
        assert server.password not in text + ended.stdout + ended.stderr
    assert planrunner(folder, "lint", "plan.yaml").returncode == 0
    return load(folder / "plan.yaml"), json.loads(ended.stdout)


def uses(plan: Plan, name: str) -> Any:
    return next(step.options for step in plan.steps if step.uses == name)


def test_a_plan_proposed_by_the_wizard_migrates_to_the_end(tmp_path: Path) -> None:
    with pair(16, 18) as (source, target):
        secrets = {"SOURCE_PASSWORD": source.password, "TARGET_PASSWORD": target.password}
        environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), **secrets}
        with terminal(["init"], folder=tmp_path, environment=environment) as there:
            there.answer("Source [", url(source, password=False))
            there.answer("Kept in [env]")
            there.answer("SOURCE_PASSWORD]")
            there.answer("Target [", url(target, password=False))
            there.answer("Kept in [env]")
            there.answer("TARGET_PASSWORD]")
            there.answer("RDS instance [-]")
            there.answer("way back [Y/n]")
            there.answer("Approval [manual]", "auto")
            there.answer("Name [app]")
            assert there.wait() == 0, there.shown
        assert "both servers looked at: 5 tables, 3 without replica identity" in there.shown
        plan = load(tmp_path / "plan.yaml")
        assert [step.uses for step in plan.steps] == [
            "grant",
            "validate",
            "snapshot",
            "sync",
            "cutover_verify",
        ]
        assert plan.source.dsn.endswith("/app?sslmode=disable")
        copy = uses(plan, "snapshot")
        assert copy["without_replica_identity"] == {
            "public.coded": "index",
            'public."odd.{{ name }}"" *"': "full",
            "public.twice": {"index": "twice_a_key"},
        }
        assert copy["unlogged"] == "schema_only"
        assert copy["large_objects"] == "copy"
        assert uses(plan, "cutover_verify")["reverse"] is True
        ended = planrunner(tmp_path, "preview", "plan.yaml", "--detailed-exitcode", **secrets)
        assert ended.returncode == 10, ended.stdout + ended.stderr
        ended = planrunner(tmp_path, "run", "plan.yaml", "--no-input", "--yes", **secrets)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        there, here = contents(whole(source)), contents(whole(target))
        assert here.pop("public.cached")[0] == 0
        del there["public.cached"]
        assert there == here


def test_an_old_source_that_is_not_ready_gets_the_note_and_no_way_back(tmp_path: Path) -> None:
    with pair(13, 18, logical=False) as servers:
        plan, told = proposed(tmp_path, servers)
        text = (tmp_path / "plan.yaml").read_text()
        found = told["found"]
        assert (found["source"]["major"], found["target"]["major"]) == (13, 18)
        assert next(step.uses for step in plan.steps) == "grant"
        assert "Managed elsewhere: the source has wal_level = replica" in text
        assert "reverse" not in uses(plan, "cutover_verify")
        assert told["way_back_lacks"] == ["the target's wal_level is replica, not logical"]
        assert found["tables"] == 5
        assert found["biggest"][0]["name"] == "public.orders"
        assert found["biggest"][0]["rows"] == 5000
        assert (found["sequences"], found["large_objects"]) == (1, 1)
        assert found["materialized_views"] == ["public.totals"]
        assert [t["name"] for t in found["unlogged"]] == ["public.cached"]
        assert uses(plan, "snapshot")["unlogged"] == "copy_at_cutover"
        assert uses(plan, "cutover_verify")["write_pause_budget"] == "6s"
        assert "materialized views (refreshed on the target): public.totals" in text
        assert 2 <= uses(plan, "snapshot")["jobs"] <= found["jobs"]
        looked = planrunner(tmp_path, "init", "--source", url(servers[0], password=True), "--target",
                            "postgresql://x:y@127.0.0.1:1/app?sslmode=disable", "--out", "half.yaml")  # fmt: skip
        assert looked.returncode == 0, looked.stderr
        assert "target was not looked at" in looked.stderr
        load(tmp_path / "half.yaml")


def test_a_target_that_is_older_lacks_things_or_is_not_empty_is_told(tmp_path: Path) -> None:
    with (
        PostgresServer(contrib_bin(18), settings={"wal_level": "logical"}, max_life=600) as source,
        PostgresServer(server_bin(16), max_life=600) as target,
    ):
        with psycopg.connect(source.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE app")
            session.execute("CREATE ROLE somebody")
        with psycopg.connect(whole(source), autocommit=True) as session:
            session.execute("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO somebody")
            session.execute("CREATE EXTENSION hstore")
        with psycopg.connect(target.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE ROLE mover LOGIN PASSWORD 'm'")
            session.execute("CREATE DATABASE app OWNER mover")
        with psycopg.connect(whole(target), autocommit=True) as session:
            session.execute("CREATE TABLE in_the_way ()")
        ends = ("--source", url(source, password=True))
        there = ("--target", f"postgresql://mover:m@127.0.0.1:{target.port}/app")
        ended = planrunner(tmp_path, "init", *ends, *there, "--inspect")
        assert ended.returncode == 0, ended.stderr
        plan = load(tmp_path / "plan.yaml")
        assert "target: PostgreSQL 16 is older than the source's 18" in ended.stderr
        assert "target: mover can't create subscriptions" in ended.stderr
        assert "target: is not empty: 1 tables, public.in_the_way" in ended.stderr
        assert "lacks extensions of the source: hstore" in ended.stderr
        assert uses(plan, "snapshot")["owners"] == "login"
        assert uses(plan, "snapshot")["grants"] == "skip"
