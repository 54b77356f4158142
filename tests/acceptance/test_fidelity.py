"""The preview is the run: every changing statement and call was previewed, and every previewed one happened."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from planrunner.aws.ec2 import READING
from planrunner.aws.policy import OPTIONAL
from planrunner.cli.opening import connector
from planrunner.clock import SystemClock
from planrunner.engine.looking import looking_at
from planrunner.engine.preview_json import action_json
from planrunner.loading import load
from planrunner.model import Side
from planrunner.postgres import needs
from planrunner.sandbox.demo import Stage, stage
from planrunner.shapes import Shape, parted, read
from planrunner.state.file import FileStore
from planrunner.step import NO_NEEDS, Cleaning, Crossing, Upkeeping
from tests.acceptance.helpers import contents, run
from tests.acceptance.recording import Recording, Seen, begin, changes, let_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pytest

    from planrunner.engine.looking import View
    from planrunner.step import Action

SCALE = 0.02
# What is executed and stands in no preview, each with its reason. Nothing here touches a table or an object.
ALLOWED = {
    r"START_REPLICATION SLOT \"pr_[0-9a-f]{8}_[gb]\d+\" .*": (
        "a subscription's own worker, which ALTER SUBSCRIPTION … ENABLE begins; it only reads the stream"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One statement that was previewed; ``kept``: its step's upkeep, of which not everything need happen."""

    side: Side
    shape: Shape
    step: str
    kept: bool

    def covers(self, seen: Seen) -> bool:
        return (
            self.side is seen.side and (seen.dumped or not self.shape.dumped) and self.shape.matches(seen.sql)
        )

    @property
    def due(self) -> bool:
        """True when a run that does all of the step must execute it."""
        return (
            not (self.kept or self.shape.sometimes) and self.side is not Side.AWS and changes(self.shape.text)
        )


def promises(tree: dict[str, Any]) -> list[Promise]:
    """Every statement of a preview's JSON, several in one string taken apart."""
    return [
        Promise(
            side=shape.side or Side(where),
            shape=Shape(text=piece, sometimes=shape.sometimes, dumped=shape.dumped),
            step=step["id"],
            kept=kept,
        )
        for step in tree["steps"]
        for where, statements, kept in _told(step)
        for shape in map(read, statements)
        if shape is not None
        for piece in ([shape.text] if shape.side is Side.AWS else parted(shape.text))
    ]


def _told(step: dict[str, Any]) -> Iterator[tuple[str, list[str], bool]]:
    yield from ((action["where"], action["statements"], False) for action in step["actions"])
    yield from ((kept["where"], kept["statements"], True) for kept in step["upkeep"])


def unexplained(promised: Sequence[Promise], seen: Sequence[Seen]) -> list[str]:
    return [
        f"{one.side.value} ({one.app}): {' '.join(one.sql.split())[:300]}"
        for one in seen
        if not any(promise.covers(one) for promise in promised)
        and not any(re.fullmatch(pattern, one.sql, re.DOTALL) for pattern in ALLOWED)
    ]


def undone(
    promised: Sequence[Promise], seen: Sequence[Seen], steps: Sequence[str] | None = None
) -> list[str]:
    return [
        f"{promise.step}: {promise.side.value}: {promise.shape.text[:300]}"
        for promise in promised
        if promise.due
        and (steps is None or promise.step in steps)
        and not any(promise.covers(one) for one in seen)
    ]


def call_of(command: str) -> tuple[str, dict[str, str]]:
    """A previewed call, ``aws rds VERB --word value …``, as the API sees it."""
    words = shlex.split(command)[2:]
    action = "".join(part.capitalize() for part in words[0].split("-")).replace("Db", "DB")
    given: dict[str, str] = {}
    for place, word in enumerate(words[1:], 1):
        if word.startswith("--"):
            name = "".join(part.capitalize() for part in word[2:].split("-")).replace("Db", "DB")
            value = words[place + 1] if place + 1 < len(words) else "--"
            given[name] = "true" if value.startswith("--") else value
    given.pop("Region", None)
    for pair in given.pop("Parameters", "").split(","):
        if pair:
            key, value = pair.split("=")
            given[f"Parameters.Parameter.1.{key}"] = value
    return action, given


