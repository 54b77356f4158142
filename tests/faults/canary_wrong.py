"""What may be wrong with a plan so that its commands fail at a server, a secret or AWS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.canary_place import Place


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """What one side of the plan has instead, and which AWS is asked (a way of ``canary_aws``)."""

    side: str = "source"
    instead: dict[str, Any] = field(default_factory=dict)
    aws: str = ""


_FROM_AWS = {"aws_secretsmanager": "app/source", "key": "password"}
WRONG = {
    "a wrong password": Wrong(instead={"password": {"secret": {"file": "wrong.password"}}}),
    "AWS shows the request": Wrong(instead={"password": {"secret": _FROM_AWS}}, aws="unsigned"),
    "AWS denies": Wrong(instead={"password": {"secret": _FROM_AWS}}, aws="denied"),
    "AWS denies the role": Wrong(aws="denied"),
    "AWS shows the request for a role": Wrong(aws="unsigned"),
    "no such server": Wrong(instead={"dsn": "postgresql://mover@127.0.0.1:1/app?sslmode=disable"}),
    "no such secret": Wrong(
        side="target", instead={"password": {"secret": {"aws_secretsmanager": "app/none"}}}
    ),
    "a command that fails": Wrong(
        side="target", instead={"password": {"secret": {"command": ["./failing.sh"]}}}
    ),
    "no such member": Wrong(instead={"password": {"secret": {**_FROM_AWS, "key": "none"}}}),
    "no TLS there": Wrong(side="target", instead={"allow_self_signed_certs": True}),
}


def wrong_plan(place: Place, kind: str) -> tuple[str, dict[str, str]]:
    """A plan's file of which that is wrong, and the environment that goes with it."""
    wrong = WRONG[kind]
    name = kind.replace(" ", "-")
    if "wrong.password" in str(wrong):
        place.write("wrong.password", place.canaries.new("wrong password", "double quote"))
        place.passwords.add("wrong password")
    if "failing.sh" in str(wrong):
        said = place.canaries.new("what a failing command says")
        place.write("failing.sh", f"#!/bin/sh\necho '{said}' | tee /dev/stderr; exit 3\n")
    plan = place.plan()
    plan["metadata"]["name"] = name.lower()
    if wrong.instead.get("allow_self_signed_certs"):
        plan["connections"][wrong.side]["dsn"] = plan["connections"][wrong.side]["dsn"].partition("?")[0]
    plan["connections"][wrong.side].update(wrong.instead)
    if wrong.aws:
        # It would be looked up, and fail, before anything of the connections is.
        del plan["vars"]["ssm"]
        plan["steps"][1]["after"] = [h for h in plan["steps"][1]["after"] if "vars.ssm" not in str(h)]
    place.write(f"{name}.yaml", plan)
    return f"{name}.yaml", {"AWS_ENDPOINT_URL": f"{place.refusing}/{wrong.aws}"} if wrong.aws else {}
