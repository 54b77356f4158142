"""The steps of a first plan, by what was found: each lints, whatever the servers hold."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from planrunner.loading import load
from planrunner.loading.scaffold import draft
from planrunner.loading.wishes import Wishes
from planrunner.survey import Bare, Sized, Standing, Survey

if TYPE_CHECKING:
    from pathlib import Path

GB = 1 << 30
SERVER = Standing(
    major=16,
    version="16.4 (Debian\n16)",
    database="app",
    user="migrator",
    superuser=False,
    standby=False,
    wal_level="logical",
    pooled=False,
    rds=False,
    aurora=False,
    publishes=True,
    subscribes=True,
)
PLAIN = Survey(
    source=SERVER,
    target=SERVER,
    bytes=4 * GB,
    tables=3,
    biggest=(Sized(name="public.big\n- id: evil", bytes=3 * GB, rows=1000),),
    split_bytes=3 * GB,
    sequences=2,
    large_objects=0,
    unlogged=(),
    materialized_views=("public.m",),
    foreign_tables=(),
    extensions=("hstore",),
    missing_extensions=(),
    bare=(),
    occupied=(),
    keep_roles=True,
    jobs=8,
)
WISHES = Wishes(source="postgresql://m@old.example.com/app", target="postgresql://m@new.example.com/app")


def options(folder: Path, found: Survey, wishes: Wishes = WISHES) -> dict[str, Any]:
    made = draft(wishes, found)
    path = folder / "plan.yaml"
    path.write_text(made.text, encoding="utf-8")
    return {step.uses: step.options for step in load(path).steps}


def test_a_ready_source_needs_no_step_that_enables_it(tmp_path: Path) -> None:
    assert "enable_logical" not in options(tmp_path, PLAIN)
    steps = options(tmp_path, PLAIN)
    assert steps["snapshot"] == {"jobs": 8, "index_jobs": 4}
    assert steps["cutover_verify"]["reverse"] is True


@pytest.mark.parametrize(
    ("rds", "aurora", "step"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_only_rds_gets_the_step(tmp_path: Path, *, rds: bool, aurora: bool, step: bool) -> None:
    source = replace(SERVER, wal_level="replica", rds=rds, aurora=aurora)
    assert ("enable_logical" in options(tmp_path, replace(PLAIN, source=source))) is step


@pytest.mark.parametrize(
    ("biggest", "major", "expected"),
    [(9 * GB, 16, None), (100 * GB, 16, "10GB"), (1600 * GB, 16, "50GB"), (1600 * GB, 14, None)],
)
def test_big_tables_are_split_into_some_thirty_ranges(
    tmp_path: Path, biggest: int, major: int, expected: str | None
) -> None:
    found = replace(PLAIN, split_bytes=biggest, source=replace(SERVER, major=major))
    assert options(tmp_path, found)["snapshot"].get("split_above") == expected


def test_small_databases_get_few_streams(tmp_path: Path) -> None:
    assert options(tmp_path, replace(PLAIN, bytes=1 << 20))["snapshot"]["jobs"] == 2


def test_any_name_of_a_table_and_of_an_index_stands_in_the_plan(tmp_path: Path) -> None:
    names = [
        "public.t",
        'public."a b"',
        'public."{{ x }}"',
        'public."two\nlines"',
        'public."#:\'-"',
        'public."ü"',
    ]
    bare = tuple(
        Bare(name=n, pattern=n, bytes=1, rows=1, indexes=("i{{ x }}", "j\n"), changes=k or None)
        for k, n in enumerate(names)
    )
    chosen = options(tmp_path, replace(PLAIN, bare=bare))["snapshot"]["without_replica_identity"]
    assert chosen == dict.fromkeys(names, "full")


def test_many_tables_without_identity_end_with_a_rule_for_the_rest(tmp_path: Path) -> None:
    bare = tuple(
        Bare(name=f"public.t{n}", pattern=f"public.t{n}", bytes=1, rows=1, indexes=(), changes=0)
        for n in range(60)
    )
    chosen = options(tmp_path, replace(PLAIN, bare=bare))["snapshot"]["without_replica_identity"]
    assert list(chosen)[-1] == "*"
    assert len(chosen) == 51


def test_unlogged_tables_rule_out_the_way_back_unless_it_was_wished(tmp_path: Path) -> None:
    small = replace(PLAIN, unlogged=(Sized(name="public.u", bytes=40 << 20, rows=1),))
    undecided = options(tmp_path, small)
    assert undecided["snapshot"]["unlogged"] == "copy_at_cutover"
    assert "reverse" not in undecided["cutover_verify"]
    assert undecided["cutover_verify"]["write_pause_budget"] == "7s"
    wished = options(tmp_path, small, replace(WISHES, reverse=True))
    assert wished["snapshot"]["unlogged"] == "schema_only"
    assert wished["cutover_verify"]["reverse"] is True


def test_tls_that_was_found_goes_into_either_form_of_dsn(tmp_path: Path) -> None:
    pairs = replace(WISHES, source="host=old dbname=app", source_tls={"sslmode": "require"})
    assert pairs.written_dsn("source") == "host=old dbname=app sslmode=require"
    both = {"sslmode": "verify-full", "sslrootcert": "system"}
    url = replace(WISHES, target="postgresql://m:pw@new/app?connect_timeout=3", target_tls=both)
    assert url.written_dsn("target") == (
        "postgresql://m@new/app?connect_timeout=3&sslmode=verify-full&sslrootcert=system"
    )
    said = replace(WISHES, source="postgresql://m@old/app?sslmode=require", source_tls={"sslmode": "disable"})
    assert said.written_dsn("source").endswith("?sslmode=require")


def test_what_stands_against_the_servers_is_a_warning(tmp_path: Path) -> None:
    found = replace(
        PLAIN,
        source=replace(SERVER, standby=True, major=12),
        target=replace(SERVER, pooled=True, subscribes=False),
        missing_extensions=("postgis",),
        occupied=("public.t",),
    )
    told = "\n".join(draft(WISHES, found).warnings)
    for words in (
        "older than 13",
        "is a standby",
        "pooler",
        "can't create subscriptions",
        "postgis",
        "not empty",
    ):
        assert words in told