def calls_promised(tree: dict[str, Any]) -> list[tuple[str, dict[str, str]]]:
    texts = [promise.shape.text for promise in promises(tree) if promise.side is Side.AWS]
    calls = [call_of(text) for text in texts]
    return [call for call in calls if not call[0].startswith("Describe")]


def previewed(scene: Stage) -> dict[str, Any]:
    shown = run(scene, "--format", "json", verb="preview")
    assert shown.returncode == 0, shown.stderr
    tree = json.loads(shown.stdout)
    assert not any(step["problem"] for step in tree["steps"]), shown.stdout
    assert incomplete(tree) == []
    return dict(tree)


def incomplete(tree: dict[str, Any]) -> list[str]:
    """The actions that keep something from a reviewer: statements, locks, needs, undo, what stays."""
    return [
        f"{step['id']}, {action['name']}: {fact}"
        for step in tree["steps"]
        for action in step["actions"]
        if action["where"] in {"source", "target", "aws"}
        for fact in ("statements", "locks", "needs", "undo", "lasting")
        if not action[fact] or (fact == "needs" and not all(known(action, need) for need in action[fact]))
    ]


def known(action: dict[str, Any], need: str) -> bool:
    """True for an IAM action, and for what the grant scripts know."""
    if action["where"] == "aws" and re.fullmatch(r"(rds|ec2):[A-Z]\w+", need):
        return True
    return need in NO_NEEDS or all(word in needs.KNOWN for _, word in needs.sided(Side.SOURCE, [need]))


def perform(scene: Stage, *options: str, failpoints: str = "", code: int = 0) -> Recording:
    recorded = begin(scene)
    ran = run(scene, "--yes", "--no-input", *options, failpoints=failpoints)
    assert ran.returncode == code, ran.stdout[-2000:] + ran.stderr
    return recorded


def with_way_back(scene: Stage) -> None:
    """Let the plan and both servers have ``reverse: true``."""
    text = scene.plan.read_text()
    scene.plan.write_text(text.replace("approval: manual", "approval: manual\n    with: {reverse: true}"))
    scene.target.restart({"wal_level": "logical"})
    for database, grant in (
        (scene.source_database, "GRANT pg_create_subscription TO migrator"),
        (scene.target_database, "ALTER ROLE migrator REPLICATION"),
    ):
        with psycopg.connect(database.superuser_dsn, autocommit=True) as session:
            session.execute(grant.encode())


def test_a_fresh_run_from_16_to_18_executes_what_was_previewed_and_nothing_else() -> None:
    with stage(None, None, scale=SCALE) as scene:
        let_log(scene)
        tree = previewed(scene)
        recorded = perform(scene)
        promised, seen = promises(tree), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen) == []
        assert recorded.calls() == calls_promised(tree)


def iam_actions(policy: dict[str, Any]) -> set[str]:
    """What it allows, but for what the preview alone would like to know."""
    needed = [statement for statement in policy["Statement"] if statement.get("Sid") != OPTIONAL]
    return {action for statement in needed for action in statement["Action"]}


def test_a_part_of_a_plan_executes_its_part_of_the_preview() -> None:
    with stage(None, None, scale=SCALE) as scene:
        let_log(scene)
        tree = previewed(scene)
        told = run(scene, "--privileges", "--format", "json", verb="preview")
        policy = json.loads(told.stdout)["iam_policy"]
        recorded = perform(scene, failpoints="rds.after_create_call:kill", code=-9)
        perform(scene, "--until", "copy")
        # The least IAM policy is what was called, by the run and by its resume together; beside it stands what is only
        # asked once a connection fails.
        assert recorded.actions() <= iam_actions(policy)
        assert iam_actions(policy) - recorded.actions() <= set(READING)
        assert recorded.calls() == calls_promised(tree)
        promised, seen = promises(tree), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen, ("logical", "grant", "copy")) == []
        rest = previewed(scene)
        recorded = perform(scene)
        promised, seen = promises(rest), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen) == []
        assert recorded.calls() == []


