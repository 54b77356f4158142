"""Why an instance was not reached, as far as AWS tells: its status, its address, its security groups, its subnets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.aws.admission import Entry, Known, Rule, Verdict, host_range, judged
from planrunner.dialling import Trouble, resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.aws.ec2 import Group, Network, Placement
    from planrunner.dialling import Caller

# Statuses in which an instance answers nobody: https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/accessing-monitoring.html
_COMING = frozenset(
    {
        "creating",
        "maintenance",
        "rebooting",
        "renaming",
        "resetting-master-credentials",
        "starting",
        "upgrading",
    }
)
_AWAY = frozenset(
    {
        "deleting",
        "failed",
        "inaccessible-encryption-credentials",
        "inaccessible-encryption-credentials-recoverable",
        "incompatible-network",
        "incompatible-parameters",
        "incompatible-restore",
        "insufficient-capacity",
        "restore-error",
        "storage-full",
    }
)
# What tells a machine behind a router by which address the world sees it, for a command that a shell reads.
_SEEN_AS = '"$(curl -s https://checkip.amazonaws.com)/32"'
_OWN = "YOUR-ADDRESS/32"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """What most likely keeps us out, and the commands that mend it, each with a word on what it does."""

    text: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The security groups of an instance and what their rules refer to."""

    port: int
    groups: tuple[Group, ...]
    rules: tuple[Rule, ...]
    known: Known = field(default_factory=Known)

    @property
    def names(self) -> str:
        """The groups, for people."""
        return ", ".join(map(str, self.groups)) or "none"

    def verdict(self, addresses: Sequence[str]) -> Verdict:
        """Whether every one of those addresses or ranges is let in; the first that is not decides."""
        answers = [judged(self.rules, address, self.port, self.known) for address in addresses]
        for entry in (Entry.SHUT, Entry.UNKNOWN):
            found = next((answer for answer in answers if answer.entry is entry), None)
            if found is not None:
                return found
        return answers[0] if answers else Verdict(entry=Entry.UNKNOWN, reason="no address is known")

    @staticmethod
    def range_of(address: str) -> str:
        """An address or range as a rule names it."""
        return address if "/" in address else host_range(address)

    @property
    def open_to(self) -> str:
        """From where the port is reached, for people."""
        return (
            ", ".join(dict.fromkeys(rule.origin for rule in self.rules if rule.covers(self.port)))
            or "nowhere"
        )

    @property
    def everybody(self) -> Rule | None:
        """The rule that lets the whole world in, if there is one."""
        wide = (rule for rule in self.rules if rule.covers(self.port) and rule.cidr is not None)
        return next((rule for rule in wide if str(rule.cidr).endswith("/0")), None)


def gate(network: Network, placement: Placement, port: int, addresses: Sequence[str]) -> Gate:
    """Read the instance's security groups; CloudError when that is refused."""
    groups, rules = network.groups(placement.groups), network.rules(placement.groups)
    relevant = [rule for rule in rules if rule.covers(port)]
    return Gate(port=port, groups=groups, rules=rules, known=network.known(relevant, addresses))


def likely_cause(
    network: Network, trouble: Trouble, *, host: str, port: int, caller: Caller, named: Sequence[str]
) -> Cause:
    """What AWS shows to be in the way of a connection to ``host:port``; CloudError when AWS can't be asked.

    ``named`` are the addresses that the plan says we dial from, where it says so.
    """
    now = network.placement()
    found = _status(network, now) or _place(now, trouble, host, port)
    if found is not None:
        return found
    if trouble is Trouble.UNKNOWN_HOST:
        return Cause(
            text=f"{now.identifier} is {now.status} and AWS gives {host} as its name: this machine's DNS does not"
            " know it",
            remedies=(f"See what DNS says: getent hosts {host}", _public_hint(network, now)),
        )
    addresses = tuple(named) or caller.addresses
    there = gate(network, now, now.port or port, addresses)
    return _shut(network, now, there, caller, addresses) or _route(network, now, host, there, trouble)


def _status(network: Network, now: Placement) -> Cause | None:
    name = ("--db-instance-identifier", now.identifier)
    if now.status in {"stopped", "stopping"}:
        start = network.command("rds", "start-db-instance", *name)
        return Cause(text=f"{now.identifier} is {now.status}", remedies=(f"Start it: {start}",))
    if now.status in _COMING:
        wait = network.command("rds", "wait", "db-instance-available", *name)
        return Cause(
            text=f"{now.identifier} is {now.status} and answers nobody until it is available",
            remedies=(f"Wait for it: {wait}",),
        )
    if now.status in _AWAY:
        events = network.command(
            "rds", "describe-events", "--source-type", "db-instance", "--source-identifier", now.identifier
        )
        return Cause(text=f"{now.identifier} is {now.status}", remedies=(f"See why: {events}",))
    return None


