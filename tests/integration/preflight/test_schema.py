"""Defects planted in real databases: each is found, named, and mended by the statement that the finding prints."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from planrunner.model import Finding, Mark, Side
from planrunner.postgres import catalog
from planrunner.postgres.preflight import preflight
from planrunner.postgres.preflight_identity import identities
from planrunner.postgres.preflight_section import Needs
from tests.integration.preflight.conftest import Place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.sandbox.servers import PostgresServer

pytestmark = pytest.mark.server
PLAN = "0123abcd"
WITH_KEY = "CREATE TABLE kept (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text)"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A defect: how to plant it, which finding tells of it and names what, and whether its remedy runs as it is.

    ``left`` is the mark that stays after the remedy, where it makes the finding milder only.
    """

    code: str
    mark: Mark = Mark.WARN
    planted: tuple[str, ...] = ()
    on_target: tuple[str, ...] = ()
    named: str = ""
    says: str = ""
    mends: bool = True
    needs: dict[str, Any] = field(default_factory=dict)
    fix: bool = False


SOURCE_CASES = {
    "no identity": Case(
        code="PR0602",
        mark=Mark.FAIL,
        planted=('CREATE TABLE "Odd ""one" (x int)',),
        named='public."Odd ""one"',
    ),
    "no identity but a unique index": Case(
        code="PR0602",
        mark=Mark.FAIL,
        planted=("CREATE TABLE t (x int NOT NULL UNIQUE)",),
        named="public.t",
        says='USING INDEX "t_x_key"',
    ),
    "a child that inherits no key": Case(
        code="PR0602",
        mark=Mark.FAIL,
        planted=("CREATE TABLE child () INHERITS (kept)",),
        named="public.child",
    ),
    "nothing, although there is a key": Case(
        code="PR0603",
        mark=Mark.FAIL,
        planted=("ALTER TABLE kept REPLICA IDENTITY NOTHING",),
        named="public.kept",
        says="REPLICA IDENTITY DEFAULT",
    ),
    "a leaf with nothing below a root with a key": Case(
        code="PR0603",
        mark=Mark.FAIL,
        planted=(
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id)",
            "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9)",
            "ALTER TABLE leaf REPLICA IDENTITY NOTHING",
        ),
        named="public.leaf",
    ),
    "the identity's index is dropped": Case(
        code="PR0604",
        mark=Mark.FAIL,
        planted=(
            "CREATE TABLE t (x int NOT NULL, y int PRIMARY KEY)",
            "CREATE UNIQUE INDEX tx ON t (x)",
            "ALTER TABLE t REPLICA IDENTITY USING INDEX tx",
            "DROP INDEX tx",
        ),
        named="public.t",
    ),
    "a deferrable key": Case(
        code="PR0605",
        mark=Mark.FAIL,
        planted=("CREATE TABLE t (x int, y int, PRIMARY KEY (x, y) DEFERRABLE)",),
        named="public.t",
        says='ADD CONSTRAINT "t_pkey" PRIMARY KEY ("x", "y")',
    ),
    "whole rows with json": Case(
        code="PR0606",
        mark=Mark.FAIL,
        planted=("CREATE TABLE t (j json, v varchar)", "ALTER TABLE t REPLICA IDENTITY FULL"),
        named="public.t (j json)",
        says="TYPE jsonb",
    ),
    "whole rows with a domain over an array of points": Case(
        code="PR0606",
        mark=Mark.FAIL,
        planted=(
            "CREATE DOMAIN points AS point[]",
            "CREATE TABLE t (p points, i int[])",
            "ALTER TABLE t REPLICA IDENTITY FULL",
        ),
        named="public.t (p public.points)",
        mends=False,
    ),
    "a generated key": Case(
        code="PR0607",
        mark=Mark.FAIL,
        planted=(
            "CREATE TABLE t (a int NOT NULL UNIQUE, g int GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (g))",
        ),
        named="public.t (g)",
        says='USING INDEX "t_a_key"',
    ),
    "unlogged": Case(
        code="PR0608",
        mark=Mark.FAIL,
        planted=("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)",),
        named="public.t",
    ),
    "unlogged sequence": Case(
        code="PR0609", planted=("CREATE UNLOGGED SEQUENCE s",), named="public.s", fix=True
    ),
    "large objects": Case(
        code="PR0610",
        mark=Mark.FAIL,
        planted=("SELECT lo_create(0)",),
        named="1 large object",
        mends=False,
    ),
    "foreign table": Case(
        code="PR0611",
        planted=(
            "CREATE FOREIGN DATA WRAPPER w",
            "CREATE SERVER s FOREIGN DATA WRAPPER w",
            "CREATE FOREIGN TABLE f (x int) SERVER s",
        ),
        named="public.f",
        mends=False,
    ),
    "never filled": Case(
        code="PR0612",
        planted=("CREATE MATERIALIZED VIEW m AS SELECT 1 AS x WITH NO DATA",),
        named="public.m",
    ),
    "event trigger": Case(
        code="PR0613",
        planted=(
            "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION e()",
        ),
        named="watching (ddl_command_end)",
    ),
    "invalid index": Case(
        code="PR0616",
        planted=(
            "CREATE INDEX broken ON kept (t)",
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass",
        ),
        named="public.broken",
    ),
    "not valid": Case(
        code="PR0617",
        planted=("ALTER TABLE kept ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",),
        named="public.kept: positive",
    ),
    "not valid in a domain": Case(
        code="PR0617",
        planted=(
            "CREATE DOMAIN d AS int",
            "ALTER DOMAIN d ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID",
        ),
        named="public.d: positive",
    ),
    "always trigger": Case(
        code="PR0618",
        planted=(
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
            'CREATE TRIGGER "a t" BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION f()',
            'ALTER TABLE kept ENABLE ALWAYS TRIGGER "a t"',
        ),
        named="a t on public.kept (ALWAYS)",
    ),
    "a function that needs search_path": Case(
        code="PR0619",
        planted=(
            "CREATE FUNCTION plain(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(x)'",
            "CREATE FUNCTION outer_one(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT plain(x)'",
            "CREATE INDEX by_plain ON kept (outer_one(t))",
        ),
        named="public.outer_one (plain)",
    ),
    "numbers of the catalogue": Case(
        code="PR0620",
        planted=("CREATE TABLE t (id int PRIMARY KEY, o oid)",),
        named="public.t.o (oid)",
        mends=False,
    ),
    "names of the catalogue": Case(
        code="PR0620",
        planted=("CREATE TABLE t (id int PRIMARY KEY, r regprocedure)",),
        named="public.t.r (regprocedure)",
        mends=False,
    ),
    "a publication of everything": Case(
        code="PR0621",
        planted=("CREATE PUBLICATION everything FOR ALL TABLES",),
        named="everything",
        mends=False,
    ),
    "a publication of our name": Case(
        code="PR0622",
        mark=Mark.FAIL,
        planted=(f"CREATE PUBLICATION pr_{PLAN}_g1",),
        named=f"pr_{PLAN}_g1",
    ),
    "a subscription that feeds the source": Case(
        code="PR0623",
        planted=(
            "CREATE SUBSCRIPTION feed CONNECTION '' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        ),
        named="feed",
        mends=False,
    ),
    "a sequence near its end": Case(
        code="PR0701",
        planted=("CREATE SEQUENCE s MAXVALUE 100", "SELECT setval('s', 91)"),
        named="public.s (90 %)",
    ),
    "a descending sequence near its end": Case(
        code="PR0701",
        planted=(
            "CREATE SEQUENCE s AS int INCREMENT -1 MINVALUE -100 MAXVALUE -1",
            "SELECT setval('s', -100)",
        ),
        named="public.s (100 %)",
    ),
    "a serial key near its end": Case(
        code="PR0702",
        planted=("CREATE TABLE t (id serial PRIMARY KEY)", "SELECT setval('t_id_seq', 2000000000)"),
        named="public.t.id (93 %)",
    ),
    "an integer key fed by a bigger sequence of no owner": Case(
        code="PR0702",
        planted=(
            "CREATE SEQUENCE s",
            "CREATE TABLE t (id smallint PRIMARY KEY DEFAULT nextval('s'))",
            "SELECT setval('s', 30000)",
        ),
        named="public.t.id (91 %)",
    ),
    "an integer key that no sequence feeds": Case(
        code="PR0702",
        planted=(
            "CREATE TABLE t (id int PRIMARY KEY)",
            "INSERT INTO t SELECT 2147483647 - i FROM generate_series(1, 500) i",
            "ANALYZE t",
        ),
        named="public.t.id (99 %)",
    ),
    "never analysed": Case(
        code="PR0703",
        planted=(
            "CREATE TABLE t (id int PRIMARY KEY, x text) WITH (autovacuum_enabled = false)",
            "INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i",
        ),
        named="public.t",
        fix=True,
    ),
    "near wraparound": Case(
        code="PR0704",
        planted=(
            # Else the server may mend it by itself before we look.
            "ALTER SYSTEM SET autovacuum = off",
            "SELECT pg_reload_conf()",
            "CREATE TABLE t (id int PRIMARY KEY)",
            "UPDATE pg_class SET relfrozenxid = '2600000000' WHERE oid = 't'::regclass",
        ),
        named="public.t (",
    ),
    "huge values": Case(
        code="PR0705",
        planted=(
            "CREATE TABLE t (id int PRIMARY KEY, b bytea)",
            "ALTER TABLE t ALTER b SET STORAGE EXTERNAL",
            "INSERT INTO t VALUES (1, convert_to(repeat('x', 80000000), 'UTF8'))",
            "ANALYZE t",
        ),
        named="public.t (",
        mends=False,
    ),
}
TARGET_CASES = {
    "event trigger": Case(
        code="PR0614",
        on_target=(
            "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            'CREATE EVENT TRIGGER "on it" ON ddl_command_end EXECUTE FUNCTION e()',
        ),
        named="on it (ddl_command_end)",
    ),
    "a subscription of others": Case(
        code="PR0624",
        on_target=(
            "CREATE SUBSCRIPTION other CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
            " WITH (connect = false, slot_name = 'other')",
            "ALTER SUBSCRIPTION other ENABLE",
        ),
        named="other",
    ),
    "a publication of everything": Case(
        code="PR0625",
        on_target=('CREATE PUBLICATION "every thing" FOR ALL TABLES',),
        named="every thing",
    ),
    "a type and a function of the same name": Case(
        code="PR0650",
        mark=Mark.FAIL,
        planted=(
            "CREATE SCHEMA s",
            "CREATE TYPE mood AS ENUM ('a')",
            "CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql AS 'SELECT i'",
            "CREATE PROCEDURE unlike(t text) LANGUAGE sql AS ''",
        ),
        on_target=(
            "CREATE SCHEMA s",
            "CREATE TYPE mood AS ENUM ('b')",
            "CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql AS 'SELECT i'",
            "CREATE PROCEDURE unlike(i int) LANGUAGE sql AS ''",
        ),
        named="function public.twice, schema s, type public.mood",
    ),
}
# What the cases leave behind; a database of its own for each would cost more than all the checks.
EMPTIED = """
DO $$ DECLARE statement text; BEGIN
  FOR statement IN SELECT format('DROP EVENT TRIGGER %I', evtname) FROM pg_event_trigger
    UNION ALL SELECT format('DROP PUBLICATION %I', pubname) FROM pg_publication
    UNION ALL SELECT format('DROP SCHEMA %I CASCADE', nspname) FROM pg_namespace
      WHERE nspname = 'public' OR nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
    UNION ALL SELECT format('DROP FOREIGN DATA WRAPPER %I CASCADE', fdwname) FROM pg_foreign_data_wrapper
    UNION ALL SELECT format('SELECT lo_unlink(%s)', oid) FROM pg_largeobject_metadata
    UNION ALL SELECT 'CREATE SCHEMA public'
  LOOP EXECUTE statement; END LOOP;
END $$
"""


