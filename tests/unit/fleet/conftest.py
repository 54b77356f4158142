"""A folder with a template plan, and a fleet's file written into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

from planrunner.fleet.load import Examined, examine_fleet

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "apiVersion: planrunner/v1\nkind: Fleet\nmetadata: {name: shops}\nplan: shop.yaml\n"
PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: shop}
vars:
  host: {type: string, default: old.example.com}
  database: {type: string}
  jobs: {type: integer, default: 4}
connections:
  source:
    dsn: postgresql://migrator@{{ vars.host }}/{{ vars.database }}
  target:
    dsn: postgresql://migrator@new.example.com/{{ vars.database }}
steps:
  - {id: copy, uses: snapshot, with: {jobs: "{{ vars.jobs }}"}}
  - {id: follow, uses: sync}
"""

Examine: TypeAlias = Callable[..., Examined]


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """Write the fleet's body below its head, and files beside it, and examine it."""

    def write(body: str, *, head: str = HEAD, **files: str) -> Examined:
        for name, text in {"shop_yaml": PLAN, **files}.items():
            (tmp_path / name.replace("_yaml", ".yaml").replace("_csv", ".csv")).write_text(text)
        (tmp_path / "fleet.yaml").write_text(head + body)
        return examine_fleet(tmp_path / "fleet.yaml", {}, lambda _: None)

    return write
