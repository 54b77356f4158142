"""Rows are compared and repaired while both sides are written to; a late row is no difference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from planrunner.errors import UsageError
from planrunner.replication.comparison import Scope, compare
from planrunner.verification import RowFault, VerifyTerms
from tests.integration.replication.conftest import dsn_of
from tests.integration.replication.stage import Churn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.sandbox.servers import PostgresServer
    from planrunner.verification import Verification
    from tests.integration.replication.conftest import Streams

    Make = Callable[..., Streams]

MOVES = [
    "INSERT INTO orders (id, note, m) VALUES (%(a)s + 1000, %(b)s::text, 'sad') ON CONFLICT DO NOTHING",
    "UPDATE orders SET note = note || 'x', m = 'glad' WHERE id = %(a)s %% 40 + 500",
    "DELETE FROM orders WHERE id = %(a)s + 1000",
    "UPDATE lines SET n = %(a)s WHERE id = %(a)s %% 5",
    "INSERT INTO bare VALUES (%(a)s %% 7, 'b')",
    "DELETE FROM bare WHERE ctid = (SELECT ctid FROM bare WHERE a = %(a)s %% 7 LIMIT 1)",
]
ROWS = (
    "INSERT INTO orders SELECT i, 'note ' || i, 'c' || i, 'sad' FROM generate_series(1, 900) i",
    "INSERT INTO lines SELECT i, i FROM generate_series(0, 50) i",
    "INSERT INTO bare SELECT i % 50, 'b' || i % 50 FROM generate_series(1, 200) i",
)
DAMAGE = (
    "DELETE FROM orders WHERE id = 7",
    "UPDATE orders SET note = note || ' ' WHERE id = 8",
    "UPDATE orders SET code = NULL WHERE id = 9",
    "INSERT INTO orders VALUES (950, 'extra', 'c950', 'sad')",
    "DELETE FROM bare WHERE ctid = (SELECT min(ctid) FROM bare WHERE b = 'b40')",
    "INSERT INTO bare VALUES (41, 'b41'), (41, 'b41'), (-1, NULL)",
)
GUARD = (
    "CREATE FUNCTION public.guarded() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RAISE EXCEPTION USING ERRCODE = ''25006'', MESSAGE = ''not yet''; END'",
    "CREATE TRIGGER planrunner_fence BEFORE INSERT OR UPDATE OR DELETE ON orders FOR EACH STATEMENT"
    " EXECUTE FUNCTION public.guarded()",
    "ALTER TABLE ONLY orders ENABLE ALWAYS TRIGGER planrunner_fence",
    "CREATE TRIGGER planrunner_fence_truncate BEFORE TRUNCATE ON orders FOR EACH STATEMENT"
    " EXECUTE FUNCTION public.guarded()",
)


def compared(streams: Streams, **terms: object) -> Verification:
    return compare(streams.space, VerifyTerms(**terms), Scope())  # type: ignore[arg-type]


def caught_up(made: Streams) -> None:
    made.wait_until(
        lambda: (
            [made.target(f"SELECT count(*) FROM {t}") for t in ("orders", "lines", "bare")]
            == [made.source(f"SELECT count(*) FROM {t}") for t in ("orders", "lines", "bare")]
        )
    )


def filled(make: Make, servers: Sequence[PostgresServer], *damage: str, following: bool = True) -> Streams:
    made = make(*servers, following=following)
    made.source(*ROWS)
    if following:
        caught_up(made)
    else:
        made.target(*ROWS)
    if damage:
        made.target(*damage)
    return made


def test_rows_that_are_only_late_are_no_difference(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server))
    with Churn(dsn_of(made.space.source), MOVES) as churn:
        for _ in range(4):
            assert compared(made).differences == ()
        assert churn.done > 50


def test_what_differs_is_found_and_repaired_while_the_source_is_written_to(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), *DAMAGE, *GUARD)
    asked: list[Verification] = []

    def agree(found: Verification) -> bool:
        asked.append(found)
        return True

    with Churn(dsn_of(made.space.source), MOVES):
        after = compared(made, mend=agree)
    (found,) = asked
    by_table = {rows.table: rows for rows in found.rows}
    orders = {row.key["id"]: row for row in by_table["public.orders"].shown}
    assert {key: row.kind for key, row in orders.items()} == {
        "7": RowFault.MISSING,
        "8": RowFault.CHANGED,
        "9": RowFault.CHANGED,
        "950": RowFault.EXTRA,
    }
    assert orders["8"].columns == {"note": ("note 8", "note 8 ")}
    assert orders["9"].columns == {"code": ("c9", None)}
    bare = {row.columns["b"][0] or row.columns["b"][1]: row.copies for row in by_table["public.bare"].shown}
    assert bare["b40"] == (4, 3)
    assert bare["b41"] == (4, 6)
    assert after.rows == ()
    caught_up(made)
    assert compared(made).rows == ()
    # The guard that kept strangers out stands as it stood.
    assert made.target(
        "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgname LIKE 'planrunner%' ORDER BY 1"
    ) == [("planrunner_fence", "A"), ("planrunner_fence_truncate", "O")]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        made.target("DELETE FROM orders")


def test_a_repair_writes_what_the_source_holds_by_then(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), *DAMAGE, following=False)

    def agree(_found: Verification) -> bool:
        made.source("UPDATE orders SET note = 'newer' WHERE id IN (7, 8)", "DELETE FROM orders WHERE id = 9")
        return True

    assert compared(made, mend=agree).rows == ()
    assert made.target("SELECT id, note FROM orders WHERE id IN (7, 8, 9) ORDER BY 1") == [
        (7, "newer"),
        (8, "newer"),
    ]


def test_a_table_that_is_wrong_throughout_is_counted_and_repaired(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), following=False)
    made.source("INSERT INTO lines SELECT i, i FROM generate_series(100, 25100) i")
    made.target("UPDATE lines SET n = -1", "DELETE FROM bare")
    found = compared(made, rows=3)
    rows = {r.table: (r.total, len(r.shown), len(r.repairs)) for r in found.rows}
    assert rows == {"public.lines": (25052, 3, 3), "public.bare": (50, 3, 3)}
    assert compared(made, mend=lambda _: True).equal


def test_only_the_tables_that_are_named_are_compared(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), *DAMAGE, following=False)
    found = compared(made, tables=("public.li*",))
    assert [v.table for v in found.tables] == ["public.lines"]
    assert found.equal
    with pytest.raises(UsageError, match="follows no such table"):
        compared(made, tables=("public.nothing",))


def test_a_sample_is_the_same_rows_every_time(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), following=False)
    counts = {tuple(v.source_rows for v in compared(made, sample=0.2).tables) for _ in range(3)}
    ((bare, lines, orders),) = counts
    assert 0 < bare < 200
    assert 0 < lines < 51
    assert 100 < orders < 300
    made.target("UPDATE orders SET note = 'other'")
    assert not compared(made, sample=0.2).equal


def test_a_column_that_the_target_lacks_is_a_difference_and_no_failure(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(streams, (source_server, target_server), following=False)
    made.target("ALTER TABLE orders DROP COLUMN code", "DROP TABLE bare")
    told = "\n".join(compared(made).differences)
    assert "public.orders: the target lacks column code" in told
    assert "public.bare: missing on the target" in told


def test_rows_are_compared_where_a_column_is_of_another_type_on_the_target(
    streams: Make, source_server: PostgresServer, target_server: PostgresServer
) -> None:
    made = filled(
        streams,
        (source_server, target_server),
        "ALTER TABLE orders ALTER id TYPE bigint",
        "ALTER TABLE lines ALTER n TYPE text",
        "ALTER TABLE bare ALTER a TYPE double precision",
        following=False,
    )
    assert compared(made).rows == ()
    made.target(
        "UPDATE orders SET id = id + 4294967296 WHERE id = 3", "UPDATE lines SET n = n || ' ' WHERE id = 4"
    )
    found = compared(made)
    assert {rows.table: rows.total for rows in found.rows} == {"public.orders": 2, "public.lines": 1}
    assert any("orders.id" in line for line in found.other)