@pytest.fixture(scope="module")
def pair(logical_server: PostgresServer, plain_server: PostgresServer) -> Iterator[tuple[Place, Place]]:
    made = tuple(Place(server=server, database="defects") for server in (logical_server, plain_server))
    for one in made:
        with psycopg.connect(one.server.superuser_dsn, autocommit=True) as session:
            session.execute("CREATE DATABASE defects")
    yield made[0], made[1]
    for one in made:
        with psycopg.connect(one.server.superuser_dsn, autocommit=True) as session:
            session.execute("DROP DATABASE defects WITH (FORCE)")


@pytest.fixture
def source(pair: tuple[Place, Place]) -> Iterator[Place]:
    yield pair[0]
    _emptied(pair[0])


@pytest.fixture
def target(pair: tuple[Place, Place]) -> Iterator[Place]:
    yield pair[1]
    _emptied(pair[1])


def _emptied(place: Place) -> None:
    for server in place.opened:
        server.close()
    place.opened.clear()
    names = place.value(
        "SELECT array_agg(subname::text) FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"
        " WHERE d.datname = current_database()"
    )
    for name in names or ():
        place.execute(
            f"ALTER SUBSCRIPTION {name} DISABLE; ALTER SUBSCRIPTION {name} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {name}",
        )
    place.execute(EMPTIED)