def test_a_resume_from_half_way_executes_what_its_own_preview_showed() -> None:
    with stage(None, None, scale=SCALE) as scene:
        let_log(scene)
        perform(scene, failpoints="copy.after_commit:kill", code=-9)
        tree = previewed(scene)
        recorded = perform(scene)
        promised, seen = promises(tree), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen) == []


def test_selections_choices_and_split_tables_are_previewed_too() -> None:
    with stage(None, None, scale=SCALE) as scene:
        let_log(scene)
        scene.plan.write_text(
            scene.plan.read_text().replace(
                "with: {without_replica_identity: full}",
                "with:\n      without_replica_identity: {public.audit_log: copy_at_cutover}\n"
                "      streams: 2\n      split_above: 8kB\n      filters: {exclude: [public.events*]}\n",
            )
        )
        tree = previewed(scene)
        recorded = perform(scene)
        promised, seen = promises(tree), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen) == []


def test_cutover_with_a_way_back_rollback_and_cleanup_execute_what_their_steps_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with stage(None, None, scale=SCALE) as scene:
        let_log(scene)
        with_way_back(scene)
        tree = previewed(scene)
        recorded = perform(scene)
        promised, seen = promises(tree), recorded.statements()
        assert unexplained(promised, seen) == []
        assert undone(promised, seen) == []
        for verb, choose in (("rollback", _rollbacks), ("cleanup", _leftovers)):
            told = _asked(scene, choose, monkeypatch)
            recorded = begin(scene)
            ended = run(scene, "--yes", verb=verb)
            assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr
            seen = recorded.statements()
            assert unexplained(told, seen) == []
            assert undone(told, seen) == []
        assert contents(scene.source_database.superuser_dsn) == contents(scene.target_database.superuser_dsn)


def _rollbacks(step: Any) -> Callable[..., Sequence[Action]] | None:
    return step.rollback if isinstance(step, Crossing) else None


def _leftovers(step: Any) -> Callable[..., Sequence[Action]] | None:
    return step.leftovers if isinstance(step, Cleaning) else None


def _asked(
    scene: Stage,
    choose: Callable[[Any], Callable[..., Sequence[Action]] | None],
    monkeypatch: pytest.MonkeyPatch,
) -> list[Promise]:
    """What the steps of the plan tell of another verb than run."""
    with viewed(scene, monkeypatch) as view:
        steps: list[dict[str, Any]] = []
        for spec in view.plan.steps:
            step = view.find(spec.uses)
            asked = choose(step)
            if asked is None:
                continue
            actions = [action_json(action) for action in asked(view.run(spec))]
            kept = step.upkeep if isinstance(step, Upkeeping) else ()
            upkeep = [{"where": k.where.value, "statements": list(k.statements)} for k in kept]
            steps.append({"id": spec.id, "actions": actions, "upkeep": upkeep})
    assert incomplete({"steps": steps}) == []
    return promises({"steps": steps})


@contextmanager
def viewed(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[View]:
    """The plan opened for looking, in this process."""
    for name, value in scene.environment().items():
        monkeypatch.setenv(name, value)
    given = dict(word.split("=", 1) for word in scene.variables() if "=" in word)
    plan = load(scene.plan, variables=given, var_files=(), environ=scene.environment())
    state = FileStore(scene.plan.with_name(f"{scene.plan.name}.state.json")).load()
    with looking_at(plan, state, connect=connector(), clock=SystemClock()) as view:
        yield view
