"""What is asked of the servers does not grow with the tables: no clock is needed to see that."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.benchmarks.growth import TABLES
from tests.faults.scene import migration, servers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

    Pair = tuple[PostgresServer, PostgresServer]

# How fast tables are read is measured for two seconds, however many there are.
STATEMENT = re.compile(r"LOG:  (statement|execute [^:]+): (?!COPY|SET LOCAL statement_timeout)")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    logged = {"log_statement": "all", "log_replication_commands": "on"}
    with servers(logged, logged) as both:
        yield both


def asked(pair: Pair, folder: Path, count: int) -> dict[str, int]:
    """How many statements each command sends to both servers, of a database of so many tables."""
    folder.mkdir()
    found = {}
    with migration(pair, folder, f"grown{count}", "SELECT 1") as one:
        with psycopg.connect(one.ours, autocommit=True) as session:
            session.execute(TABLES.format(first=0, last=count - 1, rows=20, width=700).encode())
            session.execute("ANALYZE")
        for words in (("validate",), ("preview",), ("run", "--until", "copy"), ("status",)):
            verb, *options = words
            before = [said(server) for server in pair]
            code, told = one.run(verb, *options)
            assert code in {0, 1}, told
            found[verb] = sum(said(server) - n for server, n in zip(pair, before, strict=True))
    return found


def said(server: PostgresServer) -> int:
    lines = server.log.read_text("utf-8", "replace").splitlines()
    return sum(1 for line in lines if STATEMENT.search(line))


def test_ten_times_the_tables_cost_no_more_statements(pair: Pair, tmp_path: Path) -> None:
    few, many = asked(pair, tmp_path / "few", 20), asked(pair, tmp_path / "many", 200)
    # What is run asks each table for its rows, and pg_dump for what it is.
    assert many.pop("run") > few.pop("run") + 180
    for verb, count in many.items():
        # Some lists are asked for in several pieces.
        assert count <= few[verb] + 10, (verb, few, many)
        assert count > 5