def _check(source: Any, target: Any, **needs: Any) -> tuple[Finding, ...]:
    there, here = source.connect(), target.connect(side=Side.TARGET)
    return preflight(there, here, Needs(plan_id=PLAN, owned=f"pr_{PLAN}_g", **needs))


def _of(findings: Sequence[Finding], code: str) -> list[Finding]:
    return [f for f in findings if f.code == code and f.mark is not Mark.PASS]


def _mended(finding: Finding, source: Any, target: Any) -> None:
    """Run what the remedy says, as someone would who copies it."""
    assert finding.remedy is not None
    found = re.match(r"Run on the (source|target): (.*);", finding.remedy, re.DOTALL)
    assert found is not None, finding.remedy
    {"source": source, "target": target}[found[1]].execute(found[2])


def _found(case: Case, source: Any, target: Any) -> None:
    source.execute(WITH_KEY, *case.planted)
    target.execute("SELECT 1", *case.on_target)
    found = _of(_check(source, target, **case.needs), case.code)
    assert len(found) == 1, found
    finding = found[0]
    assert (finding.mark, bool(finding.why)) == (case.mark, True)
    assert case.named in finding.text
    assert case.says in (finding.remedy or "")
    assert (finding.fix is not None) is case.fix
    if case.fix:
        assert finding.fix is not None
        place = source if finding.fix.where is Side.SOURCE else target
        place.execute(*finding.fix.statements)
    elif case.mends:
        _mended(finding, source, target)
    else:
        assert finding.remedy
        return
    assert _of(_check(source, target, **case.needs), case.code) == []


