"""Tables that can't be followed as they are: each goes the way the plan chooses, and is put back as it was."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from tests.acceptance.helpers import contents, slots
from tests.acceptance.test_versions import PLAN, create, planrunner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TABLES = """
CREATE TABLE ordinary (id int PRIMARY KEY, v text);
CREATE TABLE named (a int NOT NULL, b int NOT NULL, v text, UNIQUE (a));
CREATE UNIQUE INDEX "the Index" ON named (b) INCLUDE (v);
CREATE TABLE only_one (a int NOT NULL UNIQUE, v text);
CREATE TABLE log_a (v text); CREATE TABLE log_b (v text);
CREATE TABLE bare (v text);
CREATE TABLE was_nothing (id int PRIMARY KEY, v text); ALTER TABLE was_nothing REPLICA IDENTITY NOTHING;
CREATE SCHEMA "Odd.Schema"; CREATE TABLE "Odd.Schema"."Ta ble" (v text);
CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY, v text);
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE public.ordinary SET v = v || '!' WHERE id = 1; RETURN NULL; END $$;
CREATE TRIGGER one AFTER INSERT ON "Odd.Schema"."Ta ble" FOR EACH STATEMENT EXECUTE FUNCTION count_up();
CREATE TRIGGER two AFTER INSERT ON "Odd.Schema"."Ta ble" FOR EACH ROW EXECUTE FUNCTION count_up();
CREATE TRIGGER three AFTER INSERT ON "Odd.Schema"."Ta ble" FOR EACH ROW EXECUTE FUNCTION count_up();
ALTER TABLE "Odd.Schema"."Ta ble" ENABLE ALWAYS TRIGGER two, DISABLE TRIGGER three;
INSERT INTO ordinary SELECT i, 'o' FROM generate_series(1, 5) i;
INSERT INTO named SELECT i, -i, 'n' FROM generate_series(1, 5) i;
INSERT INTO only_one SELECT i, 'u' FROM generate_series(1, 5) i;
INSERT INTO log_a SELECT 'a' FROM generate_series(1, 5); INSERT INTO log_b SELECT 'b' FROM generate_series(1, 5);
INSERT INTO bare SELECT 'same' FROM generate_series(1, 5);
INSERT INTO was_nothing SELECT i, 'w' FROM generate_series(1, 5) i;
INSERT INTO "Odd.Schema"."Ta ble" VALUES ('l');
INSERT INTO fleeting VALUES (1, 'f');
"""
# What happens while the target follows: nothing of it may be lost.
CHANGES = """
UPDATE named SET v = 'changed', b = 100 WHERE a = 1; DELETE FROM named WHERE a = 2;
UPDATE only_one SET a = 100 WHERE a = 3; DELETE FROM only_one WHERE a = 4;
INSERT INTO log_a VALUES ('later'); INSERT INTO log_b VALUES ('later');
UPDATE bare SET v = 'one' WHERE ctid = '(0,1)'; DELETE FROM bare WHERE ctid = '(0,2)';
UPDATE was_nothing SET v = 'x'; DELETE FROM ordinary WHERE id = 5;
UPDATE "Odd.Schema"."Ta ble" SET v = 'm'; INSERT INTO "Odd.Schema"."Ta ble" VALUES ('n');
INSERT INTO fleeting VALUES (2, 'g');
"""
OPTIONS = """{unlogged: copy_at_cutover, without_replica_identity: {
  "public.log_?": insert_only, "public.named": {index: "the Index"}, "public.only_one": index,
  '"Odd.Schema"."Ta ble"': copy_at_cutover, "*": full}}"""
CATALOGUE = """
SELECT c.oid::regclass::text, c.relreplident::text, (SELECT array_agg(t.tgname || t.tgenabled::text ORDER BY t.tgname)
  FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname NOT LIKE 'planrunner%')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'Odd.Schema') ORDER BY 1
