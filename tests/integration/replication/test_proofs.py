"""What is proven at the gate: no false alarm over one of everything, and each planted defect is told by name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import DifferencesFound, StepFailed
from planrunner.loading import load
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.replication import activity, census, likeness, proofs, residue, sequences
from planrunner.replication.choices import Choices
from planrunner.replication.names import Names
from planrunner.replication.workspace import Workspace
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from planrunner.verification import Proof, Verification
from planrunner.workspace import selected
from tests.acceptance.helpers import state_in
from tests.acceptance.test_everything import EVERY_PLAN, EVERYTHING
from tests.acceptance.test_versions import PLAN, create, planrunner
from tests.integration.replication.conftest import dsn_of
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.replication.selection import Selection

BINARIES = {
    "16-18": lambda: (wheel_bin(16), wheel_bin(18)),
    "15-15": lambda: (server_bin(15), server_bin(15)),
}
TERMS = proofs.Terms(headroom=0)


def opened(side: Side, server: PostgresServer, plan_id: str) -> Server:
    dsn = conninfo.make_conninfo(server.dsn("postgres", "app"), sslmode="disable")
    return Server(
        Endpoint(side=side, dsn=dsn),
        clock=SystemClock(),
        resolve=lambda _: Secret(server.password),
        label=f"planrunner/{plan_id}",
    )


@contextmanager
def migrated(
    folder: Path, versions: str, *, script: str = EVERYTHING, plan: str = EVERY_PLAN
) -> Iterator[tuple[Workspace, str, str]]:
    """One of everything, followed by a plan up to its cutover."""
    source_bin, target_bin = BINARIES[versions]()
    settings = {"wal_level": "logical", "max_prepared_transactions": "5"}
    with PostgresServer(source_bin, settings=settings) as source, PostgresServer(target_bin) as target:
        dsns = create(source, script), create(target)
        (folder / "plan.yaml").write_text(plan.format(source=source.port, target=target.port))
        code, text = planrunner(
            folder, (source, target), "run", "plan.yaml", "--no-input", "--until", "follow"
        )
        assert code == 0, text
        plan_id = state_in(folder / "plan.yaml")["plan_id"]
        sides = opened(Side.SOURCE, source, plan_id), opened(Side.TARGET, target, plan_id)
        space = Workspace(
            source=sides[0], target=sides[1], plan_id=plan_id, clock=SystemClock(), tell=lambda _m, _f: None
        )
        space.choices = Choices.of("full", "schema_only")
        yield space, *dsns
        for side in sides:
            side.close()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, str, str]]:
    with migrated(tmp_path_factory.mktemp("plan"), "16-18") as made:
        yield made


def proven(
    space: Workspace, terms: proofs.Terms = TERMS, rows: Verification | None = None
) -> dict[str, Proof]:
    return {proof.name: proof for proof in proofs.prove(space, terms, rows)}


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("SET default_transaction_read_only = off")
        for statement in statements:
            session.execute(statement.encode())


@contextmanager
def planted(dsn: str, do: str, undo: str) -> Iterator[None]:
    execute(dsn, do)
    try:
        yield
    finally:
        execute(dsn, undo)


def failed(found: dict[str, Proof]) -> dict[str, tuple[str, ...]]:
    return {name: proof.detail or (proof.text,) for name, proof in found.items() if not proof.equal}


def test_one_of_everything_is_proven_without_a_false_alarm(stage: tuple[Workspace, str, str]) -> None:
    space, _, _ = stage
    found = proven(space, rows=Verification(tables=(), seconds=0.1))
    assert failed(found) == {}
    assert found.keys() == (proofs.STOPPING.keys() | proofs.WARNING.keys())
    assert proofs.refuse(found.values()) == ()
    assert "not carried" not in found["indexes"].text, "public.measures_only is invalid on both sides"
    for name in ("indexes", "constraints", "defaults", "triggers", "rules", "views", "functions", "types"):
        assert not found[name].text.startswith("0 of 0"), found[name]
    assert found["rows"].to_json() == {
        "name": "rows",
        "equal": True,
        "text": "0 of 0 tables equal, 0 rows, in 0.1 s",
        "detail": [],
    }


def test_between_servers_of_one_major_every_text_is_compared(tmp_path: Path) -> None:
    with migrated(tmp_path, "15-15") as (space, _, target):
        assert failed(proven(space)) == {}
        execute(
            target, "CREATE VIEW public.ours AS SELECT 1 AS a", "CREATE VIEW public.theirs AS SELECT 1 AS a"
        )
        execute(dsn_of(space.source), "CREATE VIEW public.ours AS SELECT 2 AS a")
        assert [line for line in failed(proven(space))["views"] if "SELECT 1" in line and "SELECT 2" in line]


PART = """
CREATE SCHEMA "le ft"; CREATE SCHEMA "k.ept";
CREATE TABLE "le ft"."g one" (id serial PRIMARY KEY, a int UNIQUE CHECK (a > 0));
CREATE FUNCTION "k.ept".touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t BEFORE INSERT ON "le ft"."g one" FOR EACH ROW EXECUTE FUNCTION "k.ept".touch();
CREATE VIEW "le ft".v AS SELECT 1 AS a;
CREATE TABLE "k.ept"."t ""x" (id serial PRIMARY KEY, gone int REFERENCES "le ft"."g one");
CREATE TABLE "k.ept".empty (id serial PRIMARY KEY);
INSERT INTO "k.ept".empty DEFAULT VALUES;
ALTER TABLE "le ft"."g one" ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON "le ft"."g one" USING (true);
GRANT SELECT (a) ON "le ft"."g one" TO PUBLIC;
"""
PART_PLAN = PLAN.replace(
    "uses: snapshot}}",
    "uses: snapshot, with: {{filters: {{exclude: ['\"le ft\".*'], schema_only: ['\"k.ept\".empty'],"
    " foreign_keys: leave_out}}}}}}",
)


def test_what_the_filters_leave_out_is_no_difference(tmp_path: Path) -> None:
    with migrated(tmp_path, "16-18", script=PART, plan=PART_PLAN) as (space, _, target):
        space.selection = selection_of(space, tmp_path)
        found = proven(space)
        assert failed(found) == {}
        assert found["indexes"].text.startswith("2 of 2")
        assert found["sequences"].text.startswith("2 sequences")
        execute(target, 'ALTER SEQUENCE "k.ept".empty_id_seq RENAME TO gone')
        assert (
            'sequence "k.ept".empty_id_seq: missing on the receiving side'
            in failed(proven(space))["sequences"]
        )


def selection_of(space: Workspace, folder: Path) -> Selection:
    plan = load(folder / "plan.yaml", variables={}, var_files=(), environ={})
    return selected(plan)


# On the target: the proof that fails, what its detail tells, the defect, and what takes it back.
DEFECTS = [
    (
        "indexes",
        "index public.main_doc: missing",
        "ALTER INDEX main_doc RENAME TO gone",
        "ALTER INDEX gone RENAME TO main_doc",
    ),
    (
        "indexes",
        "index public.extra: only on the receiving side",
        "CREATE INDEX extra ON main (code)",
        "DROP INDEX extra",
    ),
    (
        "indexes",
        "index public.main_doc: not valid or not ready",
        "UPDATE pg_index SET indisready = false WHERE indexrelid = 'public.main_doc'::regclass",
        "UPDATE pg_index SET indisready = true WHERE indexrelid = 'public.main_doc'::regclass",
    ),
    (
        "constraints",
        "constraint public.other.to_main: not validated",
        "UPDATE pg_constraint SET convalidated = false WHERE conname = 'to_main'",
        "UPDATE pg_constraint SET convalidated = true WHERE conname = 'to_main'",
    ),
    (
        "constraints",
        "constraint public.main.apart: missing",
        "ALTER TABLE main RENAME CONSTRAINT apart TO anywhere",
        "ALTER TABLE main RENAME CONSTRAINT anywhere TO apart",
    ),
    (
        "defaults",
        "default public.main.at: missing",
        "ALTER TABLE main ALTER at DROP DEFAULT",
        "ALTER TABLE main ALTER at SET DEFAULT now()",
    ),
    (
        "defaults",
        "default public.derived.t: 'y'::text on the one side, 'z'::text on the other",
        "ALTER TABLE derived ALTER t SET DEFAULT 'z'",
        "ALTER TABLE derived ALTER t SET DEFAULT 'y'",
    ),
    (
        "rules",
        "rule public.nothing_keyed.noted: missing",
        "ALTER RULE noted ON nothing_keyed RENAME TO heard",
        "ALTER RULE heard ON nothing_keyed RENAME TO noted",
    ),
    (
        "functions",
        "function public.twice(i integer): its body or attributes differ",
        "CREATE OR REPLACE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 3'",
        "CREATE OR REPLACE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT i * 2'",
    ),
    (
        "types",
        "type public.mood",
        "ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE public.mood RENAME VALUE 'blue' TO 'sad'",
    ),
    (
        "owners",
        "table public.main: belongs to postgres instead of ev_owner",
        "ALTER TABLE main OWNER TO postgres",
        "ALTER TABLE main OWNER TO ev_owner",
    ),
    (
        "grants",
        "table public.identified: ev_app has TRUNCATE beyond",
        "GRANT TRUNCATE ON identified TO ev_app",
        "REVOKE TRUNCATE ON identified FROM ev_app",
    ),
    (
        "grants",
        "function public.twice(i integer): ev_app lacks EXECUTE",
        "REVOKE EXECUTE ON FUNCTION public.twice(int) FROM ev_app",
        "GRANT EXECUTE ON FUNCTION public.twice(int) TO ev_app",
    ),
    (
        "grants",
        "type public.mood: ev_app lacks USAGE",
        "REVOKE USAGE ON TYPE public.mood FROM ev_app",
        "GRANT USAGE ON TYPE public.mood TO ev_app",
    ),
    (
        "sequences",
        "sequence public.main_serial_seq",
        "ALTER SEQUENCE main_serial_seq INCREMENT 2",
        "ALTER SEQUENCE main_serial_seq INCREMENT 1",
    ),
    (
        "row security",
        "row security public.identified: only on the receiving side",
        "ALTER TABLE identified ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE identified DISABLE ROW LEVEL SECURITY",
    ),
    (
        "inheritance",
        "inheritance public.derived from public.base: missing",
        "ALTER TABLE derived NO INHERIT base",
        "ALTER TABLE derived INHERIT base",
    ),
    (
        "views",
        "view public.first_mat: missing",
        "ALTER MATERIALIZED VIEW first_mat RENAME TO gone",
        "ALTER MATERIALIZED VIEW gone RENAME TO first_mat",
    ),
]


@pytest.mark.parametrize(("name", "line", "do", "undo"), DEFECTS)
def test_a_planted_defect_stops_the_cutover_and_is_told_by_name(
    name: str, line: str, do: str, undo: str, stage: tuple[Workspace, str, str]
) -> None:
    space, _, target = stage
    with planted(
        target,
        f"SET search_path = public; SET allow_system_table_mods = on; {do}",
        f"SET search_path = public; {undo}",
    ):
        found = proven(space)
    assert any(line in told for told in failed(found)[name]), failed(found)
    with pytest.raises(DifferencesFound) as caught:
        proofs.refuse(found.values())
    assert line in caught.value.message
    assert proofs.refuse(found.values(), tolerated=failed(found)) != ()
    assert failed(proven(space)) == {}


def test_an_index_that_failed_to_build_on_the_source_is_told_and_not_missed(
    stage: tuple[Workspace, str, str],
) -> None:
    space, source, _ = stage
    execute(source, "SET search_path = public", "CREATE INDEX failed ON other (parent)")
    with planted(
        source,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.failed'::regclass",
        "DROP INDEX public.failed",
    ):
        found = proven(space)
    assert failed(found) == {}
    assert "not carried, as they are not valid: public.failed" in found["indexes"].text


def test_a_trigger_that_is_switched_off_is_told(stage: tuple[Workspace, str, str]) -> None:
    space, source, target = stage
    with psycopg.connect(source) as session:
        row = session.execute(
            "SELECT c.oid::regclass::text, quote_ident(t.tgname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE NOT tgisinternal AND tgenabled = 'O' AND tgparentid = 0 AND c.relkind = 'r' LIMIT 1"
        ).fetchone()
    assert row is not None
    table, trigger = row
    with planted(
        target,
        f"ALTER TABLE {table} DISABLE TRIGGER {trigger}",
        f"ALTER TABLE {table} ENABLE TRIGGER {trigger}",
    ):
        assert "enabled D" in "".join(failed(proven(space))["triggers"])


def test_what_the_plan_decided_is_told_and_no_difference(stage: tuple[Workspace, str, str]) -> None:
    space, _, target = stage
    decided = proofs.Terms(owners=False, grants=False, headroom=0)
    with planted(
        target, "ALTER TABLE public.main OWNER TO postgres", "ALTER TABLE public.main OWNER TO ev_owner"
    ):
        found = proven(space, decided)
    assert failed(found) == {}
    assert "by decision (owners: login)" in found["owners"].text
    assert "by decision (grants: skip)" in found["grants"].text


def test_who_writes_and_what_is_prepared_is_told_with_pid_and_query(
    stage: tuple[Workspace, str, str],
) -> None:
    space, source, target = stage
    impatient = proofs.Terms(headroom=0, long_writer=0.0)
    with (
        psycopg.connect(source, application_name="batch") as long,
        psycopg.connect(target, application_name="stranger") as stranger,
    ):
        long.execute("SET TRANSACTION READ WRITE; CREATE TABLE public.not_yet (a int)")
        # As a statement that the closed side refuses: its table locked for a moment, nothing written.
        stranger.execute("LOCK TABLE public.other IN ROW EXCLUSIVE MODE")
        assert proven(space, impatient)["other writers"].equal
        stranger.execute("SELECT pg_current_xact_id()")
        found = proven(space, impatient)
        assert f"pid {long.info.backend_pid} (batch, open for" in "".join(failed(found)["long writers"])
        assert f"pid {stranger.info.backend_pid} (stranger" in "".join(failed(found)["other writers"])
        assert "pg_current_xact_id" in found["other writers"].detail[0]
        long.rollback()
        stranger.rollback()
    execute(
        source,
        "BEGIN; SET TRANSACTION READ WRITE; CREATE TABLE public.not_yet (a int); PREPARE TRANSACTION 'left'",
    )
    try:
        found = proven(space)
        assert "'left'" in "".join(failed(found)["prepared transactions"])
        with pytest.raises(StepFailed, match="prepared transactions"):
            proofs.refuse(found.values())
    finally:
        execute(source, "ROLLBACK PREPARED 'left'")
    assert failed(proven(space, impatient)) == {}


def test_tables_without_statistics_are_a_warning_with_the_statement(
    stage: tuple[Workspace, str, str],
) -> None:
    space, _, target = stage
    execute(target, "CREATE TABLE public.fresh AS SELECT 1 AS a")
    try:
        found = proven(space)
        assert failed(found) == {"statistics": ("public.fresh",)}
        assert "ANALYZE public.fresh" in proofs.refuse(found.values())[0]
    finally:
        execute(target, "DROP TABLE public.fresh")


def test_inside_the_fence_a_change_since_the_gate_is_seen_by_one_query(
    stage: tuple[Workspace, str, str],
) -> None:
    space, source, _ = stage
    marked = proofs.mark(space)
    ours, theirs = sequences.both_sides(space.source, space.target)
    with space.target.session() as session:
        moved = sequences.carry(session, ours, theirs, 10)
    assert [p.equal for p in proofs.inside(space, marked, ours, moved)] == [True, True]
    with planted(source, "CREATE TABLE public.new_one (a int)", "DROP TABLE public.new_one"):
        assert [p.equal for p in proofs.inside(space, marked, ours, moved)] == [False, True]
        assert "new_one" in "".join(failed(proven(space))["catalogue"])


def test_a_subscription_that_was_disabled_stops_the_cutover(stage: tuple[Workspace, str, str]) -> None:
    space, _, target = stage
    name = space.names.stream(1)
    with planted(target, f"ALTER SUBSCRIPTION {name} DISABLE", f"ALTER SUBSCRIPTION {name} ENABLE"):
        assert "is disabled" in "".join(failed(proven(space))["streams"])


OLD = """
CREATE TABLE p (id serial, a int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER t AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION f();
CREATE TABLE r (a int PRIMARY KEY REFERENCES p);
CREATE FUNCTION planrunner_probe() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER planrunner_probe BEFORE TRUNCATE ON r EXECUTE FUNCTION planrunner_probe();
"""


def test_an_old_server_and_a_new_one_are_asked_the_same(tmp_path: Path) -> None:
    """Copies of triggers and foreign keys that partitions have differ from major to major, and are no difference."""
    with PostgresServer(server_bin(13)) as old, PostgresServer(wheel_bin(18)) as new:
        create(old, OLD)
        create(new, OLD)
        source, target = opened(Side.SOURCE, old, "00000001"), opened(Side.TARGET, new, "00000001")
        found = likeness.proofs(census.read(source), census.read(target), likeness.Wish())
        assert [proof.detail for proof in found if not proof.equal] == []
        # One that is only named like ours calls a function of somebody else's, and is compared.
        assert {p.name: p.text for p in found}["triggers"].startswith("2 of 2")
        assert sequences.unequal(*sequences.both_sides(source, target)) == ()
        names = Names(plan_id="00000001")
        assert [r.name for r in residue.scan(source, target, names)] == ["planrunner_probe on public.r"] * 2
        for server in (source, target):
            assert activity.prepared(server).equal
            assert activity.strangers(server, names, []).equal
            assert activity.long_writers(server, names, [], older_than=1).equal
            assert activity.statistics(server).equal
            server.close()
