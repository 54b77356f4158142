"""What a selection makes of the tables: fates, partitions with their parents, filters, windows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from planrunner.errors import StepFailed
from planrunner.postgres.catalog import Column, Table
from planrunner.replication import row_filters
from planrunner.replication.selection import EVERYTHING, Fate, Selection

NOW = datetime(2024, 3, 31, 12, 0, 30, 999, tzinfo=UTC)


def column(name: str, base: str) -> Column:
    return Column(
        name=name,
        type=base,
        base=base,
        kind="b",
        generated="",
        identity="",
        not_null=False,
        text_only=False,
        array=False,
    )


def table(oid: int, name: str, **more: Any) -> Table:
    plain = Table(
        oid=oid,
        schema="public",
        name=name,
        owner="me",
        partitioned=False,
        unlogged=False,
        replica_identity="d",
        is_partition=False,
        rows=0,
        bytes=0,
        data_bytes=0,
        pages=0,
        identifiable=True,
        toasted=False,
        row_security=False,
        key=("id",),
        columns=(column("id", "integer"), column("at", "timestamp with time zone")),
    )
    return replace(plain, **more)


ORDERS = table(1, "orders")
AUDIT = table(2, "audit_log")
EVENTS = table(3, "events", partitioned=True)
MONTH = table(4, "m_2024_01", parent=3, is_partition=True)
EMPTY = table(5, "cache", unlogged=True)
ALL = (ORDERS, AUDIT, EVENTS, MONTH, EMPTY)


def names(tables: tuple[Table, ...]) -> list[str]:
    return [t.name for t in tables]


def test_without_filters_all_that_is_logged_and_holds_rows_comes() -> None:
    assert EVERYTHING.everything
    assert names(EVERYTHING.carried(ALL)) == names(ALL)
    assert names(EVERYTHING.followed(ALL)) == ["orders", "audit_log", "m_2024_01"]
    assert [t.where for t in EVERYTHING.followed(ALL)] == [None, None, None]


def test_exclude_beats_include_and_schema_only_keeps_the_table() -> None:
    selection = Selection.of(
        {"include": ["public.*"], "exclude": ["public.aud*"], "schema_only": ["public.orders"]}
    )
    assert names(selection.carried(ALL)) == ["orders", "events", "m_2024_01", "cache"]
    assert names(selection.followed(ALL)) == ["m_2024_01"]
    assert selection.fates(ALL)[1] is Fate.SCHEMA_ONLY


def test_a_partition_goes_with_its_parent() -> None:
    assert names(Selection.of({"include": ["public.events"]}).followed(ALL)) == ["m_2024_01"]
    assert names(Selection.of({"exclude": ["public.events"]}).carried(ALL)) == [
        "orders",
        "audit_log",
        "cache",
    ]
    (month,) = Selection.of({"include": ["public.events"], "rows": {"public.events": "id > 3"}}).followed(ALL)
    assert month.where == "id > 3"


def test_several_filters_of_one_table_must_all_hold() -> None:
    selection = Selection.of(
        {
            "include": ["public.orders"],
            "rows": {"public.*": "id > 0 OR true", "public.orders": "id < 9"},
            "since": {"public.orders": {"column": "at", "window": "90d"}},
        }
    )
    fixed = selection.beginning({w.tables.text: w.begins(NOW) for w in selection.since}, recorded=False)
    (orders,) = fixed.followed(ALL)
    assert orders.where == (
        "((id > 0 OR true) AND (id < 9)) AND (\"at\" >= '2024-01-01 12:00:30+00'::pg_catalog.timestamptz)"
    )


@pytest.mark.parametrize(
    ("base", "written"),
    [
        ("timestamp with time zone", "'2024-03-31 12:00:30+00'::pg_catalog.timestamptz"),
        ("timestamp without time zone", "'2024-03-31 12:00:30'::pg_catalog.timestamp"),
        ("date", "'2024-03-31'::pg_catalog.date"),
    ],
)
def test_a_window_takes_the_columns_own_type(base: str, written: str) -> None:
    one = table(1, "t", columns=(column('a"t', base),))
    assert row_filters.since(one, 'a"t', NOW) == f'"a""t" >= {written}'


@pytest.mark.parametrize(("name", "told"), [("when", "no column"), ("id", "no date or timestamp")])
def test_a_window_needs_a_column_of_a_time(name: str, told: str) -> None:
    selection = Selection.of({"since": {"public.orders": {"column": name, "window": "1d"}}})
    with pytest.raises(StepFailed, match=told):
        selection.beginning({"public.orders": NOW}, recorded=False).followed(ALL)


@pytest.mark.parametrize(
    "expression",
    [
        "a = 1",
        "(a = 1) or (b = 'it''s; -- fine (')",
        "\"odd;col\" like '%)%'",
        "e$1 = 2 and u&'d\\0061t' = name",
    ],
)
def test_an_expression_that_stands_by_itself_is_taken(expression: str) -> None:
    assert row_filters.fault(expression) is None


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("a = 1)", "parentheses"),
        ("(a = 1", "parentheses"),
        ("true) OR (true", "parentheses"),
        ("true); DROP TABLE t; SELECT (1", "parentheses"),
        ("a = 1; DROP TABLE t", "no place"),
        ("a = 1 -- rest", "comment"),
        ("a = 1 /* rest", "comment"),
        ("a = 'open", "not closed"),
        ('"open = 1', "not closed"),
        ("a = $$x$$", "no place"),
        ("a = $1", "no place"),
        # The string on the next line goes on by the rules of the first, so \' does not end it.
        ("a = E'x'\n'\\'') OR true; DROP TABLE t; SELECT ('", "E'"),
        ("a = e'x'", "E'"),
        ("a = '\0'", "zero byte"),
    ],
)
def test_what_could_end_our_statement_is_refused(expression: str, told: str) -> None:
    assert told in str(row_filters.fault(expression))


def test_every_malformed_expression_is_named() -> None:
    with pytest.raises(StepFailed) as refused:
        Selection.of({"rows": {"public.a": "(x", "public.b": "y", "public.c": "z;"}})
    assert "public.a" in refused.value.message
    assert "public.c" in refused.value.message
    assert "public.b" not in refused.value.message
