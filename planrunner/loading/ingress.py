"""The ranges of addresses that a plan lets into the source's security group."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from planrunner.loading import codes
from planrunner.loading.document import shown
from planrunner.loading.places import at

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from planrunner.loading.document import Document, Keys
    from planrunner.model import Json, Problem

_KEYS: Keys = ("connections", "source", "rds", "authorize_ingress")


def authorized(connection: Mapping[str, Any]) -> bool | tuple[str, ...]:
    """What a connection says of it, its ranges as AWS writes them; the ranges are known to be some."""
    given = connection.get("rds", {}).get("authorize_ingress", False)
    if isinstance(given, bool):
        return given
    return tuple(dict.fromkeys(str(ip_network(each, strict=False)) for each in given))


def ingress_faults(document: Document, tree: Json) -> Iterator[Problem]:
    """Ranges that are none, and those that are the whole world."""
    given = at(tree, _KEYS)
    for index, text in enumerate(given if isinstance(given, list) else ()):
        if not isinstance(text, str) or not text:
            continue
        keys = (*_KEYS, index)
        try:
            found = ip_network(text, strict=False)
        except ValueError:
            yield document.problem(
                keys,
                f"{shown(text)} is no range of addresses",
                "Write it as 203.0.113.7/32 or 2001:db8::7/128.",
                codes.WRONG_FORM,
            )
            continue
        if found.prefixlen == 0:
            yield document.problem(
                keys,
                f"{shown(text)} would open the database to the whole world",
                "Name the addresses that dial it, or write true for those that are found.",
                codes.OUT_OF_BOUNDS,
            )
