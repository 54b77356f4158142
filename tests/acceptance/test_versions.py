"""Databases that nobody prepared for planrunner, between versions, by plans as the docs show them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents, slots
from tests.servers import server_bin

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: upgrade}}
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
  - {{id: copy, uses: snapshot}}
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify}}
"""
HOSTILE = """
CREATE SCHEMA "sch ema;--"; CREATE SCHEMA "Ünï";
CREATE TYPE "sch ema;--"."mo""od" AS ENUM ('a', 'b''c', 'ü');
CREATE DOMAIN "Ünï".positive AS int CHECK (VALUE > 0);
CREATE TYPE "Ünï".pair AS (a int, b text);
CREATE TABLE "sch ema;--"."t %s {{}}" ("id" bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "co""l" text,
  mood "sch ema;--"."mo""od", moods "sch ema;--"."mo""od"[], p "Ünï".positive, pr "Ünï".pair, r int4range,
  n numeric, f float8, j json, jb jsonb, ts timestamptz, iv interval, b bytea, c char(7), arr text[], u uuid,
  g int GENERATED ALWAYS AS (p * 2) STORED, reg regclass, ip inet, bits varbit, x point);
INSERT INTO "sch ema;--"."t %s {{}}" ("co""l", mood, moods, p, pr, r, n, f, j, jb, ts, iv, b, c, arr, u, reg, ip, bits, x)
SELECT 'row ' || i || E'\\n\\t\\\\', 'b''c', ARRAY['a', 'ü']::"sch ema;--"."mo""od"[], i, ROW(i, 'x,y"')::"Ünï".pair,
  int4range(i, i + 3), (i / 7.0)::numeric(20, 10), CASE WHEN i % 3 = 0 THEN '-0'::float8 ELSE i / 3.0 END,
  '{"a":  1}', '{"b": null}', now(), '1 mon 2 days', decode('00ff', 'hex'), 'ab', ARRAY['x', NULL, 'NULL', ''],
  gen_random_uuid(), 'pg_class', '10.0.0.1', B'101', point(1, i) FROM generate_series(1, 500) i;
INSERT INTO "sch ema;--"."t %s {{}}" DEFAULT VALUES;
CREATE TABLE "Ünï".parent (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE "Ünï".p1 PARTITION OF "Ünï".parent FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE "Ünï".p2 PARTITION OF "Ünï".parent DEFAULT;
INSERT INTO "Ünï".parent SELECT i, date '2020-06-01' + i, 'v' FROM generate_series(1, 700) i;
CREATE TABLE empty (id int PRIMARY KEY); CREATE TABLE nothing ();
ALTER TABLE nothing REPLICA IDENTITY FULL;
CREATE TABLE base (id int PRIMARY KEY, t text); CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (base);
INSERT INTO base VALUES (1, 'base'); INSERT INTO child VALUES (2, 'child', 3);
CREATE SEQUENCE falling INCREMENT -5 MINVALUE -1000 MAXVALUE 0 START -10; SELECT nextval('falling');
CREATE SEQUENCE small AS smallint MAXVALUE 50 CYCLE; SELECT setval('small', 49);
CREATE ROLE "some one"; GRANT SELECT ON empty TO "some one";
CREATE VIEW v AS SELECT count(*) FROM base; CREATE MATERIALIZED VIEW m AS SELECT * FROM v;
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql AS $$ SELECT
--
-- Name: fake; Type: TABLE; Schema: public; Owner: nobody
--
i * 2 $$;
CREATE RULE r AS ON INSERT TO empty DO ALSO SELECT 1;
COMMENT ON TABLE empty IS E'--\\n-- Name: x; Type: INDEX; Schema: y; Owner: z\\n--\\n';
CREATE STATISTICS st ON id, at FROM "Ünï".p1;
"""


def create(server: PostgresServer, script: str = "") -> str:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        session.execute("CREATE DATABASE app")
    dsn = server.dsn("postgres", "app", password=server.password)
    if script:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute(sql.SQL(script.replace("{{}}", "{}")))  # type: ignore[arg-type]
    return dsn


def planrunner(
    folder: Path, servers: tuple[PostgresServer, PostgresServer], *arguments: str
) -> tuple[int, str]:
    environment = {"SOURCE_PASSWORD": servers[0].password, "TARGET_PASSWORD": servers[1].password}
    ran = subprocess.run(
        [sys.executable, "-m", "planrunner", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ran.returncode, ran.stdout + ran.stderr


def test_a_hostile_database_moves_from_15_to_18_whole(tmp_path: Path) -> None:
    with (
        PostgresServer(server_bin(15), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        ours, theirs = create(source, HOSTILE), create(target)
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN.format(source=source.port, target=target.port))
        both = (source, target)
        assert planrunner(tmp_path, both, "lint", "plan.yaml")[0] == 0
        code, text = planrunner(tmp_path, both, "preview", "--detailed-exitcode", "plan.yaml")
        assert code == 10, text
        code, text = planrunner(tmp_path, both, "run", "plan.yaml", "--no-input")
        assert code == 0, text
        assert contents(ours) == contents(theirs)
        assert slots(ours) == []
        with psycopg.connect(theirs) as session:
            moved = session.execute("SELECT last_value FROM small").fetchone()
            assert moved is not None
            assert 1 <= moved[0] <= 50
            assert session.execute("SELECT nextval('falling') < -10").fetchone() == (True,)
            assert session.execute(
                "SELECT has_table_privilege('some one', 'empty', 'SELECT')"
            ).fetchone() == (True,)
            session.execute('INSERT INTO "sch ema;--"."t %s {}" (p) VALUES (1)'.replace("%s", "%%s"), [])
        assert planrunner(tmp_path, both, "run", "plan.yaml", "--no-input")[0] == 0


def test_a_source_without_logical_wal_stops_as_blocked_and_says_what_to_do(tmp_path: Path) -> None:
    with PostgresServer(wheel_bin(16)) as source, PostgresServer(wheel_bin(18)) as target:
        create(source, "CREATE TABLE t (id int PRIMARY KEY)")
        create(target)
        plan = tmp_path / "plan.yaml"
        plan.write_text(PLAN.format(source=source.port, target=target.port))
        code, text = planrunner(tmp_path, (source, target), "run", "plan.yaml", "--no-input", "--yes")
        assert code == 1, text
        assert "wal_level" in text
        assert "restart" in text
        source.restart()
        code, text = planrunner(tmp_path, (source, target), "run", "plan.yaml", "--no-input", "--yes")
        assert code == 0, text


def test_two_databases_of_one_server_keep_their_own_sessions(tmp_path: Path) -> None:
    with PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as server:
        ours = create(
            server, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)"
        )
        with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE moved")
        plan = tmp_path / "plan.yaml"
        text = PLAN.format(source=server.port, target=server.port)
        plan.write_text(
            text.replace(
                "  target:\n    dsn: postgresql://postgres@127.0.0.1:" + str(server.port) + "/app",
                "  target:\n    dsn: postgresql://postgres@127.0.0.1:" + str(server.port) + "/moved",
            )
        )
        code, text = planrunner(tmp_path, (server, server), "run", "plan.yaml", "--no-input")
        assert code == 0, text
        assert contents(ours) == contents(server.dsn("postgres", "moved", password=server.password))
        assert slots(ours) == []
