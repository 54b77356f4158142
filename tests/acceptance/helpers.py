"""What the acceptance tests share: runs of the command line against the sandbox, and an independent referee."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from pathlib import Path

    from planrunner.sandbox.demo import Stage


def run(
    scene: Stage, *options: str, failpoints: str = "", verb: str = "run"
) -> subprocess.CompletedProcess[str]:
    """Run a verb on the stage's plan to its end, or to its kill."""
    return subprocess.run(
        scene.command(verb, *options),
        env={**scene.environment(), "PLANRUNNER_FAILPOINTS": failpoints},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(dsn: str) -> dict[str, tuple[int, str]]:
    """Every table's rows as PostgreSQL prints them, counted and digested; no code of planrunner's is used."""
    found: dict[str, tuple[int, str]] = {}
    with psycopg.connect(dsn) as session:
        session.execute("SET extra_float_digits = 3; SET timezone = 'UTC'")
        tables = session.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN"
            " ('pg_catalog', 'information_schema', 'planrunner') ORDER BY 1, 2"
        ).fetchall()
        for schema, name in tables:
            row = session.execute(
                sql.SQL(
                    # No table has a column of that name: it is the row as a whole that is compared.
                    "SELECT count(*), coalesce(md5(string_agg(whole_row::text, E'\\n' ORDER BY whole_row::text"
                    " COLLATE \"C\")), '') FROM {} whole_row"
                ).format(sql.Identifier(schema, name))
            ).fetchone()
            assert row is not None
            found[f"{schema}.{name}"] = (row[0], row[1])
    return found


def slots(dsn: str) -> list[str]:
    """The replication slots of a server."""
    with psycopg.connect(dsn) as session:
        return [row[0] for row in session.execute("SELECT slot_name FROM pg_replication_slots").fetchall()]


def state_of(scene: Stage) -> dict[str, Any]:
    """The state file as it lies beside the plan."""
    return state_in(scene.plan)


def state_in(plan: Path) -> dict[str, Any]:
    """The state file of a plan, as it lies beside it."""
    return dict(json.loads(plan.with_name(f"{plan.name}.state.json").read_text()))