@pytest.mark.parametrize("name", SOURCE_CASES)
def test_a_defect_of_the_source_is_found_named_and_mended(name: str, source: Any, target: Any) -> None:
    _found(SOURCE_CASES[name], source, target)


@pytest.mark.parametrize("name", TARGET_CASES)
def test_a_defect_of_the_target_is_found_named_and_mended(name: str, source: Any, target: Any) -> None:
    _found(TARGET_CASES[name], source, target)


def test_a_clean_database_yields_no_warning(source: Any, target: Any) -> None:
    source.execute(
        WITH_KEY,
        "CREATE TABLE root (id int PRIMARY KEY, j json, p point) PARTITION BY RANGE (id)",
        "CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (9)",
        "CREATE TABLE whole (a int, b text, c numeric(8, 2)[])",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE computed (id serial PRIMARY KEY, g int GENERATED ALWAYS AS (1 + 1) STORED)",
        "CREATE VIEW v AS SELECT count(*) FROM kept",
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v",
        "CREATE FUNCTION f(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(x) || ''kept'''",
        "CREATE INDEX by_f ON kept (f(t))",
        "CREATE SEQUENCE round AS smallint MAXVALUE 10 CYCLE",
        "SELECT setval('round', 10)",
        "ANALYZE",
    )
    findings = _check(source, target)
    told = [f.text for f in findings if f.mark is not Mark.PASS and f.section in {"Schema", "Data"}]
    assert told == []
    assert {f.section for f in findings} >= {"Schema", "Data"}


def test_what_is_left_out_is_not_judged(source: Any, target: Any) -> None:
    source.execute(
        "CREATE TABLE old (id serial PRIMARY KEY, o oid)",
        "SELECT setval('old_id_seq', 2000000000)",
        "ALTER TABLE old ADD CHECK (id > 0) NOT VALID",
    )
    codes = {"PR0617", "PR0620", "PR0702"}
    assert {f.code for f in _check(source, target) if f.mark is not Mark.PASS} >= codes
    gone = {("public", "old"), ("public", "old_id_seq")}
    found = _check(source, target, left_out=lambda _: gone)
    assert not {f.code for f in found if f.mark is not Mark.PASS} & codes


