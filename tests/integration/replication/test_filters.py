"""Filters against real servers: what is checked before anything is built, and what a digest compares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import conninfo

from planrunner.clock import SystemClock
from planrunner.errors import StepConflict, StepFailed
from planrunner.model import Endpoint, Finding, Mark, Plan, Secret, Side, StepSpec
from planrunner.postgres import catalog
from planrunner.postgres.connection import Server
from planrunner.replication import checksum, relations, schema_dump, selection_record
from planrunner.replication.schema_dump import Wishes
from planrunner.replication.selection import Selection
from planrunner.sandbox.servers import PostgresServer
from planrunner.step import Held, Run
from planrunner.steps.snapshot import Snapshot
from planrunner.workspace import workspace
from tests.servers import server_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHOP = """
DROP SCHEMA IF EXISTS public, billing, "a.b" CASCADE; DROP SCHEMA IF EXISTS planrunner CASCADE;
CREATE SCHEMA public; CREATE SCHEMA billing; CREATE SCHEMA "a.b"; SET search_path = public;
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE orders (id int PRIMARY KEY, region text NOT NULL, at timestamptz NOT NULL, mood mood);
INSERT INTO orders SELECT i, CASE i % 4 WHEN 0 THEN 'eu' ELSE 'us' END,
  '2024-01-01 00:00+00'::timestamptz + i * interval '1 hour', 'sad' FROM generate_series(1, 1000) i;
