"""``render`` and ``lint`` on plans with overlays and sensitive variables."""

import json
from pathlib import Path
from typing import Any

import pytest

PLAN = (Path(__file__).parents[2] / "data" / "valid" / "small.yaml").read_text("utf-8")


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    base = PLAN.replace("vars:\n", "vars:\n  token: {sensitive: true, secret: {env: NOBODY_HAS_THIS}}\n")
    (tmp_path / "orders.yaml").write_text(base.replace("//migrator@", "//{{ vars.token }}@"))
    path = tmp_path / "orders.prod.yaml"
    path.write_text("extends: orders.yaml\nsteps: [{id: copy, with: {jobs: 2}}]\n")
    return path


def test_render_prints_a_plan_and_looks_nothing_up(cli: Any, overlay: Path) -> None:
    ended = cli("render", "orders.prod.yaml", "--var", "host=prod")

    assert ended.returncode == 0, ended.stderr
    assert "dsn: postgresql://***@prod:5432/app" in ended.stdout
    tree = json.loads(cli("render", "orders.prod.yaml", "--output", "json").stdout)
    assert tree["masked"] == ["connections.source.dsn"]
    assert tree["effective"]["steps"][1]["with"] == {"jobs": 2}


def test_diff_shows_what_the_overlay_or_a_variable_changes(cli: Any, overlay: Path) -> None:
    base, prod = "orders.yaml", "orders.prod.yaml"

    ended = cli("render", prod, "--diff", base)
    assert (ended.returncode, ended.stdout.splitlines()[:2]) == (0, [f"--- {base}", f"+++ {prod}"])
    assert "-steps[copy].with.jobs: 8\n+steps[copy].with.jobs: 2\n" in ended.stdout
    assert cli("render", prod, "--diff", base, "--exit-code").returncode == 10
    same = cli("render", prod, "--diff", prod, "--exit-code")
    assert (same.returncode, same.stdout) == (0, "")
    changed = cli(
        "render", base, "--diff", base, "--var", "port=1", "--diff-var", "port=2", "--output", "json"
    )
    assert [c["path"] for c in json.loads(changed.stdout)["changes"]] == ["connections.source.dsn"]


def test_options_of_the_other_plan_need_one(cli: Any, overlay: Path) -> None:
    ended = cli("render", "orders.yaml", "--diff-var", "port=1")

    assert ended.returncode == 2
    assert "--diff OTHER" in ended.stderr


def test_sensitive_value_on_the_command_line_is_refused_and_not_repeated(cli: Any, overlay: Path) -> None:
    for arguments in (
        ("--var", "token=hunter2-hunter2"),
        ("--var", "hunter2-hunter2"),
        ("--var", "=hunter2-hunter2"),
    ):
        ended = cli("lint", "orders.yaml", *arguments)
        assert ended.returncode == 2
        assert "hunter" not in ended.stdout + ended.stderr


def test_lint_warns_of_variables_that_reach_no_plan(cli: Any, overlay: Path) -> None:
    ended = cli(
        "lint", "orders.yaml", "orders.prod.yaml", PLANRUNNER_VAR_hots="hunter2", PLANRUNNER_VAR_port="1"
    )

    assert ended.returncode == 0
    assert (
        "PLANRUNNER_VAR_hots is set, and the plan declares no such variable  [warning PR209]" in ended.stdout
    )
    assert "hunter2" not in ended.stdout + ended.stderr


def test_run_names_the_reference_that_leads_nowhere(cli: Any, overlay: Path) -> None:
    ended = cli("preview", "orders.prod.yaml")

    assert ended.returncode == 1
    assert "env:NOBODY_HAS_THIS is not set" in ended.stderr


def test_state_lies_beside_the_overlay(cli: Any, overlay: Path) -> None:
    ended = cli("report", "orders.prod.yaml")

    assert "orders.prod.yaml.state.json" in ended.stdout
