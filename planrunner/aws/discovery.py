"""Which databases carry certain tags: instances and Aurora clusters of PostgreSQL, as AWS lists them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from planrunner.on_demand import on_demand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from planrunner.aws import failures, session
    from planrunner.model import RdsInstance
else:
    # What was listed before is read without AWS.
    failures = on_demand("planrunner.aws.failures")
    session = on_demand("planrunner.aws.session")

_ENGINES = frozenset({"postgres", "aurora-postgresql"})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An instance or a cluster: ``attributes`` are identifier, endpoint, port, engine, version, database, if told."""

    attributes: Mapping[str, str]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        """Its identifier at AWS."""
        return self.attributes["identifier"]

    def value(self, attribute: str) -> str | None:
        """An attribute by its name, a tag as ``tag:KEY``; None where it has none."""
        kind, _, key = attribute.partition(":")
        return self.tags.get(key) if kind == "tag" and key else self.attributes.get(attribute)


def listed(access: RdsInstance, tags: Mapping[str, str]) -> tuple[Listed, ...]:
    """Everything that carries all these tags, by identifier; read replicas and members of clusters are left out.

    CloudError when AWS refuses or does not answer.
    """
    with failures.translated("rds", access):
        client = session.client("rds", access)
        clusters = _pages(client, "describe_db_clusters", "DBClusters")
        instances = _pages(client, "describe_db_instances", "DBInstances")
        found = [*map(_cluster, clusters), *map(_instance, (i for i in instances if _alone(i)))]
    fitting = (one for one in found if one.attributes["engine"] in _ENGINES and _carries(one, tags))
    return tuple(sorted(fitting, key=lambda one: one.identifier))


def _pages(client: Any, call: str, key: str) -> Iterator[Any]:
    for page in client.get_paginator(call).paginate():
        yield from page[key]


def _alone(told: Any) -> bool:
    copied = told.get("ReadReplicaSourceDBInstanceIdentifier") or told.get(
        "ReadReplicaSourceDBClusterIdentifier"
    )
    return not told.get("DBClusterIdentifier") and not copied


def _carries(one: Listed, tags: Mapping[str, str]) -> bool:
    return all(one.tags.get(key) == value for key, value in tags.items())


def _cluster(told: Any) -> Listed:
    return _listed(
        told.get("DBClusterIdentifier"),
        told.get("Endpoint"),
        told.get("Port"),
        told.get("DatabaseName"),
        told,
    )


def _instance(told: Any) -> Listed:
    endpoint = told.get("Endpoint", {})
    name = told.get("DBInstanceIdentifier")
    return _listed(name, endpoint.get("Address"), endpoint.get("Port"), told.get("DBName"), told)


def _listed(name: Any, host: Any, port: Any, database: Any, told: Any) -> Listed:
    known = {
        "identifier": name,
        "endpoint": host,
        "port": port,
        "engine": told.get("Engine", ""),
        "version": told.get("EngineVersion"),
        "database": database,
    }
    return Listed(
        attributes={key: str(value) for key, value in known.items() if value is not None},
        tags=_tags(told.get("TagList", ())),
    )


def _tags(told: Iterable[Any]) -> dict[str, str]:
    return {tag["Key"]: tag.get("Value", "") for tag in told if "Key" in tag}
