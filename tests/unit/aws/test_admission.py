"""Whether rules let a caller in: ranges, prefix lists, groups, protocols and ports."""

from __future__ import annotations

import pytest

from planrunner.aws.admission import Entry, Known, Rule, judged

PORT = 5432


def rule(**facts: object) -> Rule:
    given: dict[str, object] = {
        "id": "sgr-1",
        "group": "sg-1",
        "protocol": "tcp",
        "first": PORT,
        "last": PORT,
    }
    return Rule(**{**given, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "address", "entry"),
    [
        ({"cidr": "203.0.113.7/32"}, "203.0.113.7", Entry.OPEN),
        ({"cidr": "203.0.113.0/24"}, "203.0.113.7", Entry.OPEN),
        ({"cidr": "203.0.113.0/24"}, "203.0.114.7", Entry.SHUT),
        ({"cidr": "0.0.0.0/0"}, "198.51.100.1", Entry.OPEN),
        ({"cidr": "0.0.0.0/0"}, "2001:db8::1", Entry.SHUT),
        ({"cidr": "::/0"}, "2001:db8::1", Entry.OPEN),
        ({"cidr": "::/0"}, "198.51.100.1", Entry.SHUT),
        ({"cidr": "2001:db8::/64"}, "2001:db8::7", Entry.OPEN),
        ({"cidr": "2001:db8::/64"}, "2001:db8:0:1::7", Entry.SHUT),
        # A range of the plan is let in only as a whole.
        ({"cidr": "203.0.113.0/25"}, "203.0.113.0/25", Entry.OPEN),
        ({"cidr": "203.0.113.0/25"}, "203.0.113.0/24", Entry.SHUT),
        # Protocols and ports.
        ({"cidr": "203.0.113.7/32", "protocol": "-1", "first": -1, "last": -1}, "203.0.113.7", Entry.OPEN),
        ({"cidr": "203.0.113.7/32", "protocol": "6"}, "203.0.113.7", Entry.OPEN),
        ({"cidr": "203.0.113.7/32", "protocol": "udp"}, "203.0.113.7", Entry.SHUT),
        ({"cidr": "203.0.113.7/32", "protocol": "icmp", "first": -1, "last": -1}, "203.0.113.7", Entry.SHUT),
        ({"cidr": "203.0.113.7/32", "first": 0, "last": 65535}, "203.0.113.7", Entry.OPEN),
        ({"cidr": "203.0.113.7/32", "first": 5433, "last": 5440}, "203.0.113.7", Entry.SHUT),
        ({"cidr": "203.0.113.7/32", "first": 5000, "last": 5431}, "203.0.113.7", Entry.SHUT),
    ],
)
def test_range_protocol_and_ports_decide(facts: dict[str, object], address: str, entry: Entry) -> None:
    assert judged([rule(**facts)], address, PORT, Known()).entry is entry


def test_no_rule_lets_nobody_in() -> None:
    assert judged([], "203.0.113.7", PORT, Known()).entry is Entry.SHUT


def test_the_rule_that_lets_in_is_named() -> None:
    rules = [rule(id="sgr-1", cidr="10.0.0.0/8"), rule(id="sgr-2", cidr="203.0.113.0/24")]
    found = judged(rules, "203.0.113.7", PORT, Known()).rule
    assert found is not None
    assert found.id == "sgr-2"


def test_a_prefix_list_lets_its_ranges_in() -> None:
    known = Known(lists={"pl-1": ("198.51.100.0/24", "203.0.113.0/28")})
    assert judged([rule(prefix_list="pl-1")], "203.0.113.7", PORT, known).entry is Entry.OPEN
    assert judged([rule(prefix_list="pl-1")], "203.0.113.77", PORT, known).entry is Entry.SHUT


def test_a_prefix_list_that_could_not_be_read_leaves_it_open_whether() -> None:
    answer = judged([rule(prefix_list="pl-1")], "203.0.113.7", PORT, Known())
    assert answer.entry is Entry.UNKNOWN
    assert "prefix list pl-1" in answer.reason
    # Another rule that lets us in is enough.
    assert judged([rule(prefix_list="pl-1"), rule(cidr="203.0.113.7/32")], "203.0.113.7", PORT, Known()).rule


def test_a_referenced_group_lets_its_members_in_by_their_private_addresses() -> None:
    known = Known(members={"10.20.1.9": frozenset({"sg-app"})})
    assert judged([rule(members="sg-app")], "10.20.1.9", PORT, known).entry is Entry.OPEN
    assert judged([rule(members="sg-app")], "10.20.1.9/32", PORT, known).entry is Entry.OPEN
    assert judged([rule(members="sg-other")], "10.20.1.9", PORT, known).entry is Entry.SHUT
    assert judged([rule(members="sg-app")], "10.20.1.0/24", PORT, known).entry is Entry.SHUT
    assert judged([rule(members="sg-app")], "10.20.1.9", PORT, Known(members=None)).entry is Entry.UNKNOWN
