"""The README's first command, as a user runs it, and what the tutorial says of the servers that ``--keep`` leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.pages import DOCS

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = ["enable_logical", "grant", "validate", "snapshot", "sync", "cutover_verify"]
# One migration for all of them.
pytestmark = pytest.mark.xdist_group("demo")
PAGE = (DOCS / "tutorial" / "first-migration.md").read_text("utf-8")


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, "-m", "planrunner", "demo", "--keep", "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    yield told
    for dsn in told["kept"].values():
        _end(dsn)


def _end(dsn: str) -> None:
    with psycopg.connect(dsn) as session:
        row = session.execute("SHOW data_directory").fetchone()
    assert row is not None
    with suppress(ProcessLookupError):
        os.kill(int((Path(row[0]) / "postmaster.pid").read_text().splitlines()[0]), signal.SIGINT)


@pytest.mark.server
def test_the_demo_migrates_a_busy_shop_and_loses_nothing(figures: dict[str, Any]) -> None:
    assert figures["result"] == "migrated"
    assert figures["verified"] is True
    assert figures["differences"] == 0
    assert figures["lost_writes"] == 0
    assert figures["acknowledged_writes"] > 100
    assert figures["rows"] > 60_000
    assert figures["tables"] >= 15
    assert 0 < figures["write_pause_ms"] < 5000
    assert [step["uses"] for step in figures["steps"]] == STEPS
    assert {step["status"] for step in figures["steps"]} == {"done"}
    assert Path(figures["report"]).exists()
    assert Path(figures["state"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.server
def test_both_servers_stay_and_the_old_one_refuses_writes_as_the_page_shows(figures: dict[str, Any]) -> None:
    assert set(figures["kept"]) == {"source", "target"}
    shown = re.search(r"ERROR: +(database has moved to .*)", PAGE)
    assert shown is not None
    words = re.escape(shown[1]).replace("20001", r"\d+").replace("…", r"\w+")
    with (
        psycopg.connect(figures["kept"]["source"]) as session,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as refused,
    ):
        session.execute(_write(session))
    assert re.match(words, str(refused.value)), refused.value


def _write(session: psycopg.Connection[Any]) -> Any:
    from psycopg import sql

    row = session.execute(
        "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN"
        " ('pg_catalog', 'information_schema', 'planrunner') ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    assert row is not None
    return sql.SQL("DELETE FROM {}").format(sql.Identifier(*row))


@pytest.mark.server
def test_the_new_side_takes_writes_and_is_what_the_page_says(figures: dict[str, Any]) -> None:
    versions = {}
    for side, dsn in figures["kept"].items():
        with psycopg.connect(dsn) as session:
            versions[side] = session.info.server_version // 10000
            if side == "target":
                assert session.execute(_write(session)).rowcount >= 0
                session.rollback()
    assert versions == {"source": 16, "target": 18}
    assert [step["id"] for step in figures["steps"]] == re.findall(r"^\d\. \*\*(\w+)\*\*", PAGE, re.MULTILINE)
