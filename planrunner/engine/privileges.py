"""What a plan's actions need, put together: the least IAM policy, and the grants of both sides."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.aws.ec2 import READING
from planrunner.aws.policy import policy, secret_arn
from planrunner.model import SecretKind, Side
from planrunner.postgres import grant_script, needs
from planrunner.postgres.failures import dsn_parameters
from planrunner.postgres.grant_script import ANYTHING, Facts
from planrunner.replication import relations
from planrunner.workspace import selected

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.engine.context import World
    from planrunner.engine.preview import Preview
    from planrunner.model import Endpoint, Json, Plan
    from planrunner.postgres.grant_script import Line

_GROUP = re.compile(r"--db-parameter-group-name\s+(\S+)")
_REMARKS = {
    needs.GIVING_ROLES: "only for the step grant to give the login its memberships; the script gives them itself",
    needs.GIVING_ACCESS: "only for the step grant to give the login what it lacks; the script gives it itself",
    needs.CONFIGURING: "for ALTER SYSTEM on a server that is no RDS instance; or set wal_level by other means",
    needs.SILENCING: "to keep a table's triggers silent while it is copied in the pause: the owners' rights bring it",
    needs.BY_OTHERS: "not of planrunner's login: a person does it once",
}


@dataclass(frozen=True, kw_only=True)
class Needed:
    """The least that a run needs. ``remarks`` are needs that no grant of the scripts meets, and why.

    ``offline``: of the servers nothing is known, so roles and objects stand as shapes.
    """

    plan: str
    offline: bool
    iam: Mapping[str, Json] | None
    source: tuple[Line, ...]
    target: tuple[Line, ...]
    remarks: tuple[str, ...]


def wanted(plan: Plan, preview: Preview, world: World | None) -> Needed:
    """The union over all actions of the preview; without ``world`` from the plan alone."""
    found = {pair for action in preview.actions for pair in needs.sided(action.where, action.needs)}
    facts = _unknown(plan) if world is None else _known(plan, world)
    return Needed(
        plan=plan.name,
        offline=world is None,
        iam=_policy(plan, preview, {need for side, need in found if side is Side.AWS}),
        source=grant_script.source_script(facts[0], _of(found, Side.SOURCE)),
        target=grant_script.target_script(facts[1], _of(found, Side.TARGET)),
        remarks=tuple(
            f"{side.value}: {need}: {_REMARKS[need]}"
            for side, need in sorted(found, key=lambda pair: (pair[0].value, pair[1]))
            if need in _REMARKS
        ),
    )


def _of(found: set[tuple[Side, str]], side: Side) -> set[str]:
    return {need for where, need in found if where is side}


def _known(plan: Plan, world: World) -> tuple[Facts, Facts]:
    left_out = relations.left_out(world.source, selected(plan))
    ours = grant_script.source_facts(world.source, tuple(left_out))
    return ours, grant_script.target_facts(world.source, world.target, ours.owners)


def _unknown(plan: Plan) -> tuple[Facts, Facts]:
    return _drafted(plan.source, sequences=((ANYTHING, ANYTHING),)), _drafted(plan.target)


def _drafted(endpoint: Endpoint, sequences: tuple[tuple[str, str], ...] = ()) -> Facts:
    given = dsn_parameters(endpoint)
    return Facts(
        login=given.get("user", ANYTHING),
        database=given.get("dbname", ANYTHING),
        version=grant_script.UNKNOWN_VERSION,
        rds=endpoint.rds is not None,
        owners=(ANYTHING,),
        schemas=(ANYTHING,),
        sequences=sequences,
        connects=False,
    )


def _policy(plan: Plan, preview: Preview, actions: set[str]) -> Mapping[str, Json] | None:
    found = [m[1] for a in preview.actions for s in a.statements for m in _GROUP.finditer(s)]
    groups = [shlex.split(group)[0] for group in dict.fromkeys(found)]
    named = {action for action in actions if ":" in action}
    known = [group.replace(ANYTHING, "*") for group in groups]
    # What explains a connection that failed, and what the preflight tells of the network.
    network = READING if plan.source.rds is not None else ()
    return policy({*named, *network, *_secrets(plan)}, plan.source.rds, known)


def _secrets(plan: Plan) -> Iterator[str]:
    for endpoint in (plan.source, plan.target):
        region = endpoint.rds.region if endpoint.rds else None
        ref = endpoint.password
        if ref is not None and ref.kind is SecretKind.AWS_SECRETSMANAGER:
            yield f"secretsmanager:GetSecretValue on {secret_arn(ref.locator, region)}"
        if ref is not None and ref.kind is SecretKind.AWS_SSM:
            name = ref.locator.removeprefix("/")
            arn = (
                ref.locator if name.startswith("arn:") else f"arn:aws:ssm:{region or '*'}:*:parameter/{name}"
            )
            yield f"ssm:GetParameter on {arn}"
        if endpoint.rds_iam:
            user = dsn_parameters(endpoint).get("user", "*")
            yield f"rds-db:connect on arn:aws:rds-db:{region or '*'}:*:dbuser:*/{user}"
