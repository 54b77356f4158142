"""The network of one RDS instance as AWS tells of it, and the rules of its security groups."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from planrunner.aws.admission import Known, Rule, single
from planrunner.errors import CloudError
from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mypy_boto3_rds.client import RDSClient

    from planrunner.aws import failures, session
    from planrunner.model import RdsInstance
else:
    # A plan that is only looked at loads nothing that opens a socket.
    failures = on_demand("planrunner.aws.failures")
    session = on_demand("planrunner.aws.session")

# What a look at the network asks, some only where rules refer to lists or groups or nothing else explains; and which
# authority vouches for the instance.
READING = (
    "ec2:DescribeInternetGateways",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeRouteTables",
    "ec2:DescribeSecurityGroupRules",
    "ec2:DescribeSecurityGroups",
    "ec2:GetManagedPrefixListEntries",
    "rds:DescribeCertificates",
    "rds:DescribeDBInstances",
)
_EVERYWHERE = frozenset({"0.0.0.0/0", "::/0"})
_DUPLICATE = "InvalidPermission.Duplicate"
_GONE = frozenset(
    {"InvalidPermission.NotFound", "InvalidSecurityGroupRuleId.NotFound", "InvalidGroup.NotFound"}
)


class Ec2Client(Protocol):
    """What is used of boto3's client."""

    def get_paginator(self, operation_name: Any) -> Any:
        """Pages of a describing call."""
        ...

    def authorize_security_group_ingress(self, **given: Any) -> Any:
        """Add inbound rules."""
        ...

    def revoke_security_group_ingress(self, **given: Any) -> Any:
        """Remove inbound rules."""
        ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an instance lies. ``subnets`` are those of its subnet group in its zone, all where that is not known."""

    identifier: str
    status: str
    public: bool
    host: str | None
    port: int | None
    vpc: str | None
    subnet_group: str | None
    subnets: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A security group."""

    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.id} ({self.name})" if self.name else self.id


