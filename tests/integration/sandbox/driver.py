"""Plans and performs enable_logical as the engine does; as a script, in a process of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from planrunner.aws.rds import Rds
from planrunner.clock import SystemClock
from planrunner.failpoints import failpoint
from planrunner.model import Endpoint, Plan, RdsInstance, Secret, Side, StepSpec
from planrunner.postgres.connection import Server
from planrunner.step import Action, Held, Run
from planrunner.steps.enable_logical import EnableLogical


@dataclass(frozen=True, kw_only=True)
class Facts:
    dsn: str
    password: str
    endpoint_url: str | None = None
    instance: str = "shop-prod"
    options: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self))


def make_run(facts: Facts) -> Run:
    rds = None
    if facts.endpoint_url is not None:
        rds = RdsInstance(instance=facts.instance, region="us-east-1", endpoint_url=facts.endpoint_url)
    clock = SystemClock()
    source = Endpoint(side=Side.SOURCE, dsn=facts.dsn, rds=rds)
    target = Endpoint(side=Side.TARGET, dsn=facts.dsn)
    spec = StepSpec(id="logical", uses="enable_logical", options=facts.options)
    plan = Plan(name="t", path=Path("plan.yaml"), digest="", source=source, target=target, steps=(spec,))
    servers = [
        Server(e, clock=clock, resolve=lambda _: Secret(facts.password), label="test")
        for e in (source, target)
    ]
    return Run(
        plan=plan,
        spec=spec,
        plan_id="abc",
        source=servers[0],
        target=servers[1],
        cloud=Rds(rds, clock) if rds else None,
        clock=clock,
        held=Held(),
        tell=lambda _text, _fields: None,
    )


def planned(facts: Facts) -> list[Action]:
    run = make_run(facts)
    try:
        return list(EnableLogical().actions(run))
    finally:
        run.source.close()


def perform_all(facts: Facts) -> list[str]:
    """Perform what is missing, as the engine does; the names of the performed actions."""
    run = make_run(facts)
    names = []
    for action in EnableLogical().actions(run):
        assert action.blocked is None, action.blocked
        failpoint(f"logical.{action.name}.before")
        action.perform(run)
        failpoint(f"logical.{action.name}.after")
        names.append(action.name)
    assert list(EnableLogical().actions(run)) == []
    run.source.close()
    return names


if __name__ == "__main__":
    perform_all(Facts(**json.loads(sys.argv[1])))
