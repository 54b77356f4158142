"""The rules that let this machine and the target in at the source's security group, for as long as a migration lasts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from planrunner import reachability, remains
from planrunner.errors import CloudError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Belongs, Residue, Side
from planrunner.on_demand import on_demand
from planrunner.postgres.failures import dsn_parameters
from planrunner.step import NO_LOCKS, Action

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.aws import admission, reach
    from planrunner.aws.admission import Rule
    from planrunner.aws.ec2 import Network
    from planrunner.model import Plan
else:
    admission = on_demand("planrunner.aws.admission")
    reach = on_demand("planrunner.aws.reach")

TAG = "planrunner:plan"
KIND = "security group rule"
_READS = (
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroupRules",
    "ec2:DescribeSecurityGroups",
    "ec2:GetManagedPrefixListEntries",
    "rds:DescribeDBInstances",
)


_NAME_THEM = (
    "Name the addresses from which the source is dialled, this machine's and the target's, in the plan:"
    " connections.source.rds.authorize_ingress: [203.0.113.7/32]; this machine's is told by:"
    " curl -s https://checkip.amazonaws.com"
)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One range that is to be let in, and for whom."""

    cidr: str
    who: str


class Ingress:
    """The rules of one plan. ``mark`` names the plan on each of them, before its databases are known.

    Every refusal of AWS's leaves as CloudError.
    """

    def __init__(self, plan: Plan, mark: str | None = None) -> None:
        self._plan = plan
        self.mark = mark or mark_of(plan)

    @cached_property
    def _network(self) -> Network:
        return reachability.network_of(self._plan.source)

    @property
    def wanted(self) -> bool:
        """True when the plan lets us make rules."""
        return self._plan.source.authorize_ingress is not False

    def openings(self) -> tuple[Opening, ...]:
        """Each range that has to be let in, as far as they are known."""
        named = self._plan.source.ingress_ranges
        if named:
            return tuple(Opening(cidr=cidr, who="as the plan says") for cidr in named)
        found: dict[str, Opening] = {}
        for caller in reachability.callers(self._plan.source, self._plan.target):
            for address in caller.addresses:
                cidr = admission.host_range(address)
                found.setdefault(cidr, Opening(cidr=cidr, who=f"for {caller.who}"))
        return tuple(found.values())

    def unknown(self) -> tuple[str, ...]:
        """Who dials from an address that is not known here, and that the plan does not name, a sentence each."""
        if not self.wanted or self._plan.source.ingress_ranges:
            return ()
        return tuple(
            f"which address of {caller.who} to let in at the source is not known: {caller.hidden}. {_NAME_THEM}"
            for caller in reachability.callers(self._plan.source, self._plan.target)
            if not caller.addresses
        )

    def missing(self) -> tuple[Action, ...]:
        """A rule for each range that none lets in yet; reads only, and nothing where the plan asks for none."""
        if not self.wanted:
            return ()
        openings = self.openings()
        if not openings:
            return ()
        now = self._network.placement()
        port = now.port or reachability.place(self._plan.source)[1]
        there = reach.gate(self._network, now, port, [opening.cidr for opening in openings])
        shut = [o for o in openings if there.verdict([o.cidr]).entry is not admission.Entry.OPEN]
        if shut and not there.groups:
            raise StepFailed(
                f"aws: {now.identifier} has no security group to add a rule to",
                remedy="Give it one: aws rds modify-db-instance --db-instance-identifier"
                f" {now.identifier} --vpc-security-group-ids sg-ID",
            )
        return tuple(self._authorizing(str(there.groups[0].id), str(there.groups[0]), o, port) for o in shut)

    def drafted(self) -> tuple[Action, ...]:
        """The same from the plan alone."""
        if not self.wanted:
            return ()
        named = [Opening(cidr=cidr, who="as the plan says") for cidr in self._plan.source.ingress_ranges]
        port = reachability.place(self._plan.source)[1]
        return tuple(
            self._authorizing("…", "…", opening, port)
            for opening in named or [Opening(cidr="…", who="for this machine and the target")]
        )

    def _authorizing(self, group: str, shown: str, opening: Opening, port: int) -> Action:
        tag = (TAG, self.mark)
        description = f"planrunner/{self.mark}"
        network = self._network

        def perform(_: object) -> None:
            network.authorize(group, opening.cidr, port, description=description, tag=tag)
            failpoint("ingress.after_call")
            remains.made(Side.AWS.value, KIND, f"{opening.cidr} in {group}")

        return Action(
            name=f"authorize ingress {opening.cidr}",
            summary=f"let {opening.cidr} reach port {port} by a rule of security group {shown} ({opening.who})",
            where=Side.AWS,
            perform=perform,
            statements=(network.authorizing_as(group, opening.cidr, port, description=description, tag=tag),),
            locks=NO_LOCKS,
            needs=(
                "ec2:AuthorizeSecurityGroupIngress",
                "ec2:CreateTags",
                "ec2:RevokeSecurityGroupIngress",
                *_READS,
            ),
            undo=f"{network.revoking(group, '…')}  -- done by cleanup",
        )

    def removals(self) -> tuple[Action, ...]:
        """The removal of each rule that carries our mark, wherever it is; reads only."""
        return tuple(map(self._revoking, self._network.tagged(TAG, self.mark)))

    def _revoking(self, rule: Rule) -> Action:
        network = self._network

        def perform(_: object) -> None:
            network.revoke(rule)
            failpoint("ingress.after_revoke")
            remains.gone(Side.AWS.value, KIND, f"{rule.cidr} in {rule.group}")

        return Action(
            name=f"revoke ingress {rule.id}",
            summary=f"remove the rule {rule.id} of security group {rule.group} that lets {rule.origin} in",
            where=Side.AWS,
            perform=perform,
            statements=(network.revoking(rule.group, rule.id),),
            locks=NO_LOCKS,
            needs=("ec2:RevokeSecurityGroupIngress", "ec2:DescribeSecurityGroupRules"),
            undo=network.authorizing(rule.group, rule.origin, rule.last),
            destructive=True,
        )

    def untold(self, error: CloudError, *, made: bool) -> Residue:
        """What may be left, where AWS can't be asked; ``made``: a run is on record as having made a rule."""
        looking = self._network.command(
            "ec2", "describe-security-group-rules", "--filters", f"Name=tag:{TAG},Values={self.mark}"
        )
        return Residue(
            side=Side.AWS,
            kind=KIND,
            name=f"of {self.mark}",
            ours=Belongs.THIS_PLAN,
            harm=f"{'is' if made else 'may be'} left and lets somebody in: AWS could not be asked ({error.message})",
            statement=f"{looking}; then revoke what it lists: {self._network.revoking('sg-ID', 'sgr-ID')}",
            harmful=made,
        )

    def residue(self) -> tuple[Residue, ...]:
        """The rules that planrunner made: ours wherever they are, others' where the instance's groups show them."""
        found = {rule.id: rule for rule in self._network.tagged(TAG, self.mark)}
        try:
            seen = self._network.rules(self._network.placement().groups)
            found |= {rule.id: rule for rule in seen if TAG in rule.tags}
        except CloudError as error:
            # Of an instance that is deleted only what is tagged can be found.
            if error.code not in {"DBInstanceNotFound", "DBInstanceNotFoundFault"}:
                raise
        return tuple(map(self._residue, found.values()))

    def _residue(self, rule: Rule) -> Residue:
        ours = rule.tags.get(TAG) == self.mark
        return Residue(
            side=Side.AWS,
            kind=KIND,
            name=f"{rule.id} of {rule.group}" + ("" if ours else f" ({rule.tags.get(TAG)})"),
            ours=Belongs.THIS_PLAN if ours else Belongs.ANOTHER_PLAN,
            harm=f"lets {rule.origin} reach port {rule.last}",
            statement=self._network.revoking(rule.group, rule.id),
            harmful=ours,
        )


def ingress_of(plan: Plan, mark: str | None = None) -> Ingress | None:
    """The plan's rules, None where it names no RDS instance; ``mark`` is the one on record, where there is one."""
    return Ingress(plan, mark) if plan.source.rds is not None else None


def mark_of(plan: Plan) -> str:
    """The plan's name and a hash of what it moves where, by the plan alone: the servers may not be reached yet."""
    target = dsn_parameters(plan.target)
    assert plan.source.rds is not None
    parts: Sequence[object] = (
        plan.name,
        plan.source.rds.instance,
        dsn_parameters(plan.source).get("dbname"),
        target.get("host"),
        target.get("port"),
        target.get("dbname"),
    )
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return f"{plan.name}/{digest[:8]}"
