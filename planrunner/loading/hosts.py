"""What a host's name and port tell: RDS and Aurora endpoints, SerenDB, and poolers that replication can't go through."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RDS = re.compile(
    r"(?P<name>[^.]+)\.(?:(?P<role>cluster-ro|cluster-custom|cluster|proxy)-)?[^.]+"
    r"\.(?P<region>[a-z0-9-]+)\.rds\.amazonaws\.com(?:\.cn)?"
)
_NEON_POOLER = re.compile(r"(?P<endpoint>ep-[^.]+)-pooler(?P<rest>\..+)")
_SERENDB = ".serendb.com"
# PgBouncer's port, and Supabase's pooler in transaction mode.
_POOLER_PORTS = frozenset({"6432", "6543"})


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a name tells. ``instance`` and ``cluster`` are AWS's identifiers; ``advice`` is what is wrong with it.

    ``serendb``: a database of SerenDB's.
    """

    serendb: bool = False
    instance: str | None = None
    cluster: str | None = None
    region: str | None = None
    advice: str | None = None


def recognized(host: str, port: str = "5432") -> Host:
    """What the host's name and port tell; all empty for a name that tells nothing."""
    found = _RDS.fullmatch(host)
    if found is not None:
        return _on_aws(found["name"], found["role"], found["region"])
    pooled = _NEON_POOLER.fullmatch(host)
    if pooled is not None:
        return Host(
            advice=f"{host} is a pooler, through which no replication goes: name the direct host"
            f" {pooled['endpoint']}{pooled['rest']}"
        )
    if port in _POOLER_PORTS or ".pooler." in host:
        return Host(
            serendb=at_serendb(host),
            advice=f"{host}:{port} looks like a pooler, through which no replication goes: name the server's own"
            " host and port",
        )
    return Host(serendb=at_serendb(host))


def at_serendb(host: str) -> bool:
    """Whether the host is a database of SerenDB's."""
    return host.lower().rstrip(".").endswith(_SERENDB)


def _on_aws(name: str, role: str | None, region: str) -> Host:
    match role:
        case None:
            return Host(instance=name, region=region)
        case "proxy":
            return Host(
                region=region,
                advice=f"{name} is an RDS Proxy, through which no replication goes: name the instance's own endpoint",
            )
        case "cluster":
            return Host(cluster=name, region=region)
        case _:
            return Host(
                cluster=name,
                region=region,
                advice=f"{name} is an Aurora endpoint that may lead to a reader: name the cluster's writer endpoint",
            )
