"""A migration to a target at SerenDB whose copy and stream the stand-in for SerenAI's cloud makes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tests.faults.scene import Migration, migration
from tests.seren_api import SerenApi

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

KEY = "seren_c4n4ry_0123456789abcdefKEY"
SCRIPT = """
CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO customer SELECT i, 'name ' || i FROM generate_series(1, 500) i;
CREATE TABLE audit (id int PRIMARY KEY);
INSERT INTO audit SELECT generate_series(1, 10);
"""
PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: {name}}}
connections:
  source:
    dsn: postgresql://postgres@orders.example.com:{source}/{name}?sslmode=disable&hostaddr=127.0.0.1
    password: {{secret: {{env: SOURCE_PASSWORD}}}}
  target:
    dsn: postgresql://postgres@orders.serendb.com:{target}/{name}?sslmode=disable&hostaddr=127.0.0.1
    password: {{secret: {{env: TARGET_PASSWORD}}}}
    seren: {{base: "{url}", console: "{url}", poll: 200ms{seren}}}
steps:
  - {{id: copy, uses: snapshot{copy}}}
  - {{id: follow, uses: sync}}
  - {{id: same, uses: {last}}}
"""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The migration and the API that makes it."""

    one: Migration
    api: SerenApi

    def job(self, step: str) -> dict[str, object]:
        """What the state says of the step's job."""
        progress = self.one.state()["steps"][step]["progress"]
        assert isinstance(progress, dict)
        return progress


@contextmanager
def scene(
    pair: tuple[PostgresServer, PostgresServer],
    folder: Path,
    name: str,
    *,
    seren: str = "",
    copy: str = "",
    last: str = "verify",
) -> Iterator[Scene]:
    """Both databases, the API and the plan; everything is gone at the end."""
    with SerenApi(KEY).serving() as api, migration(pair, folder, name, SCRIPT) as one:
        text = PLAN.format(
            name=name,
            source=pair[0].port,
            target=pair[1].port,
            url=api.url,
            seren=seren,
            copy=copy,
            last=last,
        )
        one.plan.write_text(text)
        yield Scene(one=one, api=api)
        # Before the database goes: the jobs must be over.
        api.release()


def write(one: Migration, statement: str) -> None:
    """A change on the source."""
    with psycopg.connect(one.ours, autocommit=True) as session:
        session.execute(statement)  # type: ignore[arg-type]
