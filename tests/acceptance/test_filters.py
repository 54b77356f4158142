"""A migration of a part: tables left out, tables without rows, filtered rows and a time window, while an
application writes rows into the filters and out of them; killed, resumed, verified, cut over.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.test_versions import create, planrunner

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: part}}
connections:
  source:
    dsn: postgresql://postgres@127.0.0.1:{source}/app?sslmode=disable
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@127.0.0.1:{target}/app?sslmode=disable
    password: {{secret: {{env: TARGET_PASSWORD}}}}
steps:
  - {{id: logical, uses: enable_logical}}
  - {{id: grant, uses: grant}}
  - {{id: check, uses: validate}}
  - id: copy
    uses: snapshot
    with:
      jobs: 2
      filters:
        include: ["public.*", "billing.inv_*", "\\"Odd.Schema\\".*"]
        exclude: ["public.audit_*", "public.no_key"]
        schema_only: [public.sessions]
        rows:
          public.orders: "region = 'eu' and note not like '%skip;%'"
          public.measures: "id % 2 = 0"
        since:
          public.events: {{column: at, window: 90d}}
        replica_identity: full
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify}}
"""
DATABASE = """
CREATE SCHEMA billing; CREATE SCHEMA "Odd.Schema"; CREATE SCHEMA secret;
CREATE TABLE orders (id int PRIMARY KEY, region text, note text NOT NULL DEFAULT '');
INSERT INTO orders SELECT i, CASE i % 3 WHEN 0 THEN 'eu' WHEN 1 THEN 'us' END, CASE i % 7 WHEN 0 THEN 'skip;' ELSE 'x' END
FROM generate_series(1, 30000) i;
CREATE TABLE events (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO events (at) SELECT now() - i * interval '1 hour' FROM generate_series(1, 5000) i;
CREATE TABLE measures (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE measures_old PARTITION OF measures FOR VALUES FROM ('2020-01-01') TO ('2024-01-01');
CREATE TABLE measures_new PARTITION OF measures DEFAULT;
INSERT INTO measures SELECT i, date '2023-06-01' + i % 400 FROM generate_series(1, 2000) i;
CREATE TABLE sessions (id serial PRIMARY KEY, data text);
INSERT INTO sessions (data) SELECT 's' FROM generate_series(1, 500);
CREATE TABLE audit_log (id serial PRIMARY KEY, what text); INSERT INTO audit_log (what) VALUES ('a');
CREATE TABLE audit_more (id int PRIMARY KEY REFERENCES audit_log);
CREATE TABLE no_key (a int); INSERT INTO no_key VALUES (1);
CREATE TABLE billing.inv_2024 (id int PRIMARY KEY); INSERT INTO billing.inv_2024 SELECT generate_series(1, 100);
CREATE TABLE billing.drafts (id int PRIMARY KEY); INSERT INTO billing.drafts VALUES (1);
CREATE VIEW billing.all_drafts AS SELECT * FROM billing.drafts;
CREATE MATERIALIZED VIEW secret.sums AS SELECT count(*) FROM billing.drafts;
CREATE TABLE "Odd.Schema"."t.""x" (id int PRIMARY KEY); INSERT INTO "Odd.Schema"."t.""x" VALUES (1), (2);
CREATE UNLOGGED TABLE secret.scratch (id int PRIMARY KEY);
CREATE STATISTICS secret.st ON id, what FROM audit_log;
ANALYZE;
"""
# What each table's rows are on the source, by a condition that planrunner has no part in; None: all.
KEPT = {
    "public.orders": "region = 'eu' AND note NOT LIKE '%skip;%'",
    "public.measures_old": "id % 2 = 0",
    "public.measures_new": "id % 2 = 0",
    "public.sessions": "false",
    "billing.inv_2024": "true",
    '"Odd.Schema"."t.""x"': "true",
}


