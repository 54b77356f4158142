"""What the tutorial says of the demo, looked at on the servers that ``demo --keep`` leaves."""

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

PAGE = (DOCS / "tutorial" / "first-migration.md").read_text("utf-8")


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[str, Any]]:
    ran = subprocess.run(
        [sys.executable, "-m", "planrunner", "demo", "--keep", "--output", "json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    yield figures
    for dsn in figures["kept"].values():
        _end(dsn)


def _end(dsn: str) -> None:
    with psycopg.connect(dsn) as session:
        row = session.execute("SHOW data_directory").fetchone()
    assert row is not None
    with suppress(ProcessLookupError):
        os.kill(int((Path(row[0]) / "postmaster.pid").read_text().splitlines()[0]), signal.SIGINT)


@pytest.mark.server
def test_both_servers_stay_and_the_old_one_refuses_writes_as_the_page_shows(kept: dict[str, Any]) -> None:
    assert set(kept["kept"]) == {"source", "target"}
    shown = re.search(r"ERROR: +(database has moved to .*)", PAGE)
    assert shown is not None
    words = re.escape(shown[1]).replace("20001", r"\d+").replace("…", r"\w+")
    with (
        psycopg.connect(kept["kept"]["source"]) as session,
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
def test_the_new_side_takes_writes_and_is_what_the_page_says(kept: dict[str, Any]) -> None:
    versions = {}
    for side, dsn in kept["kept"].items():
        with psycopg.connect(dsn) as session:
            versions[side] = session.info.server_version // 10000
            if side == "target":
                assert session.execute(_write(session)).rowcount >= 0
                session.rollback()
    assert versions == {"source": 16, "target": 18}
    assert [step["id"] for step in kept["steps"]] == re.findall(r"^\d\. \*\*(\w+)\*\*", PAGE, re.MULTILINE)
