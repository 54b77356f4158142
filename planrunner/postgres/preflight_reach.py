"""Preflight of an RDS source's network: its place, and whether its security groups let us and the target in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.postgres.preflight_section import AWS, Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planrunner.aws.admission import Verdict
    from planrunner.aws.ec2 import Network, Placement
    from planrunner.aws.reach import Gate
    from planrunner.dialling import Caller
    from planrunner.errors import PlanrunnerError
    from planrunner.model import Finding

LETS_US_IN = Check(
    code="PR1001",
    section=AWS,
    title="The security group lets this machine in",
    why="Every row of the copy and every look at the source goes over a connection from this machine.",
)
LETS_TARGET_IN = Check(
    code="PR1002",
    section=AWS,
    title="The security group lets the target in",
    why="The subscription dials the source from the target's own address; without a rule for it, nothing follows.",
)
PUBLIC = Check(
    code="PR1003",
    section=AWS,
    title="The instance can be reached from where it is dialled",
    why="An instance that is not publicly accessible has a private address, which only its VPC and what is joined to"
    " it can dial.",
)
PLACE = Check(
    code="PR1004",
    section=AWS,
    title="The instance's VPC and subnets",
    why="Where the instance lies decides which routes lead to it.",
)
WIDE = Check(
    code="PR1005",
    section=AWS,
    title="The security group is not open to the world",
    why="A database that the whole world may dial is tried by the whole world.",
)
ASKED = Check(
    code="PR1006",
    section=AWS,
    title="AWS tells of the instance's network",
    why="Without it a connection that fails can't be explained, and rules can neither be checked nor made.",
)


def reach(
    network: Network,
    now: Placement,
    gate: Gate,
    callers: Sequence[Caller],
    *,
    named: Sequence[str],
    answered: bool,
) -> Iterator[Finding]:
    """Where the instance lies and whom it lets in. ``answered``: this machine has a session there just now."""
    ours, targets = callers
    where = f"VPC {now.vpc}, subnet group {now.subnet_group} ({', '.join(now.subnets)})"
    yield PLACE.passed(f"{now.identifier} lies in {where}")
    yield _public(now, answered=answered)
    yield _ours(network, gate, ours, named, answered=answered)
    yield _targets(network, gate, targets, named)
    wide = gate.everybody
    if wide is not None:
        yield WIDE.warned(
            f"Rule {wide.id} of security group {wide.group} lets {wide.cidr} reach port {gate.port}",
            "Let in those that need it, then remove the rule: " + network.revoking(wide.group, wide.id),
        )
    else:
        yield WIDE.passed(f"Port {gate.port} is open to: {gate.open_to}")


def unasked(error: PlanrunnerError) -> Finding:
    """AWS refused, or did not answer: what it would have told is not known, the rest of the preflight goes on."""
    return ASKED.warned(f"The instance's network can't be told: {error.message}", error.remedy)


def _public(now: Placement, *, answered: bool) -> Finding:
    if now.public:
        return PUBLIC.passed(f"{now.identifier} is publicly accessible")
    text = f"{now.identifier} is not publicly accessible: only VPC {now.vpc} and what is joined to it can dial it"
    return PUBLIC.passed(f"{text}; this machine does") if answered else PUBLIC.warned(text)


def _ours(network: Network, gate: Gate, us: Caller, named: Sequence[str], *, answered: bool) -> Finding:
    addresses = tuple(named) or us.addresses
    verdict = gate.verdict(addresses)
    if verdict.rule is not None:
        return LETS_US_IN.passed(_open(gate, us, addresses, verdict))
    if not addresses:
        text = f"By which address this machine is seen is not known here: {us.hidden}"
        return LETS_US_IN.passed(f"{text}; it is let in") if answered else LETS_US_IN.warned(text)
    text = _shut(gate, addresses, verdict)
    if answered:
        # It has a session, so it comes from elsewhere than it looks, or by another way than the instance's own door.
        return LETS_US_IN.passed(f"This machine is let in, though {text}")
    return LETS_US_IN.failed(text[0].upper() + text[1:], _letting_in(network, gate, addresses))


def _targets(network: Network, gate: Gate, target: Caller, named: Sequence[str]) -> Finding:
    addresses = tuple(named) or target.addresses
    verdict = gate.verdict(addresses)
    doubt = f"; {target.doubt}" if target.doubt and not named else ""
    if verdict.rule is not None:
        return LETS_TARGET_IN.passed(_open(gate, target, addresses, verdict))
    if not addresses:
        return LETS_TARGET_IN.warned(
            f"From which address the target dials is not known here: {target.hidden}{doubt}",
            "Ask whoever runs the target for its outgoing addresses, and name them in the plan:"
            " connections.source.rds.authorize_ingress: [203.0.113.7/32]",
        )
    text = _shut(gate, addresses, verdict)
    return LETS_TARGET_IN.warned(f"{text[0].upper()}{text[1:]}{doubt}", _letting_in(network, gate, addresses))


def _open(gate: Gate, caller: Caller, addresses: Sequence[str], verdict: Verdict) -> str:
    rule = verdict.rule
    assert rule is not None
    who = f"{caller.who} ({', '.join(addresses)})"
    return f"Security group {gate.names} lets {who} in on port {gate.port} (rule {rule.id}: {rule.origin})"


def _shut(gate: Gate, addresses: Sequence[str], verdict: Verdict) -> str:
    told = f": {verdict.reason}" if verdict.reason else ""
    return f"security group {gate.names} names no rule that lets {', '.join(addresses)} in on port {gate.port}{told}"


def _letting_in(network: Network, gate: Gate, addresses: Sequence[str]) -> str | None:
    shut = [address for address in addresses if gate.verdict([address]).rule is None]
    if not gate.groups:
        return None
    return "\n".join(
        f"Let it in: {network.authorizing(gate.groups[0].id, gate.range_of(address), gate.port)}"
        for address in shut
    )
