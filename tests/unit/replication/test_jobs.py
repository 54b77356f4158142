"""How the copy is cut into jobs and dealt out to streams, and which table an entry of a dump belongs to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.postgres.catalog import Column, Table, qualified
from planrunner.replication import copy
from planrunner.replication.generations import grouped
from planrunner.replication.indexes import table_of, unique
from planrunner.replication.jobs import BATCH_UNITS, jobs_of
from planrunner.replication.names import Names
from planrunner.replication.ranges import Split
from planrunner.replication.schema_dump import Entry
from planrunner.replication.units import Unit

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1 << 20
_COLUMN: dict[str, Any] = {
    "generated": "",
    "identity": "",
    "not_null": True,
    "text_only": False,
    "array": False,
}
ID = Column(name="id", type="integer", base="integer", kind="b", **_COLUMN)


def table(name: str, size: int, **changes: Any) -> Table:
    values: dict[str, Any] = {
        "oid": hash(name) & 0xFFFFFF,
        "schema": "public",
        "name": name,
        "owner": "o",
        "partitioned": False,
        "unlogged": False,
        "replica_identity": "d",
        "is_partition": False,
        "rows": 1,
        "bytes": size,
        "data_bytes": size,
        "pages": size // 8192,
        "identifiable": True,
        "toasted": False,
        "row_security": False,
        "key": ("id",),
        "columns": (ID,),
    }
    return Table(**{**values, **changes})


@pytest.fixture
def units() -> Callable[..., list[Unit]]:
    def make(*sizes: int) -> list[Unit]:
        return [Unit(table=table(f"t{number}", size)) for number, size in enumerate(sizes)]

    return make


def test_the_largest_come_first_and_small_ones_travel_together(units: Callable[..., list[Unit]]) -> None:
    jobs = jobs_of(units(5 * MB, 8192, 90 * MB, 8192), streams=1, chunk_above=MB)
    assert [job.units[0].table.name for job in jobs] == ["t2", "t0", "t1"]
    assert len(jobs[-1].units) == 2


def test_chunks_cover_every_page_once_and_the_last_is_open(units: Callable[..., list[Unit]]) -> None:
    jobs = jobs_of(units(100 * MB), streams=4, chunk_above=8 * MB)
    chunks = [job.chunk for job in jobs if job.chunk is not None]
    assert len(chunks) == len(jobs) > 4
    chunks.sort(key=lambda chunk: chunk.number)
    assert chunks[0].first == 0
    assert all(one.last == following.first for one, following in itertools.pairwise(chunks))
    assert chunks[-1].last is None
    assert chunks[-1].first < 100 * MB // 8192


@pytest.mark.parametrize(("streams", "version"), [(1, 160000), (4, 130000)])
def test_a_table_stays_whole_for_one_stream_and_for_old_sources(
    units: Callable[..., list[Unit]], streams: int, version: int
) -> None:
    (job,) = jobs_of(units(100 * MB), streams=streams, chunk_above=MB, version=version)
    assert job.chunk is None


def test_batches_are_bounded_by_number_and_shared_by_streams(units: Callable[..., list[Unit]]) -> None:
    assert max(len(j.units) for j in jobs_of(units(*[8192] * 200), streams=2, chunk_above=MB)) == BATCH_UNITS
    assert len(jobs_of(units(*[8192] * 16), streams=16, chunk_above=MB)) == 16


def test_ranges_of_a_key_cover_every_value_once() -> None:
    split = Split(number=1, column="id", type="integer", bounds=("10", "20"))
    conditions = [unit.condition() for unit in split.units(table("t", MB))]
    texts = [c.as_string() for c in conditions if c is not None]
    assert texts == [
        "\"id\" < '10'::integer",
        "\"id\" >= '10'::integer AND \"id\" < '20'::integer",
        "\"id\" >= '20'::integer",
    ]


def test_a_row_filter_rules_every_range() -> None:
    split = Split(number=1, column="id", type="integer", bounds=("10",))
    unit = split.units(table("t", MB, where="region = 'eu' OR true"))[0]
    assert "WHERE \"id\" < '10'::integer AND (region = 'eu' OR true)" in copy.outgoing(unit).as_string()


def test_ranges_of_a_table_stay_in_one_stream_and_the_busiest_tables_are_dealt_first() -> None:
    big = table("big", MB, oid=1)
    ranges = Split(number=1, column="id", type="integer", bounds=("10", "20")).units(big)
    others = [Unit(table=table(f"t{n}", MB, oid=n)) for n in range(2, 6)]
    groups = grouped([*others, *ranges], (1, 2), {1: 1000, 2: 600, 3: 500})
    assert {len({u.table.oid for u in group} & {1}) for group in groups.values()} == {0, 1}
    assert [u.id for u in groups[1] if u.table.oid == 1] == [u.id for u in ranges]
    assert {u.table.oid for u in groups[2]} >= {2, 3}


def test_no_stream_is_made_for_nothing() -> None:
    assert list(grouped([Unit(table=table("only", MB))], (3, 4, 5), {})) == [3]


@pytest.mark.parametrize(
    ("kind", "text", "belongs"),
    [
        ("INDEX", "CREATE UNIQUE INDEX i ON public.t USING btree (a);", "public.t"),
        ("INDEX", 'CREATE INDEX "x ON y.z" ON ONLY public."T ""q""" USING btree (a);', 'public."T ""q"""'),
        ("CONSTRAINT", "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id);", "s.t"),
        (
            "FK CONSTRAINT",
            'ALTER TABLE "a.b".t\n    ADD CONSTRAINT c FOREIGN KEY (i) REFERENCES s.u(i);',
            '"a.b".t',
        ),
    ],
)
def test_the_table_of_an_entry_is_named_as_the_catalogue_names_it(kind: str, text: str, belongs: str) -> None:
    assert table_of(Entry(name="n", type=kind, schema="s", sql=text)) == belongs


def test_all_but_the_primary_key_can_collide_between_streams() -> None:
    key = Entry(
        name="n", type="CONSTRAINT", schema="s", sql="ALTER TABLE ONLY s.t ADD CONSTRAINT p PRIMARY KEY (id);"
    )
    other = Entry(
        name="n", type="CONSTRAINT", schema="s", sql="ALTER TABLE ONLY s.t ADD CONSTRAINT u UNIQUE (v);"
    )
    assert not unique(key)
    assert unique(other)


def test_no_two_tables_look_alike_in_the_ledger() -> None:
    names = [("a.b", "c"), ("a", "b.c"), ("a", "b"), ("a", 'b"'), ("a", "b#1")]
    assert len({qualified(*name) for name in names}) == len(names)


def test_only_a_generations_own_names_tell_a_generation() -> None:
    names = Names(plan_id="0123abcd")
    assert names.generation(names.stream(12)) == 12
    assert names.generation(names.inserts(12)) is None
    assert names.generation(names.part(1, 2)) is None
    assert names.generation("pr_ffffffff_g1") is None
