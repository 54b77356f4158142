"""How a plan's order, conditions and hooks become values, and what of them changes a step's digest."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from planrunner.flow import FailureClass, Occasion, OnFailure, Phase
from planrunner.loading import load
from planrunner.loading.source import read
from planrunner.model import Plan, SecretKind, SecretRef

ROOT = Path(__file__).parents[3]
HEAD: dict[str, Any] = {
    "apiVersion": "planrunner/v1",
    "kind": "MigrationPlan",
    "metadata": {"name": "orders"},
    "vars": {"env": {"default": "test"}},
    "connections": {
        "source": {"dsn": "postgresql://migrator@old/app"},
        "target": {"dsn": "postgresql://migrator@new/app"},
    },
}


def loaded(folder: Path, *steps: dict[str, Any], **more: Any) -> Plan:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**HEAD, **more, "steps": list(steps)}))
    return load(path)


def step(name: str, **keys: Any) -> dict[str, Any]:
    return {"id": name, "uses": "approve", **keys}


def test_without_needs_each_step_needs_the_one_above(tmp_path: Path) -> None:
    plan = loaded(tmp_path, step("a"), step("b"), step("c"))
    assert [plan.needs(spec) for spec in plan.steps] == [(), ("a",), ("b",)]


def test_steps_stand_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    plan = loaded(
        tmp_path,
        step("late", needs=["d", "b"]),
        step("a", needs=[]),
        step("b", needs=["c"]),
        step("c", needs=[]),
        step("d", needs=["a"]),
    )
    assert [spec.id for spec in plan.steps] == ["a", "c", "b", "d", "late"]
    assert plan.needs(plan.steps[-1]) == ("d", "b")


def test_everything_that_is_said_of_a_step_is_kept(tmp_path: Path) -> None:
    plan = loaded(
        tmp_path,
        step(
            "a",
            timeout="90s",
            retries={"on": ["deadlock"], "attempts": 5, "wait": "2s"},
            when='vars.env == "test"',
            on_failure="continue",
            before=[
                {"command": ["x", "y"], "env": {"A": "b", "T": {"secret": {"env": "TOKEN"}}}, "timeout": "1s"}
            ],
            after=[{"command": ["z"], "repeatable": True}],
        ),
        notifications=[{"on": ["failed"], "webhook": {"url": {"secret": {"env": "URL"}}, "format": "slack"}}],
    )
    flow = plan.steps[0].flow
    assert flow.timeout == 90
    assert flow.retries is not None
    assert (flow.retries.on, flow.retries.attempts) == ({FailureClass.DEADLOCK}, 5)
    assert (flow.retries.wait, flow.retries.max_wait) == (2, 60)
    assert flow.when is not None
    assert flow.when.variables == {"env": "test"}
    assert flow.on_failure is OnFailure.CONTINUE
    assert flow.before[0].env == {"A": "b", "T": SecretRef(kind=SecretKind.ENV, locator="TOKEN")}
    assert (flow.after[0].phase, flow.after[0].name) == (Phase.AFTER, "after 1")
    assert flow.repeats("after 1")
    assert not flow.repeats("before 1")
    assert plan.notifications[0].on == {Occasion.FAILED}


def test_a_condition_that_is_a_template_is_resolved_when_the_plan_is_loaded(tmp_path: Path) -> None:
    plan = loaded(tmp_path, step("a", when="{{ vars.env == 'prod' }}"))
    assert plan.steps[0].flow.when is not None
    assert plan.steps[0].flow.when.text == "false"


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("timeout", "5s", False),
        ("retries", {"attempts": 9}, False),
        ("needs", [], False),
        ("when", "true", False),
        ("on_failure", "continue", False),
        ("before", [{"command": ["x"]}], True),
        ("with", {"message": "other?"}, True),
    ],
)
def test_only_what_changes_the_work_makes_a_finished_step_stale(
    tmp_path: Path, key: str, value: Any, stale: bool
) -> None:
    plain = loaded(tmp_path, step("a")).steps[0]
    edited = loaded(tmp_path, {**step("a"), key: value}).steps[0]
    assert (plain.digest != edited.digest) is stale


BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/how-to/flow.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[-1])
def test_every_plan_of_the_page_on_flow_lints(tmp_path: Path, block: str) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(block)
    # Not yaml.safe_load: to YAML 1.1 the key ``on`` is a truth value.
    given: Any = read(page).tree
    for name in ("after-cutover", "repair"):
        path = tmp_path / "sql" / f"{name}.sql"
        path.parent.mkdir(exist_ok=True)
        path.write_text("SELECT 1")
    more = {"vars": {"environment": {"default": "staging"}}, **given}
    steps = more.pop("steps", [step("a")])
    assert loaded(tmp_path, *steps, **more).steps


def test_the_page_shows_plans() -> None:
    assert len(BLOCKS) >= 6


def test_an_edit_of_a_script_makes_its_step_stale(tmp_path: Path) -> None:
    script = tmp_path / "x.sql"
    entry = {"id": "x", "uses": "sql", "with": {"file": "x.sql"}}
    script.write_text("SELECT 1")
    before = loaded(tmp_path, entry).steps[0].digest
    script.write_text("SELECT 2")
    assert loaded(tmp_path, entry).steps[0].digest != before