class Network:
    """The calls on one instance's network; every refusal leaves as CloudError with cause and remedy.

    ``hasty``: a failure is being explained, so what does not answer soon is given up.
    """

    def __init__(self, instance: RdsInstance, *, hasty: bool = False) -> None:
        self.instance = instance
        self._hasty = hasty

    @cached_property
    def _rds(self) -> RDSClient:
        return session.client("rds", self.instance, hasty=self._hasty)

    @cached_property
    def _ec2(self) -> Ec2Client:
        found: Ec2Client = session.client("ec2", self.instance, hasty=self._hasty)
        return found

    def placement(self) -> Placement:
        """Where the instance lies now, and whether it is there at all."""
        with failures.translated("rds", self.instance):
            listed = self._rds.describe_db_instances(DBInstanceIdentifier=self.instance.instance)[
                "DBInstances"
            ]
        if not listed:
            raise CloudError(f"aws: there is no instance {self.instance.instance}", code="DBInstanceNotFound")
        told = listed[0]
        subnets = told.get("DBSubnetGroup", {})
        endpoint = told.get("Endpoint", {})
        return Placement(
            identifier=told.get("DBInstanceIdentifier", self.instance.instance),
            status=told.get("DBInstanceStatus", ""),
            public=bool(told.get("PubliclyAccessible")),
            host=endpoint.get("Address"),
            port=endpoint.get("Port"),
            vpc=subnets.get("VpcId"),
            subnet_group=subnets.get("DBSubnetGroupName"),
            subnets=_nearby(subnets.get("Subnets", []), told.get("AvailabilityZone")),
            groups=tuple(
                group["VpcSecurityGroupId"]
                for group in told.get("VpcSecurityGroups", [])
                if "VpcSecurityGroupId" in group and group.get("Status") != "removing"
            ),
        )

    def groups(self, ids: Sequence[str]) -> tuple[Group, ...]:
        """The security groups of those ids, in that order."""
        if not ids:
            return ()
        found = {
            told["GroupId"]: Group(id=told["GroupId"], name=told.get("GroupName", ""))
            for told in self._all("describe_security_groups", "SecurityGroups", GroupIds=list(ids))
        }
        return tuple(found[id_] for id_ in ids if id_ in found)

    def rules(self, groups: Sequence[str]) -> tuple[Rule, ...]:
        """The inbound rules of those groups."""
        return self._rules(_filter("group-id", groups)) if groups else ()

    def tagged(self, key: str, value: str) -> tuple[Rule, ...]:
        """The inbound rules of whatever group that carry that tag."""
        return self._rules(_filter(f"tag:{key}", [value]))

    def known(self, rules: Iterable[Rule], addresses: Sequence[str]) -> Known:
        """What those rules refer to; nothing is asked where they name ranges alone."""
        named = tuple(rules)
        lists = {rule.prefix_list for rule in named if rule.prefix_list}
        entries = {name: ranges for name in sorted(lists) if (ranges := self._ranges(name)) is not None}
        wanted = any(rule.members for rule in named) and addresses
        return Known(lists=entries, members=self._members(addresses) if wanted else {})

    def _ranges(self, prefix_list: str) -> tuple[str, ...] | None:
        try:
            entries = self._all("get_managed_prefix_list_entries", "Entries", PrefixListId=prefix_list)
            return tuple(entry["Cidr"] for entry in entries)
        except CloudError:
            return None

    def _members(self, addresses: Sequence[str]) -> Mapping[str, frozenset[str]] | None:
        found: dict[str, frozenset[str]] = {}
        try:
            for address in map(single, addresses):
                faces = self._all(
                    "describe_network_interfaces",
                    "NetworkInterfaces",
                    Filters=_filter("addresses.private-ip-address", [address]),
                )
                found[address] = frozenset(g["GroupId"] for face in faces for g in face.get("Groups", []))
        except CloudError:
            return None
        return found

    def gateway_missing(self, placement: Placement) -> str | None:
        """The route table by which a subnet of the instance has no way to the internet; None when each has one."""
        for subnet in placement.subnets:
            tables = self._all(
                "describe_route_tables", "RouteTables", Filters=_filter("association.subnet-id", [subnet])
            ) or self._main_tables(placement.vpc)
            if tables and not any(_leads_out(route) for table in tables for route in table.get("Routes", [])):
                return str(tables[0]["RouteTableId"])
        return None

    def _main_tables(self, vpc: str | None) -> list[Any]:
        where = [*_filter("vpc-id", [vpc or ""]), *_filter("association.main", ["true"])]
        return self._all("describe_route_tables", "RouteTables", Filters=where)

    def gateway(self, vpc: str | None) -> str | None:
        """The VPC's internet gateway, None when it has none."""
        found = self._all(
            "describe_internet_gateways",
            "InternetGateways",
            Filters=_filter("attachment.vpc-id", [vpc or ""]),
        )
        return str(found[0]["InternetGatewayId"]) if found else None

    def authorize(self, group: str, cidr: str, port: int, *, description: str, tag: tuple[str, str]) -> None:
        """Let a range in; a rule that is there already, by a reply that was lost or by others, is as good."""
        try:
            with failures.translated("ec2", self.instance):
                self._ec2.authorize_security_group_ingress(
                    GroupId=group,
                    IpPermissions=[_permission(cidr, port, description)],
                    TagSpecifications=[
                        {"ResourceType": "security-group-rule", "Tags": [{"Key": tag[0], "Value": tag[1]}]}
                    ],
                )
        except CloudError as error:
            if error.code != _DUPLICATE:
                raise

    def revoke(self, rule: Rule) -> None:
        """Remove a rule; one that is gone already is as good."""
        try:
            with failures.translated("ec2", self.instance):
                self._ec2.revoke_security_group_ingress(GroupId=rule.group, SecurityGroupRuleIds=[rule.id])
        except CloudError as error:
            if error.code not in _GONE:
                raise

    def _rules(self, where: list[Any]) -> tuple[Rule, ...]:
        told = self._all("describe_security_group_rules", "SecurityGroupRules", Filters=where)
        return tuple(_rule(each) for each in told if not each.get("IsEgress"))

    def _all(self, operation: str, member: str, **given: Any) -> list[Any]:
        with failures.translated("ec2", self.instance):
            pages = self._ec2.get_paginator(operation).paginate(**given)
            return [each for page in pages for each in page.get(member, [])]

    def command(self, service: str, verb: str, *words: str) -> str:
        """A call as the AWS command line writes it, for people: ``aws SERVICE VERB WORDS``."""
        own = self.instance
        where = ("--region", own.region) if own.region else ()
        who = ("--profile", own.profile) if own.profile else ()
        return shlex.join(("aws", service, verb, *words, *where, *who))

    def authorizing(self, group: str, cidr: str, port: int) -> str:
        """The command by which a person lets a range in."""
        verb = ("authorize-security-group-ingress", "--group-id", group)
        if ":" not in cidr:
            rule = ("--protocol", "tcp", "--port", str(port), "--cidr", cidr)
            return self.command("ec2", *verb, *rule)
        wide = f"IpProtocol=tcp,FromPort={port},ToPort={port},Ipv6Ranges=[{{CidrIpv6={cidr}}}]"
        return self.command("ec2", *verb, "--ip-permissions", wide)

    def authorizing_as(
        self, group: str, cidr: str, port: int, *, description: str, tag: tuple[str, str]
    ) -> str:
        """The call that ``authorize`` makes, as a command."""
        family, member = ("Ipv6Ranges", "CidrIpv6") if ":" in cidr else ("IpRanges", "CidrIp")
        ranges = f"{family}=[{{{member}={cidr},Description={description}}}]"
        return self.command(
            "ec2",
            "authorize-security-group-ingress",
            "--group-id",
            group,
            "--ip-permissions",
            f"IpProtocol=tcp,FromPort={port},ToPort={port},{ranges}",
            "--tag-specifications",
            f"ResourceType=security-group-rule,Tags=[{{Key={tag[0]},Value={tag[1]}}}]",
        )

    def revoking(self, group: str, rule: str) -> str:
        """The call that ``revoke`` makes, as a command."""
        words = ("--group-id", group, "--security-group-rule-ids", rule)
        return self.command("ec2", "revoke-security-group-ingress", *words)