class Application(threading.Thread):
    """Writes until it is stopped, by the fence or by us: rows go into the filters and out of them."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.ended = threading.Event()
        self.written = 0
        self.fenced = False

    def run(self) -> None:
        chance = random.Random(7)
        with psycopg.connect(self.dsn, autocommit=True) as session:
            while not self.ended.wait(0.002):
                key = chance.randrange(1, 30500)
                try:
                    session.execute(chance.choice(WRITES), {"key": key})
                except psycopg.errors.UniqueViolation:
                    continue
                except psycopg.errors.ReadOnlySqlTransaction:
                    self.fenced = True
                    return
                self.written += 1


WRITES = (
    "UPDATE orders SET region = CASE WHEN region = 'eu' THEN 'us' ELSE 'eu' END WHERE id = %(key)s",
    "UPDATE orders SET note = CASE note WHEN 'skip;' THEN 'y' ELSE 'skip;' END WHERE id = %(key)s",
    "UPDATE orders SET region = NULL WHERE id = %(key)s",
    "INSERT INTO orders (id, region) VALUES (%(key)s, 'eu')",
    "DELETE FROM orders WHERE id = %(key)s",
    "INSERT INTO events (at) VALUES (now() - %(key)s * interval '10 minutes')",
    "UPDATE events SET at = at - interval '89 days' WHERE id = %(key)s",
    "UPDATE events SET at = at + interval '89 days' WHERE id = %(key)s",
    "UPDATE measures SET id = id + 5001 WHERE id = %(key)s",
    "UPDATE measures SET day = day + 200 WHERE id = %(key)s",
    "INSERT INTO audit_log (what) VALUES ('b')",
    "INSERT INTO sessions (data) VALUES ('t')",
)


def instant(dsn: str) -> str:
    """Where the ledger says the window begins."""
    with psycopg.connect(dsn) as session:
        row = session.execute("SELECT detail FROM planrunner.effect WHERE step = 'filters'").fetchone()
    assert row is not None
    return str(row[0]["instants"]["public.events"])


def rows(dsn: str, table: str, condition: str) -> list[str]:
    with psycopg.connect(dsn) as session:
        found = session.execute(
            f'SELECT t::text FROM {table} t WHERE {condition} ORDER BY t::text COLLATE "C"'.encode()
        )
        return [row[0] for row in found.fetchall()]


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as session:
        found = session.execute(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S')"
            " AND relnamespace::regnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema', 'planrunner')"
        )
        return {row[0] for row in found.fetchall()}


def assert_tells_beforehand(preview: dict[str, Any]) -> None:
    """What is left behind with its size, and what the copy will come to."""
    (copy,) = (step for step in preview["steps"] if step["id"] == "copy")
    assert {e["name"] for e in copy["estimates"]} >= {"rows", "copy_time", "wal_retained", "target_disk"}
    findings = {f["text"]: f["mark"] for step in preview["steps"] for f in step["findings"]}
    assert "fail" not in findings.values(), findings
    assert any("public.audit_log (" in told for told in findings)


@pytest.mark.timeout(600)
def test_a_filtered_database_moves_while_rows_cross_the_filters(tmp_path: Path) -> None:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        ours, theirs = create(source, DATABASE), create(target)
        both = (source, target)
        (tmp_path / "plan.yaml").write_text(PLAN.format(source=source.port, target=target.port))
        code, text = planrunner(tmp_path, both, "preview", "plan.yaml", "--format", "json")
        assert code == 0, text
        assert_tells_beforehand(json.loads(text))
        application = Application(ours)
        application.start()
        environment = {
            "SOURCE_PASSWORD": source.password,
            "TARGET_PASSWORD": target.password,
            "PLANRUNNER_FAILPOINTS": "copy.after_commit#2:kill",
        }
        killed = subprocess.run(
            [sys.executable, "-m", "planrunner", "run", "plan.yaml", "--yes", "--no-input"],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert killed.returncode == -9, killed.stderr
        before = instant(theirs)
        code, text = planrunner(
            tmp_path, both, "run", "plan.yaml", "--yes", "--no-input", "--until", "follow"
        )
        assert code == 0, text
        assert instant(theirs) == before
        code, text = planrunner(tmp_path, both, "verify", "plan.yaml")
        assert code == 0, text
        code, text = planrunner(tmp_path, both, "run", "plan.yaml", "--yes", "--no-input")
        assert code == 0, text
        application.join(30)
        assert application.fenced
        assert application.written > 50
        assert instant(theirs) == before
        for table, condition in {**KEPT, "public.events": f"at >= '{before}'"}.items():
            expected = rows(ours, table, condition)
            assert rows(theirs, table, "true") == expected, table
            assert expected or condition == "false"
        assert tables(theirs) == tables(ours) - {
            "audit_log",
            "audit_log_id_seq",
            "audit_more",
            "no_key",
            "billing.drafts",
            "billing.all_drafts",
            "secret.sums",
            "secret.scratch",
        }
        with psycopg.connect(ours, autocommit=True) as session:
            session.execute("INSERT INTO audit_log (what) VALUES ('the old side goes on here')")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                session.execute("INSERT INTO sessions (data) VALUES ('stray')")
        code, text = planrunner(tmp_path, both, "cleanup", "plan.yaml", "--yes")
        assert code == 0, text
        with psycopg.connect(ours) as session:
            full = session.execute("SELECT count(*) FROM pg_class WHERE relreplident = 'f'").fetchone()
        assert full == (0,)


@pytest.mark.timeout(300)
def test_filters_edited_in_mid_run_are_refused_even_when_accepted(tmp_path: Path) -> None:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        create(source, DATABASE)
        create(target)
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN.format(source=source.port, target=target.port))
        code, text = planrunner(
            tmp_path, (source, target), "run", "plan.yaml", "--yes", "--no-input", "--until", "copy"
        )
        assert code == 0, text
        plan.write_text(plan.read_text().replace("window: 90d", "window: 30d"))
        code, text = planrunner(
            tmp_path, (source, target), "run", "plan.yaml", "--yes", "--no-input", "--accept", "copy"
        )
        assert code == 1, text
        assert "filters.since of the plan differ" in text
