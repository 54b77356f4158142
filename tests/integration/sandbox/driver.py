"""Plans and performs enable_logical as the engine does; as a script, in a process of its own."""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planrunner.aws.rds import Rds
from planrunner.clock import SystemClock
from planrunner.errors import StepBlocked
from planrunner.failpoints import failpoint
from planrunner.model import Endpoint, Plan, RdsInstance, Secret, Side, StepSpec
from planrunner.postgres.connection import Server
from planrunner.step import Action, Held, Run
from planrunner.steps.enable_logical import EnableLogical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from planrunner.model import Json
    from planrunner.ports import Clock

    Tell = Callable[[str, Mapping[str, Json]], None]


class Hasty(SystemClock):
    """A clock on which waiting takes a twentieth of the time; ``shift`` moves the time of day."""

    def __init__(self, shift: timedelta = timedelta()) -> None:
        self.passed = 0.0
        self.shift = shift

    def now(self) -> datetime:
        return super().now() + self.shift + timedelta(seconds=self.passed)

    def monotonic(self) -> float:
        return super().monotonic() + self.passed

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 5.0) / 20)
        self.passed += seconds


@dataclass(frozen=True, kw_only=True)
class Facts:
    dsn: str
    password: str
    endpoint_url: str | None = None
    instance: str = "shop-prod"
    options: dict[str, Any] = field(default_factory=dict)
    target_dsn: str | None = None
    target_password: str = ""
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    plan_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def dump(self) -> str:
        return json.dumps(asdict(self))


def make_run(facts: Facts, clock: Clock | None = None, tell: Tell = lambda _text, _fields: None) -> Run:
    rds = None
    if facts.endpoint_url is not None:
        rds = RdsInstance(instance=facts.instance, region="us-east-1", endpoint_url=facts.endpoint_url)
    clock = clock or Hasty()
    source = Endpoint(side=Side.SOURCE, dsn=facts.dsn, rds=rds)
    target = Endpoint(side=Side.TARGET, dsn=facts.target_dsn or facts.dsn)
    secrets = {Side.SOURCE: facts.password, Side.TARGET: facts.target_password or facts.password}
    spec = StepSpec(id="logical", uses="enable_logical", options=facts.options)
    others = tuple(StepSpec(id=uses, uses=uses, options=given) for uses, given in facts.others.items())
    plan = Plan(
        name="t", path=Path("plan.yaml"), digest="", source=source, target=target, steps=(spec, *others)
    )
    label = f"planrunner/{facts.plan_id} test"
    servers = [
        Server(e, clock=clock, resolve=lambda _, s=e.side: Secret(secrets[s]), label=label)
        for e in (source, target)
    ]
    return Run(
        plan=plan,
        spec=spec,
        plan_id=facts.plan_id,
        source=servers[0],
        target=servers[1],
        cloud=Rds(rds, clock) if rds else None,
        clock=clock,
        held=Held(),
        tell=tell,
    )


def planned(facts: Facts) -> list[Action]:
    run = make_run(facts)
    try:
        return list(EnableLogical().actions(run))
    finally:
        close(run)


def close(run: Run) -> None:
    run.held.close()
    run.source.close()
    run.target.close()


def perform_all(
    facts: Facts, clock: Clock | None = None, tell: Tell = lambda _text, _fields: None
) -> list[str]:
    """Perform what is missing, as the engine does; the names of the performed actions."""
    run = make_run(facts, clock, tell)
    try:
        return performed(run, EnableLogical().actions)
    finally:
        close(run)


def clean(facts: Facts) -> list[str]:
    """Take back what was done, as a cleanup does."""
    run = make_run(facts)
    try:
        return performed(run, EnableLogical().leftovers)
    finally:
        close(run)


def performed(run: Run, asked: Callable[[Run], Sequence[Action]]) -> list[str]:
    names = []
    for action in asked(run):
        if action.blocked is not None:
            raise StepBlocked(action.summary, remedy=action.blocked)
        failpoint(f"logical.{action.name}.before")
        action.perform(run)
        failpoint(f"logical.{action.name}.after")
        names.append(action.name)
    assert list(asked(run)) == []
    return names


if __name__ == "__main__":
    perform_all(Facts(**json.loads(sys.argv[1])))
