"""The COPY of each side: which rows, which columns, and in which form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planrunner.postgres.catalog import ANY_TABLE, Column, Table
from planrunner.replication.copy import (
    Chunk,
    binary_safe,
    incoming,
    incoming_shape,
    occupied,
    outgoing,
)
from planrunner.replication.units import KeyRange, Unit


def column(
    name: str, base: str = "integer", *, kind: str = "b", generated: str = "", text_only: bool = False
) -> Column:
    return Column(
        name=name,
        type=base,
        base=base,
        kind=kind,
        generated=generated,
        identity="",
        not_null=False,
        text_only=text_only,
        array=base.endswith("[]"),
    )


def table(*columns: Column, where: str | None = None) -> Table:
    return replace(ANY_TABLE, schema="s", name='t"able', columns=columns, where=where)


ID, NOTE = column("id"), column("no te", "text")
PLAIN = Unit(table=table(ID, NOTE, column("sum", generated="s")))
PART = KeyRange(number=2, column="id", type="integer", low="10", high=None)


def shown(statement: object) -> str:
    return statement.as_string()  # type: ignore[attr-defined]


def test_a_whole_table_is_copied_without_its_generated_columns() -> None:
    assert shown(outgoing(PLAIN)) == 'COPY "s"."t""able" ("id", "no te") TO STDOUT (FORMAT binary)'
    assert shown(incoming(PLAIN)) == 'COPY "s"."t""able" ("id", "no te") FROM STDIN (FORMAT binary)'
    assert shown(incoming(PLAIN, freeze=True)) == (
        'COPY "s"."t""able" ("id", "no te") FROM STDIN (FORMAT binary, FREEZE)'
    )


def test_a_table_without_columns_that_hold_data_is_copied_without_a_list() -> None:
    empty = Unit(table=table(column("sum", generated="s")))
    assert shown(outgoing(empty)) == 'COPY "s"."t""able" TO STDOUT (FORMAT binary)'
    assert shown(incoming(empty)) == 'COPY "s"."t""able" FROM STDIN (FORMAT binary)'


@pytest.mark.parametrize(
    ("chunk", "pages"),
    [
        (Chunk(number=1, of=2, first=0, last=512), "ctid >= '(0,0)'::tid AND ctid < '(512,0)'::tid"),
        (Chunk(number=2, of=2, first=512, last=None), "ctid >= '(512,0)'::tid"),
    ],
)
def test_a_chunk_is_its_pages_and_a_range_its_keys(chunk: Chunk, pages: str) -> None:
    assert shown(outgoing(PLAIN, chunk)) == (
        f'COPY (SELECT "id", "no te" FROM ONLY "s"."t""able" WHERE {pages}) TO STDOUT (FORMAT binary)'
    )
    both = replace(PLAIN, part=PART, parts=2)
    text = shown(outgoing(both, chunk))
    assert f"WHERE {pages} AND " in text
    assert "\"id\" >= '10'::integer" in text
    assert "ctid" not in shown(outgoing(both))


def test_a_row_filter_goes_into_the_sources_copy_alone() -> None:
    some = Unit(table=table(ID, where="id > 3"))
    assert "id > 3" in shown(outgoing(some))
    assert "id > 3" not in shown(incoming(some))


@pytest.mark.parametrize(
    ("columns", "safe"),
    [
        ((ID, NOTE), True),
        ((), True),
        ((column("a", "integer[]"),), True),
        ((column("a", "regclass"),), False),
        ((column("a", "oid"),), False),
        ((column("a", "oid[]"),), False),
        ((column("a", "xid8"),), False),
        ((column("a", "tid"),), False),
        ((column("a", "pg_lsn"),), False),
        ((column("a", "public.mood", kind="e"),), True),
        ((column("a", "public.mood[]"),), False),
        ((column("a", "public.pair", kind="c"),), False),
        ((column("a", "citext.citext"),), False),
        ((column("a", "int4range", kind="r"),), True),
        ((column("a", "integer", kind="d"),), True),
        ((column("a", "integer", kind="m"),), False),
        ((column("a", "bytea", text_only=True),), False),
        ((ID, column("a", "oid", generated="s")), True),
        ((ID, column("a", "oid")), False),
    ],
)
def test_binary_is_used_where_it_means_the_same_on_both_sides(
    columns: tuple[Column, ...], safe: bool
) -> None:
    assert binary_safe(table(*columns)) is safe
    form = "binary" if safe else "text"
    assert shown(outgoing(Unit(table=table(*columns)))).endswith(f"(FORMAT {form})")
    assert shown(incoming(Unit(table=table(*columns)), freeze=True)).endswith(f"(FORMAT {form}, FREEZE)")


def test_a_preview_leaves_open_whether_rows_are_frozen() -> None:
    assert incoming_shape(PLAIN) == 'COPY "s"."t""able" ("id", "no te") FROM STDIN (FORMAT binary…)'


def test_occupied_tables_are_named_all_at_once() -> None:
    error = occupied(["s.a", "s.b"])
    assert error.message == "target: s.a, s.b: holds rows that this plan did not put there"
    assert "Empty it, or move it away" in (error.remedy or "")
