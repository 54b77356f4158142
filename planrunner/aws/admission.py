"""Whether rules of security groups let a caller in: ranges of addresses, prefix lists, groups, protocols, ports."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TCP = frozenset({"tcp", "6"})
_EVERY = "-1"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One inbound rule: exactly one of ``cidr``, ``prefix_list`` and ``members`` (a group) says from where."""

    id: str
    group: str
    protocol: str
    first: int
    last: int
    cidr: str | None = None
    prefix_list: str | None = None
    members: str | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def covers(self, port: int) -> bool:
        """True when it is for TCP to that port."""
        if self.protocol == _EVERY:
            return True
        return self.protocol in _TCP and self.first <= port <= self.last

    @property
    def origin(self) -> str:
        """From where, in words."""
        if self.cidr is not None:
            return self.cidr
        return f"prefix list {self.prefix_list}" if self.prefix_list else f"members of {self.members}"


class Entry(Enum):
    """Whether a caller is let in."""

    OPEN = "open"
    SHUT = "shut"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Known:
    """What rules refer to: the ranges of each prefix list, and the groups that each address is a member of.

    A prefix list that could not be read is not there; ``members`` is None where nobody could tell.
    """

    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    members: Mapping[str, frozenset[str]] | None = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a caller is let in, by which rule, and where that can't be told, why."""

    entry: Entry
    rule: Rule | None = None
    reason: str = ""


def judged(rules: Iterable[Rule], address: str, port: int, known: Known) -> Verdict:
    """Whether any rule lets TCP from ``address`` to ``port`` in; security groups only allow, so one is enough."""
    relevant = [rule for rule in rules if rule.covers(port)]
    answers = [(rule, _matches(rule, address, known)) for rule in relevant]
    found = next((rule for rule, answer in answers if answer), None)
    if found is not None:
        return Verdict(entry=Entry.OPEN, rule=found)
    doubtful = [rule for rule, answer in answers if answer is None]
    if doubtful:
        reason = "; ".join(f"who is in {rule.origin} can't be told" for rule in doubtful)
        return Verdict(entry=Entry.UNKNOWN, reason=reason)
    return Verdict(entry=Entry.SHUT)


def within(range_: str, cidr: str) -> bool:
    """True when every address of ``range_`` is in ``cidr``."""
    inner, outer = ip_network(range_, strict=False), ip_network(cidr, strict=False)
    if inner.version != outer.version:
        return False
    return int(outer.network_address) <= int(inner.network_address) and int(inner.broadcast_address) <= int(
        outer.broadcast_address
    )


def _matches(rule: Rule, address: str, known: Known) -> bool | None:
    """None where it can't be told."""
    if rule.cidr is not None:
        return within(address, rule.cidr)
    if rule.prefix_list is not None:
        ranges = known.lists.get(rule.prefix_list)
        return None if ranges is None else any(within(address, cidr) for cidr in ranges)
    if rule.members is None:
        return None
    # A group admits its members by their private addresses, and no range of more than one.
    if "/" in address and ip_network(address, strict=False).num_addresses > 1:
        return False
    if known.members is None:
        return None
    return rule.members in known.members.get(single(address), frozenset())


def single(address: str) -> str:
    """An address without the length of its range."""
    return str(ip_address(address.partition("/")[0]))


def host_range(address: str) -> str:
    """The range of that address alone."""
    found = ip_address(address)
    return f"{found}/{found.max_prefixlen}"