CREATE TABLE items (order_id int REFERENCES orders, line int, PRIMARY KEY (order_id, line));
INSERT INTO items SELECT id, 1 FROM orders;
CREATE TABLE audit_log (id serial PRIMARY KEY, what text);
INSERT INTO audit_log (what) SELECT repeat('x', 500) FROM generate_series(1, 500);
CREATE TABLE sessions (id int PRIMARY KEY, data text);
INSERT INTO sessions SELECT i, 'x' FROM generate_series(1, 100) i;
CREATE TABLE "a.b"."c.d" (id int PRIMARY KEY);
CREATE TABLE billing.inv_1 (id int PRIMARY KEY); CREATE TABLE billing.other (id int PRIMARY KEY);
CREATE VIEW audits AS SELECT count(*) FROM audit_log;
CREATE STATISTICS billing.st ON id, what FROM audit_log;
RESET search_path; ANALYZE;
"""


def opened(server: PostgresServer, side: Side) -> Server:
    parts = conninfo.conninfo_to_dict(server.superuser_dsn)
    parts.pop("password")
    endpoint = Endpoint(side=side, dsn=conninfo.make_conninfo("", **{**parts, "sslmode": "disable"}))
    return Server(endpoint, clock=SystemClock(), resolve=lambda _: Secret(server.password), label="test")


class Bench:
    """Two databases as the shop left them, and the snapshot step with its filters."""

    def __init__(self, servers: tuple[PostgresServer, PostgresServer]) -> None:
        self.dsns = tuple(server.superuser_dsn for server in servers)
        self.source, self.target = opened(servers[0], Side.SOURCE), opened(servers[1], Side.TARGET)
        self.held: list[Held] = []

    def close(self) -> None:
        for held in self.held:
            held.close()
        self.source.close()
        self.target.close()

    def sql(self, text: str, *, on: int = 0) -> None:
        with psycopg.connect(self.dsns[on], autocommit=True) as session:
            session.execute(text.encode())

    def run(self, filters: dict[str, Any], **options: Any) -> Run:
        spec = StepSpec(id="copy", uses="snapshot", options={"filters": filters, **options})
        plan = Plan(
            name="test",
            path=Path("plan.yaml"),
            digest="",
            source=self.source.endpoint,
            target=self.target.endpoint,
            steps=(spec,),
        )
        self.held.append(Held())
        return Run(
            plan=plan,
            spec=spec,
            plan_id="0123abcd",
            source=self.source,
            target=self.target,
            cloud=None,
            clock=SystemClock(),
            held=self.held[-1],
            tell=lambda _text, _fields: None,
        )

    def findings(self, filters: dict[str, Any], mark: Mark = Mark.FAIL, **options: Any) -> list[Finding]:
        return [f for f in Snapshot().findings(self.run(filters, **options)) if f.mark is mark]


@pytest.fixture
def bench(servers: tuple[PostgresServer, PostgresServer]) -> Iterator[Bench]:
    made = Bench(servers)
    made.sql(SHOP)
    made.sql('DROP SCHEMA IF EXISTS public, billing, planrunner, "a.b" CASCADE; CREATE SCHEMA public', on=1)
    yield made
    made.close()


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, [f.text for f in findings]
    return findings[0]


def test_without_filters_nothing_is_checked_and_everything_comes(bench: Bench) -> None:
    assert list(Snapshot().findings(bench.run({}))) == []
    assert relations.omitted(bench.source, Selection.of({})) == relations.Omitted()


@pytest.mark.parametrize(
    ("filters", "told", "remedy"),
    [
        ({"include": ["public.*", "biling.*"]}, "filters.include: biling.* matches no table", "Did you mean"),
        ({"exclude": ["public.session"]}, "public.session matches no table", "Did you mean public.sessions?"),
        ({"exclude": ["public.Sessions"]}, "public.Sessions matches", "public.sessions"),
        (
            {"include": ["public.orders"], "rows": {"public.sessions": "id > 1"}},
            "filters.rows: public.sessions matches no table whose rows are copied",
            "schema.table",
        ),
        (
            {"schema_only": ["public.sessions"], "rows": {"public.sessions": "id > 1"}},
            "filters.rows: public.sessions matches no table whose rows are copied",
            "schema.table",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_told(
    bench: Bench, filters: dict[str, Any], told: str, remedy: str
) -> None:
    texts = [(f.text, f.remedy or "") for f in bench.findings(filters)]
    assert any(told in text and remedy in help_ for text, help_ in texts), texts


def test_quoted_names_are_found(bench: Bench) -> None:
    assert bench.findings({"exclude": ['"a.b"."c.d"']}) == []


@pytest.mark.parametrize(
    ("extra", "needs"),
    [
        ("", "view public.audits needs public.audit_log"),
        ("CREATE FUNCTION f(public.audit_log) RETURNS int LANGUAGE sql RETURN 1", "needs public.audit_log"),
        ("CREATE TABLE t (id int PRIMARY KEY, a public.audit_log)", "table public.t needs public.audit_log"),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a public.audit_log[])",
            "table public.t needs public.audit_log",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('public.audit_log_id_seq'))",
            "table public.t needs public.audit_log_id_seq",
        ),
        (
            "CREATE TABLE t (PRIMARY KEY (id)) INHERITS (public.audit_log)",
            "table public.t needs public.audit_log",
        ),
        (
            "CREATE POLICY p ON public.sessions USING (EXISTS (SELECT FROM public.audit_log))",
            "table public.sessions needs public.audit_log",
        ),
    ],
)
def test_what_needs_an_excluded_table_is_named(bench: Bench, extra: str, needs: str) -> None:
    if extra:
        bench.sql(f"DROP VIEW public.audits; SET search_path = public; {extra}")
    assert needs in only(bench.findings({"exclude": ["public.audit_*"]})).text


def test_leaving_out_the_view_as_well_satisfies_it(bench: Bench) -> None:
    assert bench.findings({"exclude": ["public.audit_*", "public.audits"]}) == []


@pytest.mark.parametrize("how", ["exclude", "schema_only", "rows"])
def test_a_foreign_key_to_rows_that_do_not_come_is_refused_by_name(bench: Bench, how: str) -> None:
    filters: dict[str, Any] = {how: {"public.orders": "id > 5"} if how == "rows" else ["public.orders"]}
    found = only(bench.findings(filters))
    assert "items_order_id_fkey of public.items to public.orders" in found.text
    assert "foreign_keys" in (found.remedy or "")
    assert bench.findings({**filters, "foreign_keys": "leave_out"}) == []
    assert (bench.findings({**filters, "foreign_keys": "keep"}) == []) == (how != "exclude")


def test_a_foreign_key_between_tables_without_rows_is_none_of_it(bench: Bench) -> None:
    assert bench.findings({"schema_only": ["public.orders", "public.items"]}) == []
    assert bench.findings({"exclude": ["public.orders", "public.items"]}) == []


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("nonsense > 1", 'column "nonsense" does not exist'),
        ("id >", "syntax error"),
        ("id", "must be type boolean"),
        ("random() > 0.5", "mutable functions are not allowed"),
        ("at > now() - interval '1 day'", "mutable functions are not allowed"),
        ("mood = 'sad'", "ser-defined types are not allowed"),
        ("id IN (SELECT id FROM public.sessions)", "Only columns, constants"),
        ("ctid > '(0,0)'", "ystem columns are not allowed"),
    ],
)
def test_a_filter_that_no_publication_takes_is_told_in_the_servers_words(
    bench: Bench, where: str, told: str
) -> None:
    bench.sql("DROP TABLE public.items")
    found = only(bench.findings({"rows": {"public.orders": where, "public.sessions": "id > 3"}}))
    assert found.text.startswith("the source refuses the row filter of public.orders")
    assert told in found.text
    assert where in (found.remedy or "")


def test_a_filter_outside_the_replica_identity_is_refused_because_updates_would_fail(bench: Bench) -> None:
    bench.sql("DROP TABLE public.items")
    filters = {"rows": {"public.orders": "region = 'eu' AND id > 3"}}
    found = only(bench.findings(filters))
    assert "uses region, not of its replica identity (id)" in found.text
    assert "REPLICA IDENTITY FULL" in (found.remedy or "")
    assert bench.findings({**filters, "replica_identity": "full"}) == []
    bench.sql("ALTER TABLE public.orders REPLICA IDENTITY FULL")
    assert bench.findings(filters) == []
    bench.sql(
        "CREATE UNIQUE INDEX other ON public.orders (id, region);"
        " ALTER TABLE public.orders REPLICA IDENTITY USING INDEX other"
    )
    assert bench.findings(filters) == []


def test_the_trial_leaves_nothing_and_holds_nothing(bench: Bench) -> None:
    bench.findings({"rows": {"public.orders": "id > 3", "public.sessions": "broken >"}})
    left = bench.source.value(
        "SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_locks"
        " WHERE mode = 'ShareUpdateExclusiveLock' AND relation = 'public.orders'::regclass)"
    )
    assert left == 0


def test_a_locked_table_leaves_the_trial_undecided_and_stops_no_one(bench: Bench) -> None:
    bench.sql("DROP TABLE public.items")
    with psycopg.connect(bench.dsns[0]) as session:
        session.execute("LOCK TABLE public.orders IN SHARE UPDATE EXCLUSIVE MODE")
        found = only(bench.findings({"rows": {"public.orders": "id > 3"}}))
    assert "can't be tried" in found.text
    assert "lock timeout" in found.text


def test_the_preview_tells_what_is_left_behind_with_sizes_and_estimates(bench: Bench) -> None:
    bench.sql("DROP TABLE public.items")
    filters = {
        "exclude": ["public.audit_*", "public.audits"],
        "schema_only": ["public.sessions"],
        "rows": {"public.orders": "id <= 100"},
        "since": {"public.orders": {"column": "at", "window": "1h"}},
        "replica_identity": "full",
    }
    run = bench.run(filters)
    texts = [f.text for f in Snapshot().findings(run) if f.mark is not Mark.FAIL]
    assert any("are left out" in text and "public.audit_log (" in text for text in texts)
    assert any("without their rows" in text and "public.sessions (" in text for text in texts)
    (kept,) = (text for text in texts if text.startswith("public.orders: about"))
    assert "of 1000 rows come" in kept
    (since,) = (text for text in texts if text.startswith("public.orders: rows since"))
    assert "were the run begun now" in since
    fix = Snapshot().actions(run)[0]
    assert fix.name == "filters"
    assert since.split("since ")[1].split(" (")[0] in fix.summary
    assert Snapshot().actions(run)[1].name == "filter identities"


def test_a_row_estimate_near_the_truth(bench: Bench) -> None:
    bench.sql("DROP TABLE public.items")
    texts = [f.text for f in bench.findings({"rows": {"public.orders": "id <= 100"}}, Mark.WARN)]
    (kept,) = (text for text in texts if text.startswith("public.orders: about"))
    assert 90 <= int(kept.split("about ")[1].split()[0]) <= 110


def test_windows_are_fixed_once_and_the_same_after_a_restart(bench: Bench) -> None:
    filters = {"since": {"public.orders": {"column": "at", "window": "10d"}}, "replica_identity": "full"}
    first = bench.run(filters)
    provisional = workspace(first).selection
    assert not provisional.recorded
    selection_record.record(workspace(first))
    later = workspace(bench.run(filters)).selection
    assert later.recorded
    assert later.instants == provisional.instants
    assert all(action.name != "filters" for action in Snapshot().actions(bench.run(filters)))
    with pytest.raises(StepConflict, match=r"filters\.since of the plan differ"):
        Snapshot().actions(
            bench.run({**filters, "since": {"public.orders": {"column": "at", "window": "9d"}}})
        )
    with pytest.raises(StepConflict, match="differ"):
        Snapshot().actions(bench.run({}))


def test_filters_added_after_rows_were_copied_are_refused(bench: Bench) -> None:
    space = workspace(bench.run({}))
    with space.writing() as session:
        session.execute(
            "INSERT INTO planrunner.unit (plan_id, unit_id, generation, rows, bytes, seconds, epoch)"
            " VALUES ('0123abcd', 'public.orders', 1, 1, 1, 1, 1)"
        )
    with pytest.raises(StepConflict, match="copied without any"):
        Snapshot().actions(bench.run({"exclude": ["public.orders"]}))


def test_verification_needs_the_instants_on_record(bench: Bench) -> None:
    selection = workspace(
        bench.run({"since": {"public.orders": {"column": "at", "window": "10d"}}})
    ).selection
    with pytest.raises(StepFailed, match="where the time windows begin"):
        selection_record.refuse_unrecorded(selection)


def test_the_schema_comes_without_what_is_left_out(bench: Bench) -> None:
    bench.sql("COMMENT ON CONSTRAINT items_order_id_fkey ON public.items IS 'x'")
    selection = Selection.of(
        {
            "exclude": ["public.audit_*", "public.audits", "billing.other", '"a.b".*'],
            "schema_only": ["public.orders"],
            "foreign_keys": "leave_out",
        }
    )
    wishes = Wishes(omitted=relations.omitted(bench.source, selection))
    dumped = schema_dump.dumped(bench.source, bench.target, wishes)
    text = "".join(entry.sql for part in (dumped.pre_data, dumped.post_data) for entry in part.entries)
    assert "CREATE TABLE public.orders" in text
    assert "CREATE TABLE billing.inv_1" in text
    for gone in ("audit", "billing.other", "c.d", "FOREIGN KEY", "STATISTICS", "items_order_id_fkey"):
        assert gone not in text
    bench.sql(text, on=1)


@pytest.fixture
def filtered(bench: Bench) -> Callable[[], Any]:
    """The verdict on orders of id <= 100, of which the target has exactly those."""
    bench.sql("CREATE TYPE public.mood AS ENUM ('sad', 'glad')", on=1)
    bench.sql(
        "CREATE TABLE public.orders (id int PRIMARY KEY, region text, at timestamptz, mood public.mood)", on=1
    )
    with psycopg.connect(bench.dsns[0]) as source, psycopg.connect(bench.dsns[1]) as target:
        rows = source.execute(
            "SELECT id, region, at, mood::text FROM public.orders WHERE id <= 100"
        ).fetchall()
        target.cursor().executemany("INSERT INTO public.orders VALUES (%s, %s, %s, %s)", rows)
    selection = Selection.of(
        {"include": ["public.orders"], "rows": {"public.orders": "id <= 100 OR region LIKE '%x%'"}}
    )

    def verdict() -> Any:
        (table,) = selection.followed(catalog.tables(bench.source))
        ours, theirs = checksum.both_sides(bench.source, bench.target, [table], counts_only=False, timeout=30)
        return checksum.verdict(table, ours["public.orders"], theirs["public.orders"])

    return verdict


def test_a_filtered_table_is_equal_when_the_target_has_just_its_rows(
    bench: Bench, filtered: Callable[[], Any]
) -> None:
    found = filtered()
    assert (found.equal, found.source_rows, found.target_rows) == (True, 100, 100)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE public.orders SET region = 'us' WHERE id = 4", "contents differ"),
        ("DELETE FROM public.orders WHERE id = 4", "100 rows on the source, 99 on the target"),
        ("INSERT INTO public.orders VALUES (500, 'eu', now(), 'sad')", "1 rows on the target lie outside"),
        ("INSERT INTO public.orders VALUES (500, NULL, now(), 'sad')", "1 rows on the target lie outside"),
        ("UPDATE public.orders SET id = 4000 WHERE id = 4", "1 rows on the target lie outside"),
    ],
)
def test_a_planted_defect_in_a_filtered_table_is_found(
    bench: Bench, filtered: Callable[[], Any], change: str, told: str
) -> None:
    bench.sql(change, on=1)
    found = filtered()
    assert not found.equal
    assert told in found.detail


def test_row_filters_on_a_source_before_15_are_refused_with_the_reason(
    servers: tuple[PostgresServer, PostgresServer],
) -> None:
    with PostgresServer(server_bin(13), settings={"wal_level": "logical"}) as old:
        made = Bench((old, servers[1]))
        made.sql(SHOP)
        try:
            refused = made.findings({"rows": {"public.orders": "id < 100"}})
            assert any("15" in finding.text and "13" in finding.text for finding in refused), refused
            assert not made.findings({"exclude": ["public.audit*", "public.audits"]})
        finally:
            made.close()


def test_a_row_filter_on_a_table_with_values_out_of_line_asks_for_a_full_identity(bench: Bench) -> None:
    bench.sql(
        "CREATE TABLE docs (id int PRIMARY KEY, d text); ALTER TABLE docs ALTER d SET STORAGE EXTERNAL;"
        " INSERT INTO docs SELECT i, repeat('x', 9000) FROM generate_series(1, 10) i"
    )
    wish: dict[str, Any] = {"rows": {"public.docs": "id < 100"}}
    (refused,) = bench.findings(wish)
    assert "public.docs has values out of line" in refused.text
    assert refused.remedy is not None
    assert "replica_identity: full" in refused.remedy
    assert not bench.findings({**wish, "replica_identity": "full"})
