"""``preview --offline``: no connection, no command, no secret; and every step says what it may do."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from planrunner import registry
from planrunner.clock import SystemClock
from planrunner.engine.outlining import outline
from planrunner.loading import load
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.step import NO_NEEDS, Outlining
from tests.unit.test_import_graph import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLANS = sorted((ROOT.parent / "plans").glob("*.yaml"))
PLAN = """
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {{name: offline}}
connections:
  source:
    dsn: postgresql://mover@127.0.0.1:{port}/shop?sslmode=disable
    password: {{secret: {{command: [touch, {marker}]}}}}
    rds: {{instance: shop-prod, region: us-east-1, endpoint_url: "http://127.0.0.1:{port}"}}
  target:
    dsn: postgresql://mover@127.0.0.1:{port}/new?sslmode=disable
    password: {{secret: {{file: ./not-there}}}}
steps:
  - {{id: logical, uses: enable_logical}}
  - {{id: grant, uses: grant}}
  - {{id: check, uses: validate}}
  - {{id: copy, uses: snapshot, with: {{large_objects: copy, streams: 2, filters: {{exclude: [a.b]}}}}}}
  - {{id: follow, uses: sync}}
  - {{id: cutover, uses: cutover_verify, with: {{reverse: true}}}}
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where both servers and the RDS API would be reached; nobody is to come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize(
    "options", [(), ("--privileges",), ("--format", "markdown"), ("--out", "saved.json")]
)
def test_offline_nobody_is_asked_and_no_command_runs(
    cli: Any, tmp_path: Path, listener: socket.socket, options: tuple[str, ...]
) -> None:
    marker, plan = tmp_path / "ran", tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(port=listener.getsockname()[1], marker=marker))
    given = [str(tmp_path / word) if word.endswith(".json") else word for word in options]
    ended = cli("preview", str(plan), "--offline", *given)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout
    assert not marker.exists()
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_offline_every_action_says_that_the_run_decides(cli: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(port=1, marker="x"))
    tree = json.loads(cli("preview", str(plan), "--offline", "--format", "json").stdout)
    assert tree["offline"]
    for step in tree["steps"]:
        assert step["verdict"] in {"decided at run time", "destructive"}
        assert all(action["decided_at_run_time"] for action in step["actions"])
    statements = [s for step in tree["steps"] for action in step["actions"] for s in action["statements"]]
    for expected in (
        "aws rds reboot-db-instance --db-instance-identifier shop-prod --region us-east-1",
        'GRANT "rds_replication" TO "…"',
        "CREATE SUBSCRIPTION …",
        "COMMIT",
    ):
        assert expected in statements
    assert any(s.startswith('CREATE PUBLICATION "pr_…_g2" FOR TABLE') for s in statements)


def test_offline_the_privileges_are_shapes(cli: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN.format(port=1, marker="x"))
    needed = json.loads(cli("preview", str(plan), "--offline", "--privileges", "--format", "json").stdout)
    assert {line["statement"] for line in needed["source"]} >= {
        'GRANT "rds_replication" TO "mover" WITH INHERIT TRUE;',
        'GRANT "…" TO "mover" WITH INHERIT TRUE;',
        'GRANT CREATE ON DATABASE "shop" TO "mover";',
    }
    assert "rds:RebootDBInstance" in iam_actions(needed)


@pytest.mark.parametrize("undo", ["true", "false"])
def test_the_policy_lets_cleanup_take_back_what_the_plan_wants_undone(
    cli: Any, tmp_path: Path, undo: str
) -> None:
    plan = tmp_path / "plan.yaml"
    text = PLAN.format(port=1, marker="x")
    assert "uses: enable_logical}" in text
    plan.write_text(text.replace("uses: enable_logical}", f"uses: enable_logical, with: {{undo: {undo}}}}}"))
    needed = json.loads(cli("preview", str(plan), "--offline", "--privileges", "--format", "json").stdout)
    taking_back = {"rds:DeleteDBParameterGroup", "rds:ResetDBParameterGroup"}
    assert taking_back & iam_actions(needed) == (taking_back if undo == "true" else set())


def iam_actions(needed: Any) -> set[str]:
    return {a for statement in needed["iam_policy"]["Statement"] for a in statement["Action"]}


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_example_is_outlined_with_all_that_a_reviewer_asks(path: Path) -> None:
    found = outline(load(path, variables={}, var_files=(), environ={}), None, SystemClock())
    for step in found.steps:
        assert isinstance(registry.step(step.spec.uses), Outlining), step.spec.uses
        for action in step.actions:
            facts = (action.statements, action.locks, action.needs, action.undo)
            assert all(facts), f"{step.spec.id}: {action.name}"
            known = needs.sided(action.where, action.needs)
            assert all(
                side in {Side.AWS, Side.LOCAL} or need in {*needs.KNOWN, *NO_NEEDS} for side, need in known
            )
