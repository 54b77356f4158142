"""What stays afterwards, put together from what the actions say, in three formats."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from planrunner.clock import SystemClock
from planrunner.engine import preview_json, preview_markdown, preview_text
from planrunner.engine.lasting import lasting, lasting_json, lasting_lines
from planrunner.engine.outlining import outline
from planrunner.engine.preview import Preview, PreviewStep
from planrunner.loading import load
from planrunner.model import Side, StepSpec, Upkeep
from planrunner.step import NOTHING_STAYS, TAKEN_BACK, Action

ROOT = Path(__file__).parents[3]
PLANS = sorted((*ROOT.glob("plans/*.yaml"), *ROOT.glob("tests/data/valid/*.yaml")))


def action(name: str, lasting: str | None, where: Side = Side.AWS) -> Action:
    return Action(
        name=name,
        summary=f"make {name}",
        where=where,
        perform=lambda _: None,
        undo=f"aws unmake {name}",
        lasting=lasting,
    )


def step(name: str, *actions: Action, uses: str = "touch", done: bool = False) -> PreviewStep:
    ledger = Upkeep(text="writes its ledger", where=Side.TARGET, statements=(), taken_back=True)
    marks = Upkeep(text="ends old sessions", where=Side.SOURCE, statements=())
    return PreviewStep(spec=StepSpec(id=name, uses=uses), done=done, actions=actions, upkeep=(ledger, marks))


def preview(*steps: PreviewStep) -> Preview:
    return Preview(
        plan="orders",
        path="orders.yaml",
        plan_id="3fa1b2c3",
        at=datetime(2026, 3, 1, tzinfo=UTC),
        source="database orders",
        target="database new",
        steps=steps,
    )


WHOLE = preview(
    step("first", done=True),
    step(
        "logical",
        action("group", "parameter group pg-logical"),
        action("reboot", NOTHING_STAYS),
        action("slot", TAKEN_BACK, Side.SOURCE),
        action("odd", None),
    ),
    step("again", action("group", "parameter group pg-logical")),
)
TEXT = """\
Stays afterwards, cleanup included:
  - aws, logical: parameter group pg-logical
      undo: aws unmake group
  - aws, logical: make odd (its step does not say what stays)
      undo: aws unmake odd
  - local: state file with its backups, journal of events and reports: they hold no secret
      undo: delete them
Taken back by planrunner cleanup PLAN:
  - target, first: writes its ledger
  - source, logical: make slot
Not told here, for they are done: first"""


def test_the_section_as_text() -> None:
    assert "\n".join(lasting_lines(lasting(WHOLE))) == TEXT
    assert TEXT in preview_text.to_text(WHOLE)


def test_the_section_in_markdown_is_folded() -> None:
    shown = preview_markdown.to_markdown(WHOLE)
    assert "<details><summary>What stays afterwards</summary>" in shown
    assert all(line in shown for line in TEXT.splitlines())


def test_the_section_as_json() -> None:
    tree = json.loads(preview_json.to_json(WHOLE))
    assert tree["lasting"] == json.loads(json.dumps(lasting_json(lasting(WHOLE))))
    assert tree["lasting"]["stays"][0] == {
        "step": "logical",
        "where": "aws",
        "text": "parameter group pg-logical",
        "undo": "aws unmake group",
    }
    assert tree["lasting"]["taken_back"][1] == {"step": "logical", "where": "source", "text": "make slot"}
    assert (tree["lasting"]["cleanup"], tree["lasting"]["not_told"]) == ("planrunner cleanup PLAN", ["first"])
    assert [a["lasting"] for a in tree["steps"][1]["actions"]] == [
        "parameter group pg-logical",
        "nothing",
        "until cleanup",
        None,
    ]


def test_a_plan_that_cleans_up_itself_names_its_step() -> None:
    assert lasting(preview(step("tidy", uses="cleanup"))).cleanup == "the plan's step tidy"


def test_where_nothing_is_left_nothing_is_said() -> None:
    bare = preview(PreviewStep(spec=StepSpec(id="a", uses="touch"), done=False))
    assert list(lasting_lines(lasting(bare))) == []
    assert "What stays afterwards" not in preview_markdown.to_markdown(bare)


def test_markdown_stays_short_however_much_stays() -> None:
    many = preview(step("logical", *(action(f"g{n}", f"group {n} {'x' * 200}") for n in range(900))))
    shown = preview_markdown.to_markdown(many)
    assert len(shown) < 60_000
    assert shown.count("<details>") == shown.count("</details>")
    assert "lines more" in shown


def test_passwords_are_masked() -> None:
    shown = "\n".join(
        lasting_lines(lasting(preview(step("a", action("x", "role with password 'hunter22'")))))
    )
    assert "hunter22" not in shown


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_every_action_of_every_plan_says_what_stays_of_it(path: Path) -> None:
    found = outline(load(path), None, SystemClock())
    silent = [
        f"{step.spec.id}: {action.name}"
        for step in found.steps
        for action in step.actions
        if action.lasting is None
    ]
    assert silent == [], "fill Action.lasting: TAKEN_BACK, NOTHING_STAYS, or what stays in words"