"""


def catalogue(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as session:
        return session.execute(CATALOGUE).fetchall()


def change(dsn: str, script: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(script.encode())


@contextmanager
def scene(
    folder: Path, script: str, options: str
) -> Iterator[tuple[PostgresServer, PostgresServer, str, str]]:
    with (
        PostgresServer(wheel_bin(16), settings={"wal_level": "logical"}) as source,
        PostgresServer(wheel_bin(18)) as target,
    ):
        ours, theirs = create(source, script), create(target)
        plan = PLAN.replace("uses: snapshot}}", "uses: snapshot, with: OPTIONS}}")
        text = plan.format(source=source.port, target=target.port).replace("OPTIONS", options)
        (folder / "plan.yaml").write_text(text)
        yield source, target, ours, theirs


def test_every_way_brings_all_rows_and_is_undone(tmp_path: Path) -> None:
    with scene(tmp_path, TABLES, OPTIONS) as (source, target, ours, theirs):
        before = catalogue(ours)
        code, text = planrunner(
            tmp_path, (source, target), "run", "plan.yaml", "--no-input", "--until", "follow"
        )
        assert code == 0, text
        change(ours, CHANGES)
        code, text = planrunner(tmp_path, (source, target), "run", "plan.yaml", "--no-input")
        assert code == 0, text
        rows = contents(ours)
        assert contents(theirs) == rows
        assert rows["public.fleeting"][0] == 2
        assert rows["Odd.Schema.Ta ble"][0] == 2
        assert catalogue(theirs) == before
        assert slots(ours) == []
        code, text = planrunner(tmp_path, (source, target), "cleanup", "plan.yaml", "--yes")
        assert code == 0, text
        assert catalogue(ours) == before
        with psycopg.connect(ours) as session:
            assert session.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def test_an_update_of_a_table_followed_for_inserts_stops_the_cutover_and_not_the_source(
    tmp_path: Path,
) -> None:
    options = "{without_replica_identity: insert_only}"
    with scene(tmp_path, "CREATE TABLE log (v text); INSERT INTO log VALUES ('a')", options) as stage:
        source, target, ours, _ = stage
        code, text = planrunner(
            tmp_path, (source, target), "run", "plan.yaml", "--no-input", "--until", "follow"
        )
        assert code == 0, text
        change(ours, "UPDATE log SET v = 'changed'")
        code, text = planrunner(tmp_path, (source, target), "run", "plan.yaml", "--no-input")
        assert code == 7, text
        assert "public.log" in text
        change(ours, "INSERT INTO log VALUES ('still open')")


@pytest.mark.parametrize(
    ("script", "options", "told"),
    [
        (
            "CREATE TABLE t (a int UNIQUE)",
            "{without_replica_identity: {public.t: index}}",
            "public.t: the one index that is meant can't be its replica identity",
        ),
        (
            "CREATE TABLE t (a int NOT NULL); CREATE UNIQUE INDEX part ON t (a) WHERE a > 0",
            "{without_replica_identity: {public.t: {index: part}}}",
            "index part can't be its replica identity",
        ),
        (
            "CREATE TABLE t (a int NOT NULL UNIQUE); CREATE TABLE u (id int PRIMARY KEY, a int REFERENCES t (a))",
            "{without_replica_identity: copy_at_cutover}",
            "a foreign key points to it",
        ),
        (
            "CREATE TABLE t (a int)",
            "{without_replica_identity: {public.tt: full, '*': full}}",
            "public.tt matches no table",
        ),
        (
            "CREATE TABLE t (a int)",
            "{without_replica_identity: {public.u*: full}}",
            "public.t: no replica identity",
        ),
    ],
)
def test_a_choice_that_can_not_be_is_refused_before_anything_is_built(
    script: str, options: str, told: str, tmp_path: Path
) -> None:
    with scene(tmp_path, script, options) as (source, target, ours, _):
        code, text = planrunner(
            tmp_path, (source, target), "run", "plan.yaml", "--no-input", "--from", "copy"
        )
        assert code == 1, text
        code, text = planrunner(tmp_path, (source, target), "preview", "plan.yaml")
        assert told in text
        assert slots(ours) == []
        with psycopg.connect(ours) as session:
            assert session.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