# A row and an update of it. A generated key is refused by the source since 18: there the 18 server plays it.
REFUSED = {
    "nothing, although there is a key": ("INSERT INTO kept (t) VALUES ('a')", "UPDATE kept SET t = 'b'"),
    "the identity's index is dropped": ("INSERT INTO t VALUES (1, 1)", "UPDATE t SET x = 2"),
    "a deferrable key": ("INSERT INTO t VALUES (1, 1)", "UPDATE t SET x = 2"),
    "a generated key": ("INSERT INTO t VALUES (1)", "UPDATE t SET a = 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_fails_for_its_identity_would_have_broken_the_application(
    name: str, source: Place, target: Place
) -> None:
    place = target if name == "a generated key" else source
    row, update = REFUSED[name]
    place.execute(WITH_KEY, *SOURCE_CASES[name].planted, row, update)
    place.execute(f"CREATE PUBLICATION p FOR TABLE {row.split()[2]}")
    with pytest.raises(psycopg.errors.Error, match="cannot update table"):
        place.execute(update)


@pytest.mark.parametrize("version", [16, 18])
def test_full_is_no_choice_for_a_table_with_a_generated_column_where_the_source_would_refuse_its_updates(
    source: Place, target: Place, version: int
) -> None:
    place = source if version == 16 else target
    place.execute(
        "CREATE TABLE t (x int, g int GENERATED ALWAYS AS (x * 2) STORED)", "INSERT INTO t VALUES (1)"
    )
    server = place.connect()
    needs = Needs(plan_id=PLAN, owned=f"pr_{PLAN}_g", identity=lambda _: "full")
    told = _of([*identities(server, catalog.tables(server), needs)], "PR0607")
    assert [f.mark for f in told] == ([Mark.FAIL] if version == 18 else [])
    # What the plan's choice and its publication would do to the application.
    place.execute("ALTER TABLE t REPLICA IDENTITY FULL", "CREATE PUBLICATION p FOR TABLE t")
    if version == 16:
        place.execute("UPDATE t SET x = 2")
        return
    assert "public.t (g)" in told[0].text
    with pytest.raises(psycopg.errors.Error, match="cannot update table"):
        place.execute("UPDATE t SET x = 2")


def test_a_function_that_relies_on_search_path_fails_as_a_restore_would(source: Place) -> None:
    case = SOURCE_CASES["a function that needs search_path"]
    source.execute(WITH_KEY, "INSERT INTO kept (t) VALUES ('A')", *case.planted)
    restored = "SET search_path = ''; CREATE INDEX again ON public.kept (public.outer_one(t))"
    with pytest.raises(psycopg.errors.UndefinedFunction):
        source.execute(restored)
    source.execute("ALTER FUNCTION outer_one(text) SET search_path = public, pg_temp", restored)


def test_the_number_of_queries_is_the_same_at_10_and_at_1000_tables(source: Place, target: Place) -> None:
    def statements() -> tuple[int, int]:
        before = [_logged(place) for place in (source, target)]
        findings = _check(source, target)
        assert not [f for f in findings if "not all could be checked" in f.text]
        after = [_logged(place) for place in (source, target)]
        return after[0] - before[0], after[1] - before[1]

    for place in (source, target):
        place.execute("ALTER DATABASE defects SET log_statement = 'all'")
    source.execute(*_tables(range(10)))
    few = statements()
    assert min(few) > 10
    source.execute(*_tables(range(10, 1000)))
    many = statements()
    for place in (source, target):
        place.execute("ALTER DATABASE defects RESET log_statement")
    assert many == few


def _tables(numbers: range) -> list[str]:
    made = "; ".join(
        f"CREATE TABLE t{n} (id serial PRIMARY KEY, a text); CREATE INDEX ON t{n} (a)"
        if n % 10
        else f"CREATE TABLE t{n} (id int PRIMARY KEY) PARTITION BY LIST (id);"
        f" CREATE TABLE t{n}_1 PARTITION OF t{n} FOR VALUES IN (1)"
        for n in numbers
    )
    return [made]


def _logged(place: Place) -> int:
    text = place.server.log.read_text()
    return text.count("LOG:  execute") + text.count("LOG:  statement")