def _permission(cidr: str, port: int, description: str) -> Mapping[str, Any]:
    wide = ":" in cidr
    ranges = [{"CidrIpv6" if wide else "CidrIp": cidr, "Description": description}]
    return {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "Ipv6Ranges" if wide else "IpRanges": ranges,
    }


def _rule(told: Any) -> Rule:
    return Rule(
        id=told["SecurityGroupRuleId"],
        group=told["GroupId"],
        protocol=str(told.get("IpProtocol", "")),
        first=told.get("FromPort", 0),
        last=told.get("ToPort", 0),
        cidr=told.get("CidrIpv4") or told.get("CidrIpv6"),
        prefix_list=told.get("PrefixListId"),
        members=told.get("ReferencedGroupInfo", {}).get("GroupId"),
        description=told.get("Description") or "",
        tags={tag["Key"]: tag["Value"] for tag in told.get("Tags", [])},
    )


def _filter(name: str, values: Sequence[str]) -> list[Any]:
    return [{"Name": name, "Values": list(values)}]


def _nearby(subnets: Iterable[Any], zone: str | None) -> tuple[str, ...]:
    told = [(s.get("SubnetIdentifier", ""), s.get("SubnetAvailabilityZone", {}).get("Name")) for s in subnets]
    near = tuple(name for name, where in told if where == zone)
    return near or tuple(name for name, _ in told)


def _leads_out(route: Any) -> bool:
    goals = {route.get("DestinationCidrBlock"), route.get("DestinationIpv6CidrBlock")}
    return not goals.isdisjoint(_EVERYWHERE) and str(route.get("GatewayId", "")).startswith("igw-")
