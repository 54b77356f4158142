"""The entries of a plan's ``switch`` list as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from planrunner.model import Side
from planrunner.references import access, reference
from planrunner.units import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from planrunner.model import RdsInstance, SecretRef

_KEYS = ("host", "port", "dbname")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database's address as whoever is switched sees it; what is None is as the plan's DSN says."""

    host: str | None = None
    port: int | None = None
    dbname: str | None = None


@dataclass(frozen=True, kw_only=True)
class Places:
    """The addresses of both sides."""

    source: Place = field(default_factory=Place)
    target: Place = field(default_factory=Place)

    def of(self, side: Side) -> Place:
        """The address of one side."""
        return self.source if side is Side.SOURCE else self.target


@dataclass(frozen=True, kw_only=True)
class CommandTerms:
    """Commands as argument lists, empty where there is none; ``timeout`` in seconds, for each."""

    before_fence: tuple[str, ...]
    after_commit: tuple[str, ...]
    on_rollback: tuple[str, ...]
    timeout: float


@dataclass(frozen=True, kw_only=True)
class PgBouncerTerms:
    """One PgBouncer: its console, the entry, and the file that holds it or the ``command`` that changes it.

    ``timeout`` is how long PAUSE may wait for open transactions, in seconds.
    """

    admin: str
    password: SecretRef | None
    database: str
    config: Path | None
    command: tuple[str, ...]
    places: Places
    timeout: float


@dataclass(frozen=True, kw_only=True)
class Route53Terms:
    """A record of a hosted zone; ``ttl`` None keeps the record's own. ``timeout`` in seconds."""

    access: RdsInstance
    zone_id: str
    name: str
    type: str
    ttl: int | None
    source_value: str | None
    target_value: str | None
    timeout: float


@dataclass(frozen=True, kw_only=True)
class SecretsManagerTerms:
    """A JSON secret; ``keys`` leads from host, port and dbname to the members that hold them."""

    access: RdsInstance
    secret_id: str
    keys: Mapping[str, str]
    places: Places


Entry: TypeAlias = CommandTerms | PgBouncerTerms | Route53Terms | SecretsManagerTerms


def entries(given: Any, folder: Path) -> tuple[Entry, ...]:
    """The entries of a valid ``switch`` list; ``folder`` is the plan's, to which its files are relative."""
    return tuple(_entry(kind, options, folder) for each in given for kind, options in each.items())


def _entry(kind: str, options: Mapping[str, Any], folder: Path) -> Entry:
    match kind:
        case "command":
            return _command(options)
        case "pgbouncer":
            return _pgbouncer(options, folder)
        case "route53":
            return _route53(options)
        case "secretsmanager":
            return _secretsmanager(options)
        case _:
            raise AssertionError(f"the schema knows no switch {kind}")


def _command(options: Mapping[str, Any]) -> CommandTerms:
    return CommandTerms(
        before_fence=tuple(options.get("before_fence", ())),
        after_commit=tuple(options.get("after_commit", ())),
        on_rollback=tuple(options.get("on_rollback", ())),
        timeout=seconds(options.get("timeout", "30s")),
    )


def _pgbouncer(options: Mapping[str, Any], folder: Path) -> PgBouncerTerms:
    config, password = options["config"], options.get("password")
    return PgBouncerTerms(
        admin=options["admin"],
        password=reference(password["secret"], folder) if password else None,
        database=options["database"],
        config=folder / config if isinstance(config, str) else None,
        command=() if isinstance(config, str) else tuple(config["command"]),
        places=_places(options),
        timeout=seconds(options.get("timeout", "5s")),
    )


def _route53(options: Mapping[str, Any]) -> Route53Terms:
    return Route53Terms(
        access=access(options["zone_id"], options),
        zone_id=options["zone_id"],
        name=options["name"],
        type=options.get("type", "CNAME"),
        ttl=options.get("ttl"),
        source_value=options.get("source_value"),
        target_value=options.get("target_value"),
        timeout=seconds(options.get("timeout", "2m")),
    )


def _secretsmanager(options: Mapping[str, Any]) -> SecretsManagerTerms:
    keys: Mapping[str, str] = options.get("keys", {"host": "host", "port": "port"})
    return SecretsManagerTerms(
        access=access(options["secret_id"], options),
        secret_id=options["secret_id"],
        keys={name: keys[name] for name in _KEYS if name in keys},
        places=_places(options),
    )


def _places(options: Mapping[str, Any]) -> Places:
    return Places(source=_place(options.get("source")), target=_place(options.get("target")))


def _place(given: Mapping[str, Any] | None) -> Place:
    return Place(**given) if given else Place()
