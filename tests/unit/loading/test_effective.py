"""The effective plan: printed so that it loads again, and compared value by value."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from planrunner.loading import load
from planrunner.loading.effective import differences, effective, unified
from planrunner.loading.variables import Given
from planrunner.masking import speak

WritePlan: TypeAlias = Callable[..., Path]

ROOT = Path(__file__).parents[3]
PLANS = sorted(path for folder in ("plans", "tests/data/valid") for path in (ROOT / folder).glob("*.yaml"))
DESCRIBED = ("{id: check, uses: validate}", '{id: check, uses: validate, description: "{{ vars.told }}"}')


def outside(variables: Mapping[str, str] | None = None, **environ: str) -> Given:
    return Given(variables=variables or {}, var_files=(), environ=environ)


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_rendered_plan_loads_again_as_the_same_plan(path: Path, tmp_path: Path) -> None:
    found = effective(path, outside())
    again = tmp_path / "again.yaml"
    again.write_text(found.to_yaml(), "utf-8")

    assert found.digest == load(path).digest == load(again).digest
    assert effective(again, outside()).tree == found.tree


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40))
@example(told="{{ vars.host }}")
@example(told="{% raw %}")
@example(told="{{{# a }}")
@example(told="0x1F")
@example(told="1e3")
@example(told="0o17")
@example(told=" two\n lines \n")
@example(told="\x85\u2028")
def test_every_text_survives_being_rendered(told: str, write_plan: Any) -> None:
    path = write_plan(("vars:\n", "vars:\n  told: {}\n"), DESCRIBED)
    found = effective(path, outside({"told": told}))
    again = path.with_name("again.yaml")
    again.write_text(found.to_yaml(), "utf-8")

    steps: Any = effective(again, outside()).tree["steps"]
    assert steps[0]["description"] == told


def test_order_is_stable_and_the_variables_are_gone(write_plan: WritePlan) -> None:
    path = write_plan(
        ("apiVersion: planrunner/v1\n", ""), ("steps:\n", "apiVersion: planrunner/v1\nsteps:\n")
    )

    found = effective(path, outside())

    assert list(found.tree) == ["apiVersion", "kind", "metadata", "connections", "steps"]
    assert found.to_yaml() == effective(path, outside()).to_yaml()


def test_overlay_names_what_it_extends_and_what_is_masked(write_plan: WritePlan, tmp_path: Path) -> None:
    write_plan(("vars:\n", "vars:\n  user: {sensitive: true}\n"), ("//migrator@", "//{{ vars.user }}@"))
    path = tmp_path / "prod.yaml"
    path.write_text("extends: plan.yaml\n")

    found = effective(path, outside(PLANRUNNER_VAR_user="hunter2-hunter2"))
    speak()

    assert "hunter" not in found.to_yaml() + str(found.to_json())
    assert found.masked == ("connections.source.dsn",)
    assert f"# The effective plan of {path}, which extends {tmp_path / 'plan.yaml'}." in found.to_yaml()
    assert found.to_json()["files"] == [str(path), str(tmp_path / "plan.yaml")]


def test_differences_are_told_by_path_and_step(write_plan: WritePlan, tmp_path: Path) -> None:
    base = write_plan()
    path = tmp_path / "prod.yaml"
    path.write_text(
        "extends: plan.yaml\nvars: {host: {default: prod}}\nsteps:\n"
        "  - {id: check, remove: true}\n  - {id: copy, with: {jobs: 16}}\n  - {id: follow, uses: sync, after: copy}\n"
    )

    old, new = effective(base, outside()), effective(path, outside())

    told = [change.to_json() for change in differences(old, new)]
    assert {"path": "steps[copy].with.jobs", "change": "changed", "before": 8, "after": 16} in told
    assert [(c["path"], c["change"]) for c in told] == [
        ("connections.source.dsn", "changed"),
        ("steps", "changed"),
        ("steps[check].id", "removed"),
        ("steps[check].uses", "removed"),
        ("steps[copy].with.jobs", "changed"),
        ("steps[follow].id", "added"),
        ("steps[follow].uses", "added"),
    ]
    diff = unified(old, new).splitlines()
    assert diff[:2] == [f"--- {base}", f"+++ {path}"]
    assert "-steps[copy].with.jobs: 8" in diff
    assert "+steps[copy].with.jobs: 16" in diff


def test_equal_plans_have_no_diff(write_plan: WritePlan) -> None:
    plan = effective(write_plan(), outside())

    assert differences(plan, plan) == []
    assert unified(plan, plan) == ""
