"""What the source uses against what the target has: extensions, encodings, locales, collations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql

from planrunner.model import Finding, Mark, Side
from planrunner.postgres import preflight_locale
from planrunner.postgres.preflight import preflight
from planrunner.postgres.preflight_section import Needs
from planrunner.sandbox.servers import PostgresServer
from tests.integration.preflight.conftest import Place
from tests.servers import contrib_bin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def contrib_source() -> Iterator[PostgresServer]:
    """PostgreSQL 17 with contrib and ICU."""
    with PostgresServer(contrib_bin(17), settings={"wal_level": "logical"}, max_life=7200) as server:
        yield server


@pytest.fixture(scope="module")
def contrib_target() -> Iterator[PostgresServer]:
    """PostgreSQL 18 with contrib and ICU."""
    with PostgresServer(contrib_bin(18), max_life=7200) as server:
        yield server


def _check(source: Place, target: Place, login: str | None = None) -> tuple[Finding, ...]:
    there, here = source.connect(), target.connect(login, side=Side.TARGET)
    return preflight(there, here, Needs(plan_id="0123abcd", owned="pr_0123abcd_g"))


def _one(findings: Sequence[Finding], code: str, text: str = "") -> Finding:
    found = [f for f in findings if f.code == code and text in f.text and f.mark is not Mark.PASS]
    assert len(found) == 1, [f.text for f in findings if f.mark is not Mark.PASS]
    assert found[0].why
    return found[0]


def _codes(findings: Sequence[Finding]) -> set[str]:
    return {f.code for f in findings if f.mark is not Mark.PASS}


def _mended(finding: Finding, source: Place, target: Place) -> None:
    found = re.match(r"Run on the (source|target): (.*);", finding.remedy or "", re.DOTALL)
    assert found is not None, finding.remedy
    {"source": source, "target": target}[found[1]].execute(*found[2].split("; "))


def _database(server: PostgresServer, name: str, options: str) -> Place:
    with psycopg.connect(server.superuser_dsn, autocommit=True) as session:
        made = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ").format(sql.Identifier(name))
        session.execute(made + sql.SQL(options))  # type: ignore[arg-type]
    return Place(server=server, database=name)


def test_extensions_are_judged_by_version_schema_and_right(
    place: Callable[..., Place], contrib_source: PostgresServer, contrib_target: PostgresServer
) -> None:
    source, target = place(contrib_source), place(contrib_target)
    source.execute(
        "CREATE EXTENSION citext; CREATE EXTENSION pageinspect; CREATE EXTENSION pg_stat_statements"
    )
    target.execute(
        "CREATE EXTENSION citext SCHEMA information_schema",
        "CREATE EXTENSION pg_stat_statements VERSION '1.4'",
    )
    login = target.role()
    findings = _check(source, target, login)
    version = _one(findings, "PR0641")
    assert "pg_stat_statements (1.11 there, 1.4 here)" in version.text
    assert version.fix is not None
    place_ = _one(findings, "PR0642")
    assert "citext (public there, information_schema here)" in place_.text
    restricted = _one(findings, "PR0644")
    assert (restricted.mark, "pageinspect" in restricted.text) == (Mark.FAIL, True)
    assert "may not see" in _one(findings, "PR0643").text
    preload = _one(_check(source, target), "PR0643")
    assert (preload.mark, "pg_stat_statements" in preload.text) == (Mark.WARN, True)
    for finding in (version, place_, restricted):
        _mended(finding, source, target)
    assert not _codes(_check(source, target, login)) & {"PR0641", "PR0642", "PR0644"}
    _mended(preload, source, target)
    target.server.restart()
    assert "PR0643" not in _codes(_check(source, target))


def test_an_extension_whose_tables_hold_rows_and_one_of_its_own_storage_are_told(
    place: Callable[..., Place], contrib_source: PostgresServer, contrib_target: PostgresServer
) -> None:
    source, target = place(contrib_source), place(contrib_target)
    # As the extensions do it that come with tables: none of contrib has one.
    source.execute(
        "CREATE EXTENSION hstore; CREATE TABLE jobs (id int PRIMARY KEY); INSERT INTO jobs VALUES (1)",
        "ALTER EXTENSION hstore ADD TABLE jobs",
        "UPDATE pg_extension SET extconfig = ARRAY['jobs'::regclass::oid] WHERE extname = 'hstore'",
        "INSERT INTO pg_extension VALUES (99999, 'timescaledb', 10, 2200, true, '2.0', NULL, NULL)",
    )
    findings = _check(source, target)
    assert "public.jobs" in _one(findings, "PR0645").text
    assert "timescaledb" in _one(findings, "PR0640").text
    own = _one(findings, "PR0646")
    assert (own.mark, "timescaledb" in own.text) == (Mark.FAIL, True)


def test_collations_that_the_target_cannot_make_fail(
    place: Callable[..., Place], contrib_source: PostgresServer, plain_server: PostgresServer
) -> None:
    source, target = place(contrib_source), place(plain_server)
    source.execute(
        'CREATE TABLE t (a text COLLATE "de-x-icu" PRIMARY KEY)',
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    findings = _check(source, target)
    assert "de-x-icu" in _one(findings, "PR0632", "Target lacks").text
    assert "public.loose" in _one(findings, "PR0632", "can't make").text


def test_a_collation_that_changed_under_the_indexes_is_told_and_mended(
    place: Callable[..., Place], contrib_source: PostgresServer, contrib_target: PostgresServer
) -> None:
    source, target = place(contrib_source), place(contrib_target)
    source.execute(
        'CREATE TABLE t (a text COLLATE "de-x-icu" PRIMARY KEY)',
        "UPDATE pg_collation SET collversion = '1.1' WHERE collname = 'de-x-icu'",
    )
    finding = _one(_check(source, target), "PR0633")
    assert "de-x-icu (1.1, now " in finding.text
    _mended(finding, source, target)
    assert "PR0633" not in _codes(_check(source, target))


def test_a_target_whose_encoding_lacks_characters_fails(
    place: Callable[..., Place], logical_server: PostgresServer, plain_server: PostgresServer
) -> None:
    narrow = _database(plain_server, "narrow", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    source = place(logical_server)
    finding = _one(_check(source, narrow), "PR0630")
    assert (finding.mark, "UTF8 there, LATIN1 here" in finding.text) == (Mark.FAIL, True)
    wider = _database(logical_server, "narrow", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    assert "PR0630" not in _codes(_check(wider, place(plain_server)))
    unchecked = _database(logical_server, "unchecked", "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
    assert _one(_check(unchecked, narrow), "PR0630").mark is Mark.WARN
    for one in (narrow, wider, unchecked):
        for server in one.opened:
            server.close()


def test_another_locale_is_told_and_ranges_of_text_with_it(
    place: Callable[..., Place], logical_server: PostgresServer, plain_server: PostgresServer
) -> None:
    source = place(logical_server)
    source.execute(
        "CREATE TABLE t (a text) PARTITION BY RANGE (a)", "CREATE TABLE u (a int) PARTITION BY RANGE (a)"
    )
    target = _database(plain_server, "other locale", "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'")
    findings = _check(source, target)
    assert "LC_COLLATE C there, C.UTF-8 here" in _one(findings, "PR0631").text
    partitions = _one(findings, "PR0634")
    assert "public.t" in partitions.text
    assert "public.u" not in partitions.text
    found = re.search(r"CREATE DATABASE.*?;", partitions.remedy or "")
    assert found is not None
    alike = found[0].removeprefix('CREATE DATABASE "name" TEMPLATE template0 ').removesuffix(";")
    assert not _codes(_check(source, _database(plain_server, "alike", alike))) & {"PR0631", "PR0634"}


def test_money_fails_where_its_text_is_read_otherwise() -> None:
    # This machine's servers know one form of money alone, so the two databases are described here.
    there = ("UTF8", "C", "C", "c", "", "de_DE.UTF-8", "app", None)
    here = ("UTF8", "C", "C", "c", "", "C", "new", None)
    (finding,) = preflight_locale.money(there, here, ["public.t.price"])
    assert (finding.code, finding.mark) == ("PR0635", Mark.FAIL)
    assert "ALTER DATABASE \"new\" SET lc_monetary = 'de_DE.UTF-8';" in (finding.remedy or "")
    assert not list(preflight_locale.money(here, here, ["public.t.price"]))
    assert not list(preflight_locale.money(there, here, []))
