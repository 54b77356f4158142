"""Who dials a server and from which addresses, as far as this machine can tell: its own, and the other server's."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address


class Trouble(Enum):
    """How a server was not reached."""

    UNKNOWN_HOST = "unknown host"
    REFUSED = "refused"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """One that dials: ``addresses`` are those that the server sees, none where they can't be told from here.

    ``hidden`` says why they can't; ``doubt`` what may make them others.
    """

    who: str
    addresses: tuple[str, ...]
    hidden: str | None = None
    doubt: str | None = None


def runner(host: str, port: int) -> Caller:
    """This machine, as a server at ``host`` sees it; nothing is sent."""
    who = "this machine"
    pairs = tuple(_paths(host, port))
    if not pairs:
        return Caller(who=who, addresses=(), hidden=f"{host} leads to no address from here")
    seen = tuple(dict.fromkeys(str(own) for own, peer in pairs if own.is_global or not peer.is_global))
    if seen:
        return Caller(who=who, addresses=seen)
    return Caller(
        who=who,
        addresses=(),
        hidden=f"its own address {pairs[0][0]} is private and {host} is public: a router between gives it another",
    )


def other(host: str, source: str, port: int) -> Caller:
    """The target at ``host``, as the source sees it: it dials from there, for the subscription."""
    who = "the target"
    if host.startswith(("/", "@")):
        return Caller(who=who, addresses=runner(source, port).addresses, hidden=None)
    found = tuple(resolved(host))
    if any(each.is_loopback for each in found):
        return Caller(who=who, addresses=runner(source, port).addresses)
    beyond = any(each.is_global for each in resolved(source))
    seen = tuple(str(each) for each in found if each.is_global or not beyond)
    doubt = "a target behind a router (NAT), or one of several machines, dials from another address than it is reached at"
    if seen:
        return Caller(who=who, addresses=seen, doubt=doubt)
    why = f"{host} is private and {source} is public" if found else f"{host} leads to no address from here"
    return Caller(who=who, addresses=(), hidden=why, doubt=doubt)


def resolved(host: str) -> Iterator[IPv4Address | IPv6Address]:
    """The addresses of a name as this machine's resolver tells them; none for a name it does not know."""
    with suppress(OSError, UnicodeError):
        told = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        yield from dict.fromkeys(ip_address(str(each[4][0]).partition("%")[0]) for each in told)


def _paths(host: str, port: int) -> Iterator[tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address]]:
    """Our address and the server's, for each way there."""
    for peer in resolved(host):
        family = socket.AF_INET if peer.version == 4 else socket.AF_INET6
        # Connecting a datagram socket only looks the route up.
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as line:
            line.connect((str(peer), port))
            yield ip_address(str(line.getsockname()[0]).partition("%")[0]), peer