def _place(now: Placement, trouble: Trouble, host: str, port: int) -> Cause | None:
    if now.port is not None and now.port != port:
        return Cause(
            text=f"{now.identifier} listens on port {now.port}, the plan dials port {port}",
            remedies=(f"Write port {now.port} into connections.source.dsn.",),
        )
    if trouble is Trouble.UNKNOWN_HOST and now.host is not None and now.host != host:
        return Cause(
            text=f"{now.identifier} has the name {now.host}, the plan dials {host}",
            remedies=(f"Write {now.host} into connections.source.dsn.",),
        )
    return None


def _shut(
    network: Network, now: Placement, there: Gate, caller: Caller, addresses: Sequence[str]
) -> Cause | None:
    """Security groups that have no rule for us; None where they have, or where it can't be told that they have none."""
    if not addresses:
        return None if there.everybody else _hidden(network, now, there, caller)
    outside = [a for a in addresses if judged(there.rules, a, there.port, there.known).entry is Entry.SHUT]
    if not outside:
        return None
    what = f"security group {there.names} of {now.identifier} lets nothing from {', '.join(outside)} in"
    text = f"{what} on port {there.port} (it is open to: {there.open_to})"
    if not there.groups:
        return Cause(text=text)
    commands = [
        f"Let it in: {network.authorizing(there.groups[0].id, there.range_of(address), there.port)}"
        for address in outside
    ]
    return Cause(text=text, remedies=tuple(commands))


def _hidden(network: Network, now: Placement, there: Gate, caller: Caller) -> Cause | None:
    text = (
        f"security group {there.names} of {now.identifier} probably lets {caller.who} not in on port {there.port}"
        f" (it is open to: {there.open_to}); by which address {caller.who} is seen there is not known here:"
        f" {caller.hidden}"
    )
    if not there.groups:
        return Cause(text=text)
    command = network.authorizing(there.groups[0].id, _OWN, there.port).replace(_OWN, _SEEN_AS)
    return Cause(text=text, remedies=(f"Let it in: {command}",))


def _route(network: Network, now: Placement, host: str, there: Gate, trouble: Trouble) -> Cause:
    seen = f"security group {there.names} lets us in on port {there.port}"
    private = [each for each in resolved(host) if each.is_private and not each.is_loopback]
    if not now.public and private:
        return Cause(
            text=f"{now.identifier} is not publicly accessible, its address {private[0]} is private to VPC {now.vpc},"
            f" and this machine has no way there ({seen})",
            remedies=(
                "Run planrunner within that VPC, or by VPN, peering or a tunnel into it; or make the instance public: "
                + _publishing(network, now),
            ),
        )
    if now.public and (table := network.gateway_missing(now)) is not None:
        return _no_gateway(network, now, table, seen)
    if trouble is Trouble.REFUSED:
        return Cause(
            text=f"nothing of AWS's is in the way: {now.identifier} is {now.status} and {seen}, and what refuses is"
            f" no security group, which answers nothing at all",
            remedies=(
                f"See what listens there and whether a tunnel or proxy is meant: pg_isready -h {host} -p {there.port}",
            ),
        )
    return Cause(
        text=f"nothing of AWS's that can be told is in the way: {now.identifier} is {now.status}, {seen}"
        + ("" if now.public else f", it is reached only from VPC {now.vpc} and what is joined to it"),
        remedies=(
            "See whether this machine's own firewall, its proxy or a network ACL of the subnets"
            f" ({', '.join(now.subnets)}) drops the packets: "
            + network.command(
                "ec2",
                "describe-network-acls",
                "--filters",
                f"Name=association.subnet-id,Values={','.join(now.subnets)}",
            ),
        ),
    )


def _no_gateway(network: Network, now: Placement, table: str, seen: str) -> Cause:
    gateway = network.gateway(now.vpc)
    route = network.command(
        "ec2",
        "create-route",
        "--route-table-id",
        table,
        "--destination-cidr-block",
        "0.0.0.0/0",
        "--gateway-id",
        gateway or "igw-ID",
    )
    make = network.command("ec2", "create-internet-gateway")
    attach = network.command(
        "ec2", "attach-internet-gateway", "--vpc-id", now.vpc or "", "--internet-gateway-id", "igw-ID"
    )
    first = (
        ()
        if gateway
        else (f"Make a gateway and attach it, under the id that AWS gives it: {make} && {attach}",)
    )
    return Cause(
        text=f"{now.identifier} is publicly accessible, but its subnets have no route to an internet gateway"
        f" (route table {table} of VPC {now.vpc}; {seen})",
        remedies=(*first, f"Add the route: {route}"),
    )


def _publishing(network: Network, now: Placement) -> str:
    name = ("--db-instance-identifier", now.identifier)
    return network.command("rds", "modify-db-instance", *name, "--publicly-accessible", "--apply-immediately")


def _public_hint(network: Network, now: Placement) -> str:
    if now.public:
        return "Check this machine's resolver: /etc/resolv.conf"
    return (
        f"{now.identifier} is not publicly accessible; if its VPC has a DNS of its own, run within it, or:"
        f" {_publishing(network, now)}"
    )
